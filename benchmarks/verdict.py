"""The verdict against the truth: fits whose errors are known, and what the report says of them.

Targets with exact moments in 1 to 20 dims (skewed, heavy, two scales, two modes, walls, bananas, correlated, funnels)
and the real posteriors with references, each by several guides. A fit is *bad* where a mean is off by over 0.3 sd, or a
log sd by over 0.35; half of the fits are held out: no limit was chosen by them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from benchmarks import machine
from benchmarks.posteriors import store
from benchmarks.posteriors.catalogue import ENTRIES
from vbppl.core.tables import label

BAD_MEAN, BAD_LOG_SD = 0.3, 0.35  # sds; logs of sds
SILENT, SILENT_LOG_SD = 1.0, np.log(2)  # the same: such a fit must never be called good
MENDED = 0.2  # sds, and logs of sds: the errors of corrected draws
DRAWS = 40_000
REAL = [entry.name for entry in ENTRIES if not entry.label]
GUIDES: dict[str, Any] = {"auto": "auto", "mean field": "mean_field", "full rank": "full_rank", "laplace": vb.Laplace()}


@dataclasses.dataclass(frozen=True)
class Known:
    """A posterior with means and sds of scalars that are known: `{label: (mean, sd)}`."""

    name: str
    model: Callable[[], vb.Model]
    scalars: dict[str, tuple[float, float]]


@vb.model
def gammas(shape):
    vb.sample("x", dist.Gamma(shape, jnp.ones_like(shape)).to_event(1))


@vb.model
def betas(a, b):
    vb.sample("x", dist.Beta(a, b).to_event(1))


@vb.model
def dirichlet(weights):
    vb.sample("w", dist.Dirichlet(weights))


@vb.model
def students(freedom, factor):
    """A multivariate t, which is no product: all coordinates are far out together."""
    z = vb.sample("x", dist.ImproperUniform(dist.constraints.real, (), (len(factor),)))
    squares = jnp.sum(jnp.linalg.solve(factor, z) ** 2)
    vb.factor("t", -(freedom + len(factor)) / 2 * jnp.log1p(squares / freedom))


@vb.model
def correlated(factor):
    vb.sample("x", dist.MultivariateNormal(jnp.zeros(len(factor)), scale_tril=factor))


@vb.model
def mixture(log_weights, locs, scales):
    """Normals in a row, each spherical: two scales, or two modes."""
    z = vb.sample("x", dist.ImproperUniform(dist.constraints.real, (), (locs.shape[1],)))
    each = dist.Normal(locs, scales[:, None]).log_prob(z).sum(axis=1)
    vb.factor("mixture", jnp.log(jnp.sum(jnp.exp(log_weights + each - each.max()))) + each.max())


@vb.model
def banana(bend, sd):
    x = vb.sample("x", dist.Normal(0.0, sd))
    vb.sample("y", dist.Normal(bend * (x**2 - sd**2), 1.0))


@vb.model
def funnel(sd, count):
    v = vb.sample("v", dist.Normal(0.0, sd))
    vb.sample("x", dist.Normal(jnp.zeros(count.shape), jnp.exp(v / 2)).to_event(1))


@vb.model
def wall(loc, scale):
    vb.sample("x", dist.TruncatedNormal(loc, scale, low=0.0).to_event(1))


def synthetic(held_out: bool = False) -> Iterator[Known]:
    """The targets with exact moments; those held out have other parameters."""
    rng = np.random.default_rng(20261127 + held_out)
    if held_out:
        yield from _others(rng)
        return
    for shape in (0.5, 1.0, 2.0, 5.0, 30.0):
        for dim in (1, 4, 15):
            yield _of(f"gamma {shape:g}, {dim}", gammas, [np.full(dim, shape)], shape, np.sqrt(shape))
    for a, b in ((0.5, 0.5), (1.0, 1.0), (2.0, 8.0), (0.7, 5.0), (30.0, 20.0)):
        for dim in (1, 6):
            known = stats.beta(a, b)
            yield _of(f"beta {a:g} {b:g}, {dim}", betas, [np.full(dim, a), np.full(dim, b)], known.mean(), known.std())
    for weight, dim in ((1.0, 3), (1.0, 12), (0.5, 6), (5.0, 20), (1.0, 30)):
        mean, share = 1 / dim, weight * dim
        sd = np.sqrt(mean * (1 - mean) / (share + 1))
        yield _of(f"dirichlet {weight:g}, {dim}", dirichlet, [np.full(dim, weight)], mean, sd, "w", dim)
    for freedom in (3.0, 4.0, 6.0, 10.0, 30.0):
        for dim in (1, 2, 8, 20):
            sd = np.sqrt(freedom / (freedom - 2))
            yield _of(f"student {freedom:g}, {dim}", students, [np.array(freedom), np.eye(dim)], 0.0, sd, "x", dim)
    for rho in (0.3, 0.6, 0.9, 0.99):
        for dim in (2, 5, 20):
            covariance = rho ** np.abs(np.subtract.outer(np.arange(dim), np.arange(dim)))
            yield _of(f"correlated {rho:g}, {dim}", correlated, [np.linalg.cholesky(covariance)], 0.0, 1.0, "x", dim)
    for weight, narrow in ((0.5, 0.1), (0.2, 0.1), (0.8, 0.2), (0.5, 0.5), (0.95, 0.05)):
        for dim in (1, 2, 5, 10):
            locs, scales = np.zeros((2, dim)), np.array([1.0, narrow])
            sd = np.sqrt((1 - weight) + weight * narrow**2)
            yield _of(
                f"two scales {weight:g} {narrow:g}, {dim}",
                mixture,
                [np.log([1 - weight, weight]), locs, scales],
                0.0,
                sd,
                "x",
                dim,
            )
    for weight, away in ((0.5, 2.0), (0.5, 6.0), (0.3, 12.0), (0.9, 5.0), (0.05, 24.0), (0.5, 30.0)):
        for dim in (1, 3, 10):
            locs = np.zeros((2, dim))
            locs[1] = rng.permutation(np.eye(dim)[0]) * away
            mean, variance = weight * locs[1], 1 + weight * (1 - weight) * locs[1] ** 2
            yield _of(
                f"two modes {weight:g} {away:g}, {dim}",
                mixture,
                [np.log([1 - weight, weight]), locs, np.ones(2)],
                mean,
                np.sqrt(variance),
                "x",
                dim,
            )
    for bend, sd in ((0.1, 1.0), (0.3, 1.0), (1.0, 1.0), (0.5, 2.0), (0.05, 3.0)):
        scalars = {"x": (0.0, sd), "y": (0.0, np.sqrt(1 + 2 * bend**2 * sd**4))}
        yield Known(f"banana {bend:g} {sd:g}", lambda b=bend, s=sd: banana(np.array(b), np.array(s)), scalars)
    for sd in (0.1, 0.3, 0.5, 1.0):
        for dim in (1, 5):
            scalars = {"v": (0.0, sd)} | {f"x[{i}]": (0.0, np.exp(sd**2 / 4)) for i in range(dim)}
            yield Known(f"funnel {sd:g}, {dim}", lambda s=sd, d=dim: funnel(np.array(s), np.zeros(d)), scalars)
    for loc in (-3.0, -1.0, 0.0, 1.0, 3.0):
        for dim in (1, 6):
            known = stats.truncnorm(-loc, np.inf, loc=loc)
            yield _of(f"wall {loc:g}, {dim}", wall, [np.full(dim, loc), np.ones(dim)], known.mean(), known.std())


def _others(rng: np.random.Generator) -> Iterator[Known]:
    """The same kinds at random parameters."""
    for number in range(12):
        shape, dim = float(np.exp(rng.uniform(-0.7, 3.5))), int(rng.integers(1, 16))
        yield _of(f"gamma #{number}", gammas, [np.full(dim, shape)], shape, np.sqrt(shape))
        a, b, dim = *map(float, np.exp(rng.uniform(-0.7, 3.0, 2))), int(rng.integers(1, 10))
        known = stats.beta(a, b)
        yield _of(f"beta #{number}", betas, [np.full(dim, a), np.full(dim, b)], known.mean(), known.std())
        weight, dim = float(np.exp(rng.uniform(-0.7, 2.0))), int(rng.integers(3, 25))
        sd = np.sqrt((1 - 1 / dim) / dim / (weight * dim + 1))
        yield _of(f"dirichlet #{number}", dirichlet, [np.full(dim, weight)], 1 / dim, sd, "w", dim)
        freedom, dim = float(rng.uniform(2.5, 20)), int(rng.integers(1, 21))
        sd = np.sqrt(freedom / (freedom - 2))
        yield _of(f"student #{number}", students, [np.array(freedom), np.eye(dim)], 0.0, sd, "x", dim)
        dim = int(rng.integers(2, 21))
        factor = rng.standard_normal((dim, dim)) + rng.uniform(0, 3) * np.eye(dim)
        factor = np.linalg.cholesky(factor @ factor.T)
        sds = np.sqrt((factor**2).sum(axis=1))
        yield _of(f"correlated #{number}", correlated, [factor], 0.0, sds, "x", dim)
        weight, narrow, dim = rng.uniform(0.1, 0.95), float(np.exp(rng.uniform(-3, -0.3))), int(rng.integers(1, 11))
        sd = np.sqrt((1 - weight) + weight * narrow**2)
        scales = [np.log([1 - weight, weight]), np.zeros((2, dim)), np.array([1.0, narrow])]
        yield _of(f"two scales #{number}", mixture, scales, 0.0, sd, "x", dim)
        weight, dim, locs = rng.uniform(0.05, 0.95), int(rng.integers(1, 11)), np.zeros((2, 10))
        locs[1] = rng.standard_normal(10)
        locs = locs[:, :dim] * rng.uniform(2, 40) / np.linalg.norm(locs[1, :dim])
        sd = np.sqrt(1 + weight * (1 - weight) * locs[1] ** 2)
        modes = [np.log([1 - weight, weight]), locs, np.ones(2)]
        yield _of(f"two modes #{number}", mixture, modes, weight * locs[1], sd, "x", dim)
        bend, sd = rng.uniform(0, 1), rng.uniform(0.5, 2)
        scalars = {"x": (0.0, sd), "y": (0.0, np.sqrt(1 + 2 * bend**2 * sd**4))}
        yield Known(f"banana #{number}", lambda b=bend, s=sd: banana(np.array(b), np.array(s)), scalars)
        loc, dim = rng.uniform(-4, 4), int(rng.integers(1, 10))
        known = stats.truncnorm(-loc, np.inf, loc=loc)
        yield _of(f"wall #{number}", wall, [np.full(dim, loc), np.ones(dim)], known.mean(), known.std())


def _of(
    name: str,
    model: Any,
    arguments: list[np.ndarray],
    mean: Any,
    sd: Any,
    site: str = "x",
    dim: int | None = None,
) -> Known:
    """A target one site of which has these means and sds."""
    dim = len(arguments[0]) if dim is None else dim
    means, sds = (np.broadcast_to(np.asarray(value, float), (dim,)) for value in (mean, sd))
    scalars = {f"{site}[{i}]": (float(m), float(s)) for i, (m, s) in enumerate(zip(means, sds))}
    return Known(name, lambda: model(*arguments), scalars)


def real() -> Iterator[Known]:
    """The real posteriors: the scalars whose sds a reference of finite length can tell."""
    known = store.load()
    for entry in ENTRIES:
        if entry.name in known and not (entry.file or entry.label):
            table = known[entry.name]["constrained"]
            lines = zip(table["names"], table["mean"], table["sd"])
            scalars = {n: (m, sd) for n, m, sd in lines if sd > 0 and n.partition("[")[0] not in entry.heavy}
            if scalars:
                yield Known(entry.name, entry.model, scalars)


@dataclasses.dataclass(frozen=True)
class Fit:
    """One fit, its errors and what was said of it."""

    name: str
    guide: str
    verdict: str
    mean: float
    log_sd: float
    corrected_mean: float
    corrected_log_sd: float
    gradients: int
    judged: int
    numbers: dict[str, float]
    reasons: tuple[str, ...]

    @property
    def bad(self) -> bool:
        return not (self.mean <= BAD_MEAN and self.log_sd <= BAD_LOG_SD)

    @property
    def silent(self) -> bool:
        return not (self.mean <= SILENT and self.log_sd <= SILENT_LOG_SD)

    @property
    def mended(self) -> bool:
        return self.corrected_mean <= MENDED and self.corrected_log_sd <= MENDED

    @property
    def held_out(self) -> bool:
        """Of synthetic targets those at random parameters, of the real posteriors every other."""
        return "#" in self.name or (self.name in REAL and REAL.index(self.name) % 2 == 1)


def measure(known: Known, guide: str) -> Fit:
    """Fit and compare."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = vb.fit(known.model(), GUIDES[guide])
        own = _errors(known, posterior.uncorrected().sample(DRAWS, seed=1), None)
        mended = (np.nan, np.nan)
        card = posterior.check()
        if card.verdict == "corrected":
            values = {name: posterior.mean()[name] for name in posterior.mean()}, posterior.sd()
            mended = _errors(known, *values)
    numbers = {
        "mean_error": card.mean_error.value,
        "mean_se": card.mean_error.se,
        "log_sd_error": card.log_sd_error.value,
        "log_sd_se": card.log_sd_error.se,
        "tail": card.tail.value,
        "ess": card.ess * len(card.draws),
        "k": card.pareto_k,
        "told_apart": card.told_apart,
    }
    return Fit(
        known.name,
        guide,
        card.verdict,
        *own,
        *mended,
        posterior.status.gradients,
        len(card.draws),
        numbers,
        card.reasons,
    )


def _errors(known: Known, first: Any, second: Any) -> tuple[float, float]:
    """The worst errors of draws, or of means and sds."""
    means, log_sds = [0.0], [0.0]
    table: dict[str, tuple[float, float]] = {}
    for site, value in first.items():
        value = np.asarray(value, np.float64)
        mean, sd = (value.mean(axis=0), value.std(axis=0)) if second is None else (value, np.asarray(second[site]))
        for index in np.ndindex(mean.shape):
            table[label(site, index)] = float(mean[index]), float(sd[index])
    for name, (mean, sd) in known.scalars.items():
        means.append(abs(table[name][0] - mean) / sd)
        log_sds.append(abs(np.log(max(table[name][1], 1e-300) / sd)))
    return float(np.max(means)), float(np.max(log_sds))


def matrix(fits: list[Fit]) -> str:
    """The confusion matrix, and the counts that the limits are there for."""
    verdicts = ("good", "corrected", "unknown", "poor")
    lines = ["| | " + " | ".join(verdicts) + " |", "|---|" + "--:|" * len(verdicts)]
    for title, some in (("right", [f for f in fits if not f.bad]), ("bad", [f for f in fits if f.bad])):
        counts = " | ".join(str(sum(f.verdict == v for f in some)) for v in verdicts)
        lines.append(f"| {title} ({len(some)}) | {counts} |")
    corrected = [f for f in fits if f.verdict == "corrected"]
    mended = sum(f.mended for f in corrected)
    silent = [f"{f.name} by {f.guide}" for f in fits if f.verdict == "good" and f.silent]
    lines += [
        "",
        f"Called good although a mean is off by over {SILENT:g} sd, or an sd by a factor 2: {_listed(silent)}.",
        f"Corrected answers within {MENDED:g} sd and {MENDED:g} log sd: {mended} of {len(corrected)}.",
    ]
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    return f"{len(names)}" + (f" ({'; '.join(names)})" if names else "")


def main(arguments: list[str]) -> None:
    """Fit all, print the matrices."""
    parser = argparse.ArgumentParser("python -m benchmarks verdict", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="targets whose names hold this")
    parser.add_argument("--part", default="0/1", help="this part of so many: 0/2 and 1/2 in two processes")
    parser.add_argument("--json", type=Path, help="where the fits are kept, a line each; they are not fitted again")
    options = parser.parse_args(arguments)
    part, parts = map(int, options.part.split("/"))
    fits = _read(options.json)
    done = {(fit.name, fit.guide) for fit in fits}
    every = [
        (known, guide)
        for known in (*synthetic(), *real(), *synthetic(held_out=True))
        for guide in GUIDES
        if options.only in known.name
    ]
    for number, (known, guide) in enumerate(every):
        if number % parts != part or (known.name, guide) in done:
            continue
        try:
            fit = measure(known, guide)
        except vb.ModelError as error:  # a refusal is no verdict
            print(f"{known.name}, {guide}: refused: {error}", file=sys.stderr)
            continue
        fits.append(fit)
        mark = " SILENT" if fit.verdict == "good" and fit.bad else ""
        print(f"{fit.name}, {guide}: {fit.verdict}; {fit.mean:.2f} sd, {fit.log_sd:.2f} log sd{mark}", file=sys.stderr)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            with options.json.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(fit)) + "\n")
    chosen, held = [f for f in fits if not f.held_out], [f for f in fits if f.held_out]
    for title, some in (("limits chosen on", chosen), ("held out", held), ("all", fits)):
        print(f"\n{title}, {len(some)} fits\n\n{matrix(some)}")
    print(f"\n{machine.described()}")


def _read(path: Path | None) -> list[Fit]:
    if path is None or not path.exists():
        return []
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [Fit(**{**line, "reasons": tuple(line["reasons"])}) for line in lines]
