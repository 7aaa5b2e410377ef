"""Kinds of models from Stan's examples, each against NUTS on a density written independently.

What Stan's programs (https://github.com/stan-dev/example-models; the file is named beside each) sum out or transform by
hand is stated here as it is meant: discrete sites, scans, censored and truncated distributions. Data are small and
simulated, or an example's own. No draws are stored there, so the reference is NumPyro's NUTS, 1,000 + 4,000, on the
density as Stan's program writes it, with sums over what is discrete by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

import vbppl as vb
import vbppl.distributions as dist
from benchmarks import machine
from benchmarks.posteriors.table import RIGHT, RIGHT_LOG_SD

rng = np.random.default_rng(1)


@vb.model
def change_point(y):
    early, late = (vb.sample(name, dist.Exponential(0.3)) for name in ("early", "late"))
    s = vb.sample("s", dist.DiscreteUniform(0, len(y) - 1))
    with vb.plate("year", len(y)):
        vb.sample("y", dist.Poisson(jnp.where(np.arange(len(y)) < s, early, late)), obs=y)


def change_point_by_hand(lib, d, y):
    early, late = (lib.sample(name, d.Exponential(0.3)) for name in ("early", "late"))
    before = np.arange(len(y)) < np.arange(len(y))[:, None]
    each = jnp.sum(d.Poisson(jnp.where(before, early, late)).log_prob(y), axis=1)
    lib.factor("y", logsumexp(each) - np.log(len(y)))


@vb.model
def capture_recapture(caught):
    phi, p = (vb.sample(name, dist.Uniform(0.0, 1.0)) for name in ("phi", "p"))
    with vb.plate("animal", caught.shape[1]):

        def step(alive, seen):
            alive = vb.sample("alive", dist.Bernoulli(phi * alive))
            vb.sample("seen", dist.Bernoulli(p * alive), obs=seen)
            return alive, None

        vb.scan(step, jnp.ones(caught.shape[1], int), caught)


def capture_recapture_by_hand(lib, d, caught):
    """By the chance never to be seen again, chi, as Stan's program has it."""
    phi, p = (lib.sample(name, d.Uniform(0.0, 1.0)) for name in ("phi", "p"))
    chi = [1.0]
    for _ in range(len(caught)):
        chi.append((1 - phi) + phi * (1 - p) * chi[-1])
    last = np.max(np.where(caught == 1, np.arange(1, len(caught) + 1)[:, None], 0), axis=0)
    times = caught.sum(axis=0)
    rest = jnp.log(jnp.stack(chi))[len(caught) - last]
    lib.factor("y", jnp.sum(last * jnp.log(phi) + times * jnp.log(p) + (last - times) * jnp.log1p(-p) + rest))


@vb.model
def occupancy(y):
    psi, p = (vb.sample(name, dist.Uniform(0.0, 1.0)) for name in ("psi", "p"))
    with vb.plate("site", len(y), dim=-2):
        z = vb.sample("z", dist.Bernoulli(psi))
        with vb.plate("visit", y.shape[1]):
            vb.sample("y", dist.Bernoulli(p * z), obs=y)


def occupancy_by_hand(lib, d, y):
    psi, p = (lib.sample(name, d.Uniform(0.0, 1.0)) for name in ("psi", "p"))
    seen, visits = y.sum(axis=1), y.shape[1]
    there = jnp.log(psi) + seen * jnp.log(p) + (visits - seen) * jnp.log1p(-p)
    lib.factor("y", jnp.sum(jnp.where(seen > 0, there, jnp.logaddexp(there, jnp.log1p(-psi)))))


@vb.model
def zero_inflated(y):
    theta = vb.sample("theta", dist.Beta(1.0, 1.0))
    rate = vb.sample("rate", dist.Gamma(2.0, 0.5))
    with vb.plate("row", len(y)):
        absent = vb.sample("absent", dist.Bernoulli(theta))
        vb.sample("y", dist.Poisson(jnp.where(absent, 0.0, rate)), obs=y)


def zero_inflated_by_hand(lib, d, y):
    theta = lib.sample("theta", d.Beta(1.0, 1.0))
    rate = lib.sample("rate", d.Gamma(2.0, 0.5))
    some = jnp.log1p(-theta) + y * jnp.log(rate) - rate - jax.scipy.special.gammaln(y + 1.0)
    lib.factor("y", jnp.sum(jnp.where(y == 0, jnp.logaddexp(jnp.log(theta), some), some)))


@vb.model
def raters(y):
    items, each = y.shape
    pi = vb.sample("pi", dist.Dirichlet(3.0 * np.ones(3)))
    with vb.plate("rater", each, dim=-2), vb.plate("class", 3, dim=-1):
        theta = vb.sample("theta", dist.Dirichlet(1.0 + 4.0 * np.eye(3)))
    with vb.plate("item", items, dim=-2):
        z = vb.sample("z", dist.Categorical(pi))
        with vb.plate("answer", each, dim=-1):
            vb.sample("y", dist.Categorical(theta[np.arange(each), z]), obs=y)


def raters_by_hand(lib, d, y):
    pi = lib.sample("pi", d.Dirichlet(3.0 * np.ones(3)))
    with lib.plate("rater", y.shape[1], dim=-2), lib.plate("class", 3, dim=-1):
        theta = lib.sample("theta", d.Dirichlet(1.0 + 4.0 * np.eye(3)))
    said = jnp.log(theta)[np.arange(y.shape[1])[None], :, y]  # items, raters, classes
    lib.factor("y", jnp.sum(logsumexp(jnp.log(pi) + said.sum(axis=1), axis=1)))


@vb.model
def ordinal(x, y):
    beta = vb.sample("beta", dist.Normal(np.zeros(2), 2.0).to_event(1))
    cuts = vb.sample("cuts", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
    vb.factor("cuts_prior", jnp.sum(dist.Normal(0.0, 3.0).log_prob(cuts)))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.OrderedLogistic(x @ beta, cuts), obs=y)


def ordinal_by_hand(lib, d, x, y):
    beta = lib.sample("beta", d.Normal(np.zeros(2), 2.0).to_event(1))
    cuts = lib.sample("cuts", d.ImproperUniform(d.constraints.ordered_vector, (), (3,)))
    lib.factor("cuts_prior", jnp.sum(norm.logpdf(cuts, 0.0, 3.0)))
    above = jnp.pad(jax.nn.sigmoid((x @ beta)[:, None] - cuts), ((0, 0), (1, 0)), constant_values=1.0)
    chance = above - jnp.pad(above[:, 1:], ((0, 0), (0, 1)))
    lib.factor("y", jnp.sum(jnp.log(chance[np.arange(len(y)), y])))


@vb.model
def censored(y, is_censored):
    mu = vb.sample("mu", dist.Normal(0.0, 10.0))
    sigma = vb.sample("sigma", dist.HalfNormal(5.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.RightCensoredDistribution(dist.Normal(mu, sigma), is_censored), obs=y)


def censored_by_hand(lib, d, y, is_censored):
    mu = lib.sample("mu", d.Normal(0.0, 10.0))
    sigma = lib.sample("sigma", d.HalfNormal(5.0))
    lib.factor("y", jnp.sum(jnp.where(is_censored, norm.logcdf(-(y - mu) / sigma), norm.logpdf(y, mu, sigma))))


@vb.model
def truncated(y):
    mu = vb.sample("mu", dist.Normal(0.0, 10.0))
    sigma = vb.sample("sigma", dist.HalfNormal(5.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.RightTruncatedDistribution(dist.Normal(mu, sigma), 2.0), obs=y)


def truncated_by_hand(lib, d, y):
    mu = lib.sample("mu", d.Normal(0.0, 10.0))
    sigma = lib.sample("sigma", d.HalfNormal(5.0))
    lib.factor("y", jnp.sum(norm.logpdf(y, mu, sigma) - norm.logcdf((2.0 - mu) / sigma)))


@vb.model
def wishart(scale):
    vb.sample("w", dist.Wishart(7.0, scale_matrix=scale))


def wishart_by_hand(lib, d, scale):
    w = lib.sample("w", d.ImproperUniform(d.constraints.positive_definite, (), (3, 3)))
    lib.factor("density", 0.5 * (7 - 4) * jnp.linalg.slogdet(w)[1] - 0.5 * jnp.trace(jnp.linalg.solve(scale, w)))


@vb.model
def multivariate(y):
    mu = vb.sample("mu", dist.Normal(np.zeros(3), 5.0).to_event(1))
    sd = vb.sample("sd", dist.HalfNormal(np.full(3, 3.0)).to_event(1))
    corr = vb.sample("corr", dist.LKJCholesky(3, 2.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.MultivariateNormal(mu, scale_tril=sd[:, None] * corr), obs=y)


def multivariate_by_hand(lib, d, y):
    mu = lib.sample("mu", d.Normal(np.zeros(3), 5.0).to_event(1))
    sd = lib.sample("sd", d.HalfNormal(np.full(3, 3.0)).to_event(1))
    corr = lib.sample("corr", d.LKJCholesky(3, 2.0))
    lower = sd[:, None] * corr
    z = jax.scipy.linalg.solve_triangular(lower, (y - mu).T, lower=True)
    lib.factor("y", -0.5 * jnp.sum(z**2) - len(y) * jnp.sum(jnp.log(jnp.diag(lower))))


@vb.model
def spatial(neighbours, y, exposure):
    b = vb.sample("b", dist.Normal(0.0, 2.0))
    tau = vb.sample("tau", dist.Gamma(2.0, 1.0))
    alpha = vb.sample("alpha", dist.Uniform(0.0, 1.0))
    phi = vb.sample("phi", dist.CAR(jnp.zeros(len(y)), alpha, tau, neighbours))
    with vb.plate("area", len(y)):
        vb.sample("y", dist.Poisson(exposure * jnp.exp(b + phi)), obs=y)


def spatial_by_hand(lib, d, neighbours, y, exposure):
    b = lib.sample("b", d.Normal(0.0, 2.0))
    tau = lib.sample("tau", d.Gamma(2.0, 1.0))
    alpha = lib.sample("alpha", d.Uniform(0.0, 1.0))
    phi = lib.sample("phi", d.ImproperUniform(d.constraints.real_vector, (), (len(y),)))
    precision = tau * (np.diag(neighbours.sum(axis=1)) - alpha * neighbours)
    lib.factor("phi_prior", 0.5 * jnp.linalg.slogdet(precision)[1] - 0.5 * phi @ precision @ phi)
    lib.factor("y", jnp.sum(y * (b + phi) - exposure * jnp.exp(b + phi)))


@vb.model
def volatility(y):
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    phi = vb.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = vb.sample("sigma", dist.LogNormal(-1.0, 0.5))

    def step(h, x):
        is_first, value = x
        loc, scale = (
            mu + jnp.where(is_first, 0.0, phi * (h - mu)),
            jnp.where(is_first, sigma / jnp.sqrt(1 - phi**2), sigma),
        )
        h = vb.sample("h", dist.Normal(loc, scale))
        vb.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=value)
        return h, None

    vb.scan(step, 0.0, (np.arange(len(y)) == 0, y))


def volatility_by_hand(lib, d, y):
    mu = lib.sample("mu", d.Normal(0.0, 2.0))
    phi = lib.sample("phi", d.Uniform(-1.0, 1.0))
    sigma = lib.sample("sigma", d.LogNormal(-1.0, 0.5))
    z = lib.sample("z", d.Normal(np.zeros(len(y)), 1.0).to_event(1))  # the innovations
    _, h = jax.lax.scan(lambda h, e: (phi * h + sigma * e,) * 2, sigma * z[0] / jnp.sqrt(1 - phi**2), z[1:])
    h = lib.deterministic("h", mu + jnp.append(sigma * z[0] / jnp.sqrt(1 - phi**2), h))
    lib.deterministic("log_det", len(y) * jnp.log(sigma) - 0.5 * jnp.log1p(-(phi**2)))  # log |dh/dz|
    lib.factor("y", jnp.sum(norm.logpdf(y, 0.0, jnp.exp(h / 2))))


@vb.model
def overdispersed(x, y):
    beta = vb.sample("beta", dist.Normal(np.zeros(2), 2.0).to_event(1))
    phi = vb.sample("phi", dist.HalfCauchy(2.5))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.NegativeBinomial2(jnp.exp(x @ beta), phi), obs=y)


def overdispersed_by_hand(lib, d, x, y):
    beta = lib.sample("beta", d.Normal(np.zeros(2), 2.0).to_event(1))
    phi = lib.sample("phi", d.HalfCauchy(2.5))
    p = phi / (phi + jnp.exp(x @ beta))
    gammaln = jax.scipy.special.gammaln
    lib.factor("y", jnp.sum(gammaln(y + phi) - gammaln(phi) + phi * jnp.log(p) + y * jnp.log1p(-p)))


@vb.model
def mixture(y):
    mu = vb.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
    vb.factor("mu_prior", jnp.sum(dist.Normal(0.0, 5.0).log_prob(mu)))
    w = vb.sample("w", dist.Dirichlet(2.0 * np.ones(3)))
    sigma = vb.sample("sigma", dist.HalfNormal(2.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(w))
        vb.sample("y", dist.Normal(mu[z], sigma), obs=y)


def mixture_by_hand(lib, d, y):
    mu = lib.sample("mu", d.ImproperUniform(d.constraints.ordered_vector, (), (3,)))
    lib.factor("mu_prior", jnp.sum(norm.logpdf(mu, 0.0, 5.0)))
    w = lib.sample("w", d.Dirichlet(2.0 * np.ones(3)))
    sigma = lib.sample("sigma", d.HalfNormal(2.0))
    lib.factor("y", jnp.sum(logsumexp(jnp.log(w) + norm.logpdf(y[:, None], mu, sigma), axis=1)))


def _histories(animals: int, occasions: int) -> np.ndarray:
    alive, seen = np.ones(animals, int), []
    for _ in range(occasions):
        alive = alive * (rng.random(animals) < 0.75)
        seen.append(alive * (rng.random(animals) < 0.5))
    return np.stack(seen)


def _ratings() -> np.ndarray:
    truth = rng.choice(3, 40, p=[0.5, 0.3, 0.2])
    return np.stack([np.where(rng.random(40) < right, truth, rng.integers(0, 3, 40)) for right in (0.9, 0.7, 0.6)], 1)


def _returns(n: int) -> np.ndarray:
    h, e = [0.0], rng.normal(size=n)
    for each in e:
        h.append(0.9 * h[-1] + 0.5 * each)
    return np.exp(np.array(h[1:]) / 2) * rng.normal(size=n)


X = rng.normal(size=(80, 2))
LATENT = rng.normal(1.0, 2.0, 60)
LINE = np.diag(np.ones(11), 1) + np.diag(np.ones(11), -1)

KINDS: dict[str, tuple[str, Any, Callable, tuple]] = {
    "change point": (
        "users' guide",
        change_point,
        change_point_by_hand,
        (rng.poisson(np.repeat([3.0, 1.0], [18, 22])),),
    ),
    "Cormack-Jolly-Seber": ("BPA/Ch.07/cjs_c_c", capture_recapture, capture_recapture_by_hand, (_histories(60, 6),)),
    "occupancy": (
        "BPA/Ch.13/site-occ",
        occupancy,
        occupancy_by_hand,
        ((rng.random((50, 1)) < 0.6) * rng.binomial(1, 0.4, (50, 4)),),
    ),
    "zero inflation": (
        "users' guide",
        zero_inflated,
        zero_inflated_by_hand,
        ((rng.random(60) < 0.7) * rng.poisson(3.0, 60),),
    ),
    "Dawid-Skene": ("knitr/noisy-raters/dawid-skene", raters, raters_by_hand, (_ratings(),)),
    "ordered logistic": (
        "ARM/Ch.17/multilevel_ordered_categorical",
        ordinal,
        ordinal_by_hand,
        (X, np.digitize(X @ [1.0, -0.5] + rng.logistic(size=80), [-1.0, 0.3, 2.0])),
    ),
    "censored": (
        "basic_estimators/normal_censored",
        censored,
        censored_by_hand,
        (np.minimum(LATENT, 2.0), LATENT > 2.0),
    ),
    "truncated": ("basic_estimators/normal_truncated", truncated, truncated_by_hand, (LATENT[LATENT < 2.0],)),
    "Wishart": ("basic_distributions/wishart", wishart, wishart_by_hand, (np.eye(3) + 0.3,)),
    "multivariate normal": (
        "basic_estimators/normal_multi",
        multivariate,
        multivariate_by_hand,
        (rng.normal(size=(40, 3)) @ [[1, 0.5, 0], [0, 1, 0.3], [0, 0, 2]],),
    ),
    "CAR": (
        "knitr/car-iar-poisson",
        spatial,
        spatial_by_hand,
        (LINE, rng.poisson(np.repeat([4.0, 12.0], 6)), np.full(12, 5.0)),
    ),
    "stochastic volatility": ("misc/moving-avg/stochastic-volatility", volatility, volatility_by_hand, (_returns(60),)),
    "negative binomial": (
        "basic_estimators/negative_binomial2",
        overdispersed,
        overdispersed_by_hand,
        (X, rng.negative_binomial(2, 2 / (2 + np.exp(1 + 0.5 * X[:, 0])))),
    ),
    "mixture": (
        "basic_estimators/normal_mixture_k",
        mixture,
        mixture_by_hand,
        (rng.normal(np.repeat([-4.0, 0.0, 5.0], 30), 1.0),),
    ),
}


@dataclasses.dataclass(frozen=True)
class Fit:
    """One kind: the worst errors of the answer on the supports, and CPU seconds with compiling."""

    verdict: str
    mean: float
    log_sd: float
    density: float
    gradients: int
    seconds: float
    nuts: float

    @property
    def is_right(self) -> bool:
        """Within the limits of the other suites, and the reference's own error."""
        return self.mean <= RIGHT + 0.05 and self.log_sd <= RIGHT_LOG_SD + 0.05


def reference(by_hand: Callable, data: tuple, seed: int) -> dict[str, np.ndarray]:
    """Draws of NumPyro's NUTS."""
    import numpyro
    import numpyro.distributions as theirs
    from numpyro.infer import MCMC, NUTS

    kernel = NUTS(lambda: by_hand(numpyro, theirs, *data), target_accept_prob=0.9)
    sampler = MCMC(kernel, num_warmup=1000, num_samples=4000, progress_bar=False)
    sampler.run(jax.random.key(seed))
    return {name: np.asarray(value, float) for name, value in sampler.get_samples().items()}


def measure(name: str, seed: int) -> Fit:
    """Fit by `vb.fit` as it is, and compare with the reference draws."""
    _, model, by_hand, data = KINDS[name]
    jax.clear_caches()
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        posterior = vb.fit(model(*data), seed=seed)
        seconds = time.process_time() - began
        draws = posterior.sample(20_000, seed=seed + 1)
    jax.clear_caches()
    began = time.process_time()
    known = reference(by_hand, data, seed)
    nuts = time.process_time() - began
    means, log_sds = [0.0], [0.0]
    for site in known.keys() & draws.keys():
        x, other = np.asarray(draws[site], float), known[site]
        sd = np.where(other.std(axis=0) > 1e-6, other.std(axis=0), np.nan)  # a Cholesky factor's zeros
        means.append(np.nanmax(np.abs(x.mean(axis=0) - other.mean(axis=0)) / sd))
        log_sds.append(np.nanmax(np.abs(np.log(np.maximum(x.std(axis=0), 1e-12) / sd))))
    return Fit(
        posterior.check().verdict,
        float(max(means)),
        float(max(log_sds)),
        densities_apart(posterior, by_hand, data, known),
        posterior.status.gradients,
        seconds,
        nuts,
    )


def densities_apart(posterior: vb.Posterior, by_hand: Callable, data: tuple, known: dict[str, np.ndarray]) -> float:
    """How unlike log p - log p by hand is at draws of the reference: 0 where they are one density up to a constant.

    What is by hand in other coordinates says by its `log_det` how much ours stretch them.
    """
    import numpyro
    import numpyro.distributions as theirs
    from numpyro.infer.util import log_density

    some = {name: value[::200] for name, value in known.items()}
    latent = [slot.name for slot in posterior.target.layout.slots]
    mine = np.asarray(posterior.target.model.log_joint({name: some[name] for name in latent}))
    other = jax.vmap(lambda values: log_density(lambda: by_hand(numpyro, theirs, *data), (), {}, values)[0])(some)
    return float(np.ptp(mine - np.asarray(other) + some.get("log_det", 0.0)))


def main(arguments: list[str]) -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser("python -m benchmarks stan_examples", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="which kinds; all if none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(KINDS):
        parser.error(f"no kind is called {', '.join(sorted(unknown))}: {', '.join(KINDS)}")
    head = (
        "| kind | Stan's program | verdict | worst mean, sd | worst log sd | apart, nats | gradients | CPU-s | NUTS |"
    )
    print(f"{machine.described()}\n\n{head}\n|---|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    right = 0
    for name in options.names or KINDS:
        try:
            fit = measure(name, options.seed)
        except Exception as error:  # a fit that raises is a result too, and the worst one
            print(f"| {name} | {KINDS[name][0]} | **raised {type(error).__name__}** |", flush=True)
            continue
        right += fit.is_right
        off = "" if fit.is_right else " **off**"
        cells = (name, KINDS[name][0], fit.verdict, f"{fit.mean:.2f}{off}", f"{fit.log_sd:.2f}", f"{fit.density:.0e}")
        cells += (f"{fit.gradients:,}", f"{fit.seconds:.1f}", f"{fit.nuts:.1f}")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"\nWithin {RIGHT} sd and {RIGHT_LOG_SD} log sd: {right} of {len(options.names or KINDS)}.")
