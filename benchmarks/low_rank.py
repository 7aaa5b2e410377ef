"""Which way to fit a low-rank Gaussian measures best: nats lost against gradients and CPU time.

Six posteriors of 600 to 1,002 dimensions; every way starts from the same mean-field optimum. The loss is the bound
on fresh draws below that of the best full-rank Gaussian: the evidence itself where the density is Gaussian, else the
end of a full-rank fit by natural-gradient steps. The ways:

- `turned`: what vbppl does (`inference/deterministic/low_rank.py`): directions by curvature, the rest by L-BFGS on
  matched draws;
- `free`: L-BFGS over everything, directions `W` too, with `z = loc + sd (e + W w)` and 64 fixed draws of `(e, w)`
  whose signs are crossed, so that `e` and `w` have no moment in common: NumPyro's family, bounded on any draws;
- `naive`: the same without the crossing;
- `adam`: 2,000 steps of 8 fresh draws over vbppl's family, annealed from 0.05: what a stochastic fit does;
- `batch and match`: 60 steps of 32 draws, the covariance patched to `diagonal + W W^T` after each by 10 steps of EM for
  factor analysis (Modi, Cai and Saul 2025, "Batch, match, and patch");
- `full rank`: natural-gradient steps on `2 dim` whitened draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import machine
from vbppl.core.numerics import lbfgs, natural_gradient
from vbppl.core.numerics.draws import fresh_draws, latin_hypercube, normal_draws, whitened_draws
from vbppl.core.numerics.lanczos import Density, Normal
from vbppl.core.watch import Watch, last
from vbppl.inference.deterministic.low_rank import Search

RANK = 10
HEAD = "| posterior | dims | way | rank | nats lost | gradients | CPU s |\n|---|--:|---|--:|--:|--:|--:|"


class Counted:
    """A density that counts how often it is asked."""

    def __init__(self, density: Density):
        self.density, self.gradients = density, 0

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The log densities and gradients at `z`."""
        self.gradients += len(z)
        return self.density(z)


def gaussian(precision: np.ndarray) -> Density:
    """A normal density, normalised, so that its evidence is one."""
    constant = (np.linalg.slogdet(precision)[1] - len(precision) * np.log(2 * np.pi)) / 2
    return lambda z: (constant - ((z @ precision) * z).sum(axis=1) / 2, -z @ precision)


def logistic(dim: int, rows: int) -> Density:
    """A logistic regression whose columns share ten factors."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, dim)) + rng.standard_normal((rows, 10)) @ rng.standard_normal((10, dim)) / 2
    x /= np.sqrt(dim)
    y = np.where(rng.random(rows) < 1 / (1 + np.exp(-x @ rng.standard_normal(dim))), 1.0, -1.0)

    def density(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        margin = (z @ x.T) * y
        log_p = -np.logaddexp(0, -margin).sum(axis=1) - (z**2).sum(axis=1) / 2
        return log_p, (y / (1 + np.exp(np.minimum(margin, 500)))) @ x - z

    return density


def poisson(groups: int) -> Density:
    """Counts in groups with a common mean and scale: `z` is `(mu, log tau, rates)`."""
    rng = np.random.default_rng(4)
    total = rng.poisson(np.exp(1 + 0.5 * rng.standard_normal(groups))[:, None], (groups, 2)).sum(axis=1)

    def density(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mu, log_tau, rate = z[:, 0], z[:, 1], z[:, 2:]
        tau2, away, expected = np.exp(2 * log_tau), rate - mu[:, None], 2 * np.exp(np.minimum(rate, 50))
        square = (away**2).sum(axis=1) / tau2
        prior = -(mu**2) / 8 - tau2 / 2 + log_tau
        log_p = prior - square / 2 - groups * log_tau + (total * rate - expected).sum(axis=1)
        slopes = (-mu / 4 + away.sum(axis=1) / tau2, 1 - tau2 + square - groups)
        return log_p, np.concatenate([np.stack(slopes, axis=1), total - expected - away / tau2[:, None]], axis=1)

    return density


def posteriors() -> dict[str, tuple[Density, int, float | None]]:
    """By name: the density, its dimensions, and its log evidence if it is Gaussian."""
    rng = np.random.default_rng(0)
    dim, scale = 1000, 10 ** rng.uniform(-2, 2, 1000)
    loadings = rng.standard_normal((dim, 5))
    factors = np.linalg.inv(np.diag(np.exp(rng.uniform(-1, 1, dim))) + loadings @ loadings.T) / np.outer(scale, scale)
    rows = rng.standard_normal((40, 600))
    walk = np.diag(np.full(800, 2.09)) - np.eye(800, k=1) - np.eye(800, k=-1)
    points = np.linspace(0, 10, 800)
    kernel = np.exp(-((points[:, None] - points) ** 2) / 2)
    process = np.linalg.inv(kernel + 0.01 * np.eye(800)) + np.eye(800)
    return {
        "5 common factors": (gaussian(factors), dim, 0.0),
        "regression, 40 rows": (gaussian(np.eye(600) + 4 * rows.T @ rows), 600, 0.0),
        "random walk": (gaussian(walk), 800, 0.0),
        "smooth process": (gaussian(process), 800, 0.0),
        "logistic regression": (logistic(600, 1200), 600, None),
        "Poisson groups": (poisson(1000), 1002, None),
    }


def mean_field(density: Density, dim: int) -> Normal:
    """The mean-field optimum on 256 draws."""
    noise = latin_hypercube(np.random.default_rng(0), 256, dim)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        loc, log_sd = np.split(x, 2)
        spread = np.exp(log_sd) * noise
        log_p, slope = density(loc + spread)
        slopes = [slope.mean(axis=0), (slope * spread).mean(axis=0) + 1]
        return float(-log_p.mean() - log_sd.sum()), -np.concatenate(slopes)

    x = np.concatenate([np.zeros(dim), np.full(dim, np.log(0.1))])
    metric = lambda x: np.concatenate([np.exp(2 * x[dim:]), np.full(dim, 0.5)])  # noqa: E731
    return Normal.mean_field(*np.split(minimise(function, x, metric), 2))


def minimise(function: Callable, x: np.ndarray, metric: Callable, steps: int = 200) -> np.ndarray:
    """L-BFGS to 1e-3 nats, in one lane."""

    def one(x: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [function(row) for row in x]
        return np.array([value for value, _ in found]), np.array([slope for _, slope in found]).reshape(x.shape)

    def metrics(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return np.array([metric(row) for row in x]).reshape(x.shape)

    def longest(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return 2 / np.maximum(np.abs(direction[:, direction.shape[1] // 2 :]).max(axis=1), 1e-300)

    return lbfgs.minimise(one, x[None], metrics, rounding, 1e-3, steps, longest).x[0]


def rounding(value: Any) -> Any:
    """In float64, for one or many lanes."""
    return 16 * float(np.finfo(float).eps) * np.maximum(np.abs(value), 1.0)


# Each way takes a density, a mean-field optimum and a rank, and returns a factor of the covariance and the mean.
Found = tuple[np.ndarray, np.ndarray]


def turned(density: Density, start: Normal, rank: int | None) -> Found:
    """What vbppl does."""
    search = Search(density, start, rank, np.random.default_rng(1), rounding)
    at = last(search.rounds(), search.first, Watch())[0].at
    return at.loc, dense(at)


def dense(at: Normal) -> np.ndarray:
    """`L` as a matrix."""
    inner = (at.directions * np.expm1(at.stretch)) @ at.directions.T
    return np.exp(at.log_sd)[:, None] * (np.eye(len(at.loc)) + inner)


def free(density: Density, start: Normal, rank: int | None, crossed: bool = True) -> Found:
    """L-BFGS over `(loc, log sd, W)`."""
    dim, rank, rng = len(start.loc), rank or 64, np.random.default_rng(1)
    count = max(32, 2 * rank) if crossed else 2 * max(32, 2 * rank)
    e, w = whitened_draws(rng, count, dim), whitened_draws(rng, count, rank)
    if crossed:
        e, w = np.concatenate([e, e]), np.concatenate([w, -w])

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        loc, log_sd, wide = x[:dim], x[dim : 2 * dim], x[2 * dim :].reshape(rank, dim)
        sd = np.exp(log_sd)
        spread = sd * (e + w @ wide)
        log_p, slope = density(loc + spread)
        sign, log_det = np.linalg.slogdet(inner := np.eye(rank) + wide @ wide.T)
        slopes = (slope.mean(axis=0), (slope * spread).mean(axis=0) + 1)
        widening = w.T @ (slope * sd) / len(w) + np.linalg.solve(inner, wide)
        return float(-log_p.mean() - log_sd.sum() - log_det / 2), -np.concatenate([*slopes, widening.ravel()])

    first = rng.standard_normal((rank, dim)) / np.sqrt(dim)
    x = np.concatenate([start.loc, start.log_sd, first.ravel()])
    metric = lambda x: np.concatenate([np.exp(2 * x[dim : 2 * dim]), np.full(dim + rank * dim, 0.5)])  # noqa: E731
    x = minimise(function, x, metric)
    return x[:dim], root(x[dim : 2 * dim], x[2 * dim :].reshape(rank, dim))


def root(log_sd: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """A factor of `diag(sd) (I + W^T W) diag(sd)`."""
    _, values, vectors = np.linalg.svd(wide, full_matrices=False)
    inner = np.eye(len(log_sd)) + (vectors.T * (np.sqrt(1 + values**2) - 1)) @ vectors
    return np.exp(log_sd)[:, None] * inner


def naive(density: Density, start: Normal, rank: int | None) -> Found:
    """As `free`, without the crossing of signs."""
    return free(density, start, rank, crossed=False)


def adam(density: Density, start: Normal, rank: int | None) -> Found:
    """Adam over `(x, log sd, W, c)`, with the gradient in `W` by hand as in `low_rank.bound_on`."""
    dim, rank, rng = len(start.loc), rank or 64, np.random.default_rng(1)
    x = np.concatenate([np.zeros(dim), start.log_sd, np.zeros(rank), rng.standard_normal(rank * dim)])
    moment, square, steps, sd = 0 * x, 0 * x, 2000, np.exp(start.log_sd)
    for step in range(1, steps + 1):
        slope = _adam_slope(density, start, sd, x, rank, whitened_draws(rng, 8, dim))
        moment, square = 0.9 * moment + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        rate = 0.05 * (0.01 + 0.99 * (1 + np.cos(np.pi * step / steps)) / 2)
        x = x + rate * moment / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    directions = np.linalg.qr(x[2 * dim + rank :].reshape(dim, rank))[0]
    at = Normal(start.loc + sd * x[:dim], x[dim : 2 * dim], directions, x[2 * dim : 2 * dim + rank])
    return at.loc, dense(at)


def _adam_slope(
    density: Density, start: Normal, sd: np.ndarray, x: np.ndarray, rank: int, noise: np.ndarray
) -> np.ndarray:
    dim = len(sd)
    directions, upper = np.linalg.qr(x[2 * dim + rank :].reshape(dim, rank))
    at = Normal(start.loc + sd * x[:dim], x[dim : 2 * dim], directions, x[2 * dim : 2 * dim + rank])
    spread = at.factor_times(noise)
    slope = density(at.loc + spread)[1]
    scaled, widened = np.exp(at.log_sd) * slope, np.expm1(at.stretch)
    out, back = noise @ directions, scaled @ directions
    turn = (scaled.T @ (out * widened) + noise.T @ (back * widened)) / len(noise)
    inner = -turn.T @ directions
    turn = np.linalg.solve(upper, (turn + directions @ (np.tril(inner) + np.tril(inner, -1).T)).T).T
    stretching = (back * out).mean(axis=0) * np.exp(at.stretch) + 1
    parts = (sd * slope.mean(axis=0), (slope * spread).mean(axis=0) + 1, stretching, turn.ravel())
    return np.concatenate(parts)


def batch_and_match(density: Density, start: Normal, rank: int | None) -> Found:
    """Batch and Match with a patched covariance, from the mean-field optimum."""
    dim, rank, rng, batch = len(start.loc), rank or 64, np.random.default_rng(1), 32
    loc, psi, wide = start.loc, np.exp(2 * start.log_sd), np.zeros((dim, rank))
    for step in range(60):
        rate = batch * dim / (step + 1)
        z = loc + np.sqrt(psi) * normal_draws(rng, batch, dim) + normal_draws(rng, batch, rank) @ wide.T
        slope = density(z)[1]
        mean, slope_mean = z.mean(axis=0), slope.mean(axis=0)
        # U = Q Q^T and V = psi + R R^T, both of low rank.
        q = np.column_stack([(slope - slope_mean).T * np.sqrt(rate / batch), np.sqrt(rate / (1 + rate)) * slope_mean])
        between = np.sqrt(rate / (1 + rate)) * (loc - mean)
        r = np.column_stack([wide, (z - mean).T * np.sqrt(rate / batch), between])
        vq = psi[:, None] * q + r @ (r.T @ q)
        values, vectors = np.linalg.eigh(np.eye(q.shape[1]) / 4 + q.T @ vq)
        middle = np.eye(q.shape[1]) / 2 + (vectors * np.sqrt(np.maximum(values, 0.25))) @ vectors.T
        # Sigma = V - V Q (1/2 I + (Q^T V Q + 1/4 I)^1/2)^-2 Q^T V
        taken = np.linalg.solve(middle, vq.T).T
        sigma_slope = psi * slope_mean + r @ (r.T @ slope_mean) - taken @ (taken.T @ slope_mean)
        loc = loc / (1 + rate) + rate / (1 + rate) * (sigma_slope + mean)
        psi, wide = patch(psi, r, taken, wide, rng if step == 0 else None)
    return loc, root(np.log(psi) / 2, (wide / np.sqrt(psi)[:, None]).T)


def patch(
    psi: np.ndarray, plus: np.ndarray, minus: np.ndarray, wide: np.ndarray, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """EM for factor analysis of `S = diag(psi) + plus plus^T - minus minus^T`, from `wide`."""
    old, diagonal = psi, np.maximum(psi + (plus**2).sum(axis=1) - (minus**2).sum(axis=1), 1e-300)
    if rng is not None:  # loadings of zero would stay so
        wide = 0.1 * np.sqrt(diagonal)[:, None] * rng.standard_normal(wide.shape) / np.sqrt(wide.shape[1])
    for _ in range(10):
        scaled = wide / psi[:, None]
        inner = np.eye(wide.shape[1]) + wide.T @ scaled
        beta = np.linalg.solve(inner, scaled.T).T
        s_beta = old[:, None] * beta + plus @ (plus.T @ beta) - minus @ (minus.T @ beta)
        second = np.eye(wide.shape[1]) - beta.T @ wide + beta.T @ s_beta
        wide = np.linalg.solve(second.T, s_beta.T).T
        psi = np.maximum(diagonal - np.sum(wide * s_beta, axis=1), 1e-6 * diagonal)
    return psi, wide


def full_rank(density: Density, start: Normal, rank: int | None) -> Found:
    """Natural-gradient steps, in one lane."""
    dim = len(start.loc)
    noise = whitened_draws(np.random.default_rng(1), 2 * dim, dim)[None]

    def one(z: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p, slope = density(z.reshape(-1, dim))
        return log_p.reshape(z.shape[:2]), slope.reshape(z.shape)

    first = natural_gradient.evaluate(
        one, start.loc[None], np.diag(np.exp(start.log_sd))[None], noise, np.zeros(1, int)
    )
    end = natural_gradient.ascend(one, first, noise, rounding, np.array([1e-3]))
    return end.loc[0], end.factor[0]


def bound(density: Density, loc: np.ndarray, factor: np.ndarray) -> tuple[float, float]:
    """On fresh draws, the same for every way: the mean and its standard error."""
    rng, dim = np.random.default_rng(7), len(loc)
    constant = np.linalg.slogdet(factor)[1] + dim / 2 * (1 + np.log(2 * np.pi))
    means = [density(loc + fresh_draws(rng, 512, dim) @ factor.T)[0].mean() + constant for _ in range(4)]
    return float(np.mean(means)), float(np.std(means, ddof=1) / 2)


WAYS = (turned, free, naive, adam, batch_and_match)


def row(name: str, density: Density, start: Normal, way: Callable, rank: int | None, best: float) -> str:
    """A line of the table."""
    counted, began = Counted(density), time.process_time()
    with np.errstate(all="ignore"):
        try:
            loc, factor = way(counted, start, rank)
            value, se = bound(density, loc, factor)
        except np.linalg.LinAlgError:  # of matrices that are not finite
            value, se = np.nan, np.nan
    seconds = time.process_time() - began
    lost = f"{best - value:.2f} ± {se:.2f}" if np.isfinite(value) else "diverged"
    words = way.__name__.replace("_", " ")
    return (
        f"| {name} | {len(start.loc)} | {words} | {rank or 'auto'} | {lost} | {counted.gradients:,} | {seconds:.1f} |"
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks low_rank", description=__doc__.partition("\n")[0])
    parser.add_argument("--posterior", default="", help="only those whose name contains this")
    parser.add_argument("--ways", default=",".join(way.__name__ for way in WAYS))
    options = parser.parse_args(arguments)
    print(f"{machine.described()}\n\n{HEAD}", flush=True)
    for name, (density, dim, best) in posteriors().items():
        if options.posterior not in name:
            continue
        counted = Counted(density)
        with np.errstate(all="ignore"):
            start = mean_field(counted, dim)
            best = bound(density, *full_rank(density, start, None))[0] if best is None else best
        lost = best - bound(density, start.loc, dense(start))[0]
        print(f"| {name} | {dim} | mean field | | {lost:.2f} | {counted.gradients:,} | |")
        print(row(name, density, start, full_rank, dim, best), flush=True)
        print(row(name, density, start, turned, None, best), flush=True)
        for way in WAYS:
            if way.__name__ in options.ways.split(","):
                print(row(name, density, start, way, RANK, best), flush=True)
