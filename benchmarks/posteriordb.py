"""Posteriors of posteriordb against its own reference draws: models that no limit of this library was chosen by.

The rule, written before the first was run: every posterior with stored reference draws (10 chains of Stan's NUTS,
10,000 draws) whose model is not in the suite `posteriors`, with the priors of its Stan program, flat ones too; but for
`mcycle_gp`. The data stay in a clone of https://github.com/stan-dev/posteriordb, given by `--data`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

import vbppl as vb
import vbppl.distributions as dist
from benchmarks import machine
from benchmarks.posteriors import nuts as sampler
from benchmarks.posteriors.table import RIGHT, RIGHT_LOG_SD
from vbppl.core.tables import label

DRAWS = 20_000
Data = Mapping[str, np.ndarray]


def flat(name: str, size: int) -> Any:
    """Stan's parameter without a prior."""
    return vb.sample(name, dist.ImproperUniform(dist.constraints.real, (), (size,)))


def flat_scale(name: str) -> Any:
    """Stan's `real<lower=0>` without a prior."""
    return vb.sample(name, dist.ImproperUniform(dist.constraints.positive, (), ()))


@vb.model
def regression(x, y, cauchy):
    """Flat coefficients; a flat scale, or a half-Cauchy one."""
    beta = flat("beta", x.shape[1])
    sigma = vb.sample("sigma", dist.HalfCauchy(cauchy)) if cauchy else flat_scale("sigma")
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, sigma), obs=y)


@vb.model
def blr(x, y):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 10.0).to_event(1))
    sigma = vb.sample("sigma", dist.HalfNormal(10.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, sigma), obs=y)


@vb.model
def diamonds(x, y):
    b = vb.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    intercept = vb.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = flat_scale("sigma")
    vb.factor("half_t", dist.StudentT(3.0, 0.0, 10.0).log_prob(sigma))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(intercept + x @ b, sigma), obs=y)


@vb.model
def kilpisjarvi(x, y, alpha, beta):
    a = vb.sample("alpha", dist.Normal(*alpha))
    b = vb.sample("beta", dist.Normal(*beta))
    sigma = flat_scale("sigma")
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(a + b * x, sigma), obs=y)


@vb.model
def autoregression(y, order):
    alpha = vb.sample("alpha", dist.Normal(0.0, 10.0))
    beta = vb.sample("beta", dist.Normal(jnp.zeros(order), 10.0).to_event(1))
    sigma = vb.sample("sigma", dist.HalfCauchy(2.5))
    lagged = jnp.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1)
    with vb.plate("time", len(y) - order):
        vb.sample("y", dist.Normal(alpha + lagged @ beta, sigma), obs=y[order:])


@vb.model
def arma(y):
    mu = vb.sample("mu", dist.Normal(0.0, 10.0))
    phi = vb.sample("phi", dist.Normal(0.0, 2.0))
    theta = vb.sample("theta", dist.Normal(0.0, 2.0))
    sigma = vb.sample("sigma", dist.HalfCauchy(2.5))

    def step(error, pair):
        before, now = pair
        error = now - (mu + phi * before + theta * error)
        return error, error

    first = y[0] - (mu + phi * mu)
    _, errors = jax.lax.scan(step, first, (y[:-1], y[1:]))
    vb.factor("y", jnp.sum(dist.Normal(0.0, sigma).log_prob(jnp.append(errors, first))))


@vb.model
def garch(y, sigma1):
    mu = vb.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    alpha0 = flat_scale("alpha0")
    alpha1 = vb.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = vb.sample("beta1", dist.Uniform(0.0, 1.0 - alpha1))
    vb.factor("flat", jnp.log1p(-alpha1))  # Stan's prior is flat over the triangle

    def step(variance, before):
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    _, variances = jax.lax.scan(step, jnp.square(sigma1), y[:-1])
    sd = jnp.sqrt(jnp.append(jnp.square(sigma1), variances))
    with vb.plate("time", len(y)):
        vb.sample("y", dist.Normal(mu, sd), obs=y)


@vb.model
def two_normals(y):
    mu = vb.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    vb.factor("mu_prior", jnp.sum(dist.Normal(0.0, 2.0).log_prob(mu)))
    sigma = vb.sample("sigma", dist.HalfNormal(2.0 * jnp.ones(2)).to_event(1))
    theta = vb.sample("theta", dist.Beta(5.0, 5.0))
    with vb.plate("row", len(y)):
        weights = dist.Categorical(jnp.stack([theta, 1 - theta]))
        vb.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def covariance(x: Any, alpha: Any, rho: Any, jitter: Any) -> Any:
    """Exponentiated quadratic, with something on the diagonal."""
    return alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + jitter * jnp.eye(len(x))


@vb.model
def process(x, y):
    rho = vb.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = vb.sample("alpha", dist.HalfNormal(2.0))
    sigma = vb.sample("sigma", dist.HalfNormal(1.0))
    vb.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance(x, alpha, rho, sigma)), obs=y)


@vb.model
def process_of_counts(x, k):
    rho = vb.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = vb.sample("alpha", dist.HalfNormal(2.0))
    f = vb.sample("f_tilde", dist.Normal(jnp.zeros(len(x)), 1.0).to_event(1))
    rate = jnp.exp(jnp.linalg.cholesky(covariance(x, alpha, rho, 1e-6)) @ f)  # 1e-10 in Stan, in float64
    with vb.plate("row", len(k)):
        vb.sample("k", dist.Poisson(rate), obs=k)


@vb.model
def hidden_markov(y):
    theta = [vb.sample(f"theta{k + 1}", dist.Dirichlet(jnp.ones(2))) for k in range(2)]
    mu = vb.sample("mu", dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (2,)))
    vb.factor("mu_prior", dist.Normal(3.0, 1.0).log_prob(mu[0]) + dist.Normal(10.0, 1.0).log_prob(mu[1]))
    each, turn = dist.Normal(mu, 1.0).log_prob(y[:, None]), jnp.log(jnp.stack(theta))

    def step(forward, here):
        return logsumexp(forward[:, None] + turn, axis=0) + here, None

    vb.factor("y", logsumexp(jax.lax.scan(step, each[0], each[1:])[0]))


@vb.model
def drives(u, v, alpha, scale):
    """A basketball player's drives: a hidden state of two, with Stan's flat start; `scale` is None for exponentials."""
    theta = jnp.stack([vb.sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in range(2)])
    support = dist.constraints.positive_ordered_vector if scale is None else dist.constraints.ordered_vector
    middles = {name: vb.sample(name, dist.ImproperUniform(support, (), (2,))) for name in ("phi", "lambda")}
    for name, middle in middles.items():
        vb.factor(f"{name}_prior", jnp.sum(dist.Normal(jnp.array([0.0, 3.0]), 1.0).log_prob(middle)))

    def step(state, x):
        is_first, *seen = x
        state = vb.sample("state", dist.Categorical(jnp.where(is_first, 0.5, theta[state])))
        for name, (middle, value) in zip("uv", zip(middles.values(), seen)):
            at = middle[state]
            vb.sample(name, dist.Exponential(at) if scale is None else dist.Normal(at, scale), obs=value)
        return state, None

    vb.scan(step, 0, (np.arange(len(u)) == 0, u, v))


@vb.model
def compartment(times, measured, dose, volume):
    """One compartment with Michaelis-Menten elimination, by Runge and Kutta's method, ten steps between two times."""
    k_a, k_m, v_m, sigma = (vb.sample(name, dist.HalfCauchy(1.0)) for name in ("k_a", "K_m", "V_m", "sigma"))

    def slope(t, c):
        return jnp.exp(-k_a * t) * dose * k_a / volume - v_m / volume * c / (k_m + c)

    def one(c, span):
        t, h = span
        a = slope(t, c)
        b = slope(t + h / 2, c + h / 2 * a)
        d = slope(t + h / 2, c + h / 2 * b)
        c = c + h / 6 * (a + 2 * b + 2 * d + slope(t + h, c + h * d))
        return c, c

    starts, lengths = jnp.append(0.0, times[:-1]), jnp.diff(times, prepend=0.0) / 10
    spans = (starts[:, None] + lengths[:, None] * jnp.arange(10), jnp.broadcast_to(lengths[:, None], (len(times), 10)))
    _, c = jax.lax.scan(one, 0.0, jax.tree.map(jnp.ravel, spans))
    with vb.plate("time", len(times)):
        vb.sample("C_hat", dist.LogNormal(jnp.log(c[9::10]), sigma), obs=measured)


def columns(*names: str) -> Callable[[Data], np.ndarray]:
    """A design with an intercept.

    Names say `log x`, `c x` (centred), `z x` and `2z x` (in units of one sd, of two), `100 x` (less 100), `a == 2`
    (a level) and `a * b` (a product).
    """

    def column(d: Data, name: str) -> np.ndarray:
        if " * " in name:
            return np.prod([column(d, part) for part in name.split(" * ")], axis=0)
        if " == " in name:
            return (d[name.split(" == ")[0]] == int(name.split(" == ")[1])).astype(float)
        how, _, rest = name.rpartition(" ")
        x = np.asarray(d[rest], float)
        if how == "log":
            return np.log(x)
        if how == "":
            return x
        middle = x.mean() if how in ("c", "z", "2z") else float(how)
        return (x - middle) / {"z": x.std(ddof=1), "2z": 2 * x.std(ddof=1)}.get(how, 1.0)

    return lambda d: np.stack([np.ones(len(column(d, names[0])))] + [column(d, name) for name in names], axis=1)


def linear(y: str, *names: str, cauchy: float = 0.0) -> Callable[[Data], vb.Model]:
    """A regression of posteriordb by the names of its columns."""
    design, logged = columns(*names), y.startswith("log ")
    outcome = y.removeprefix("log ")
    return lambda d: regression(design(d), np.log(d[outcome]) if logged else np.asarray(d[outcome], float), cauchy)


def mesquite(d: Data) -> dict[str, np.ndarray]:
    """With volume, area and shape of the canopy."""
    x = {name: np.asarray(value, float) for name, value in d.items()}
    area, shape = x["diam1"] * x["diam2"], x["diam1"] / x["diam2"]
    return {**x, "volume": area * x["canopy_height"], "area": area, "shape": shape}


def of_mesquite(*names: str) -> Callable[[Data], vb.Model]:
    """A regression on these."""
    return lambda d: linear("log weight", *names)(mesquite(d))


def centred(x: Any) -> np.ndarray:
    """The columns but the intercept, less their means."""
    x = np.asarray(x, float)[:, 1:]
    return x - x.mean(axis=0)


IDEOLOGY = ("real_ideo", "race_adj", *(f"age_discrete == {k}" for k in (2, 3, 4)), "educ1", "gender", "income")
MODELS: dict[str, Callable[[Data], vb.Model]] = {
    "arK-arK": lambda d: autoregression(np.asarray(d["y"], float), int(d["K"])),
    "arma-arma11": lambda d: arma(np.asarray(d["y"], float)),
    "bball_drive_event_0-hmm_drive_0": lambda d: drives(d["u"], d["v"], np.asarray(d["alpha"], float), None),
    "bball_drive_event_1-hmm_drive_1": lambda d: drives(d["u"], d["v"], np.asarray(d["alpha"], float), 0.1),
    "diamonds-diamonds": lambda d: diamonds(centred(d["X"]), np.asarray(d["Y"], float)),
    "earnings-earn_height": linear("earn", "height"),
    "earnings-log10earn_height": lambda d: linear("y", "height")({**d, "y": np.log10(d["earn"])}),
    "earnings-logearn_height": linear("log earn", "height"),
    "earnings-logearn_height_male": linear("log earn", "height", "male"),
    "earnings-logearn_interaction": linear("log earn", "height", "male", "height * male"),
    "earnings-logearn_interaction_z": linear("log earn", "z height", "male", "z height * male"),
    "earnings-logearn_logheight_male": linear("log earn", "log height", "male"),
    "garch-garch11": lambda d: garch(np.asarray(d["y"], float), float(d["sigma1"])),
    "gp_pois_regr-gp_pois_regr": lambda d: process_of_counts(np.asarray(d["x"], float), d["k"]),
    "gp_pois_regr-gp_regr": lambda d: process(np.asarray(d["x"], float), np.asarray(d["y"], float)),
    "hmm_example-hmm_example": lambda d: hidden_markov(np.asarray(d["y"], float)),
    "kidiq-kidscore_interaction": linear("kid_score", "mom_hs", "mom_iq", "mom_hs * mom_iq", cauchy=2.5),
    "kidiq-kidscore_momhs": linear("kid_score", "mom_hs", cauchy=2.5),
    "kidiq-kidscore_momhsiq": linear("kid_score", "mom_hs", "mom_iq", cauchy=2.5),
    "kidiq-kidscore_momiq": linear("kid_score", "mom_iq", cauchy=2.5),
    "kidiq_with_mom_work-kidscore_interaction_c": linear("kid_score", "c mom_hs", "c mom_iq", "c mom_hs * c mom_iq"),
    "kidiq_with_mom_work-kidscore_interaction_c2": linear(
        "kid_score", "0.5 mom_hs", "100 mom_iq", "0.5 mom_hs * 100 mom_iq"
    ),
    "kidiq_with_mom_work-kidscore_interaction_z": linear(
        "kid_score", "2z mom_hs", "2z mom_iq", "2z mom_hs * 2z mom_iq"
    ),
    "kidiq_with_mom_work-kidscore_mom_work": linear("kid_score", *(f"mom_work == {k}" for k in (2, 3, 4))),
    "kilpisjarvi_mod-kilpisjarvi": lambda d: kilpisjarvi(
        np.asarray(d["x"], float),
        np.asarray(d["y"], float),
        (float(d["pmualpha"]), float(d["psalpha"])),
        (float(d["pmubeta"]), float(d["psbeta"])),
    ),
    "low_dim_gauss_mix-low_dim_gauss_mix": lambda d: two_normals(np.asarray(d["y"], float)),
    "mesquite-logmesquite": of_mesquite(
        *(f"log {name}" for name in ("diam1", "diam2", "canopy_height", "total_height", "density")), "group"
    ),
    "mesquite-logmesquite_logva": of_mesquite("log volume", "log area", "group"),
    "mesquite-logmesquite_logvas": of_mesquite(
        *(f"log {name}" for name in ("volume", "area", "shape", "total_height", "density")), "group"
    ),
    "mesquite-logmesquite_logvash": of_mesquite(
        *(f"log {name}" for name in ("volume", "area", "shape", "total_height")), "group"
    ),
    "mesquite-logmesquite_logvolume": of_mesquite("log volume"),
    "mesquite-mesquite": linear("weight", "diam1", "diam2", "canopy_height", "total_height", "density", "group"),
    **{f"nes{year}-nes": linear("partyid7", *IDEOLOGY) for year in range(1972, 2001, 4)},
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": lambda d: compartment(
        np.asarray(d["times"], float), np.asarray(d["C_hat"], float), float(d["D"]), float(d["V"])
    ),
    "sblrc-blr": lambda d: blr(np.asarray(d["X"], float), np.asarray(d["y"], float)),
    "sblri-blr": lambda d: blr(np.asarray(d["X"], float), np.asarray(d["y"], float)),
}


@dataclasses.dataclass(frozen=True)
class Fit:
    """One fit: the worst errors of the answer on the supports, and CPU seconds with compiling."""

    name: str
    dim: int
    guide: str
    verdict: str
    mean: float
    log_sd: float
    right: bool
    gradients: int
    seconds: float
    nuts: float


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def measure(name: str, root: Path, seed: int, nuts: bool) -> Fit:
    """Fit by `vb.fit` as it is, and compare with the reference draws."""
    about = json.loads((root / "posteriors" / f"{name}.json").read_text())
    values = _read(root / "data" / "data" / f"{about['data_name']}.json.zip")
    model = MODELS[name]({key: np.asarray(value) for key, value in values.items()})
    chains = _read(root / "reference_posteriors" / "draws" / "draws" / f"{about['reference_posterior_name']}.json.zip")
    known = {key: np.concatenate([chain[key] for chain in chains]) for key in chains[0]}
    jax.clear_caches()  # each fit compiles for itself
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        posterior = vb.fit(model, seed=seed)
        seconds = time.process_time() - began
        draws = posterior.sample(DRAWS, seed=seed + 1)
    means, log_sds, found = [], [], 0
    for site, value in draws.items():
        value = np.asarray(value, float)
        for index in np.ndindex(value.shape[1:]):
            stan = label(site, tuple(i + 1 for i in index))
            if stan in known and known[stan].std() > 0:
                x, found = value[(slice(None), *index)], found + 1
                means.append(abs(x.mean() - known[stan].mean()) / known[stan].std())
                log_sds.append(abs(np.log(x.std() / known[stan].std())))
    if not found:
        raise KeyError(f"{name}: {sorted(draws)} and {sorted(known)} have no scalar in common")
    own = 2 / np.sqrt(len(next(iter(known.values()))))
    right = max(means) <= RIGHT + own and max(log_sds) <= RIGHT_LOG_SD + own
    return Fit(
        name,
        posterior.target.dim,
        type(posterior.guide).__name__,
        posterior.check().verdict,
        float(max(means)),
        float(max(log_sds)),
        right,
        posterior.status.gradients,
        seconds,
        sampler.seconds(model, seed) if nuts else float("nan"),
    )


def main(arguments: list[str]) -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser("python -m benchmarks posteriordb", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="which posteriors; all if none")
    parser.add_argument("--data", type=Path, required=True, help="a clone of posteriordb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nuts", action="store_true", help="NumPyro's NUTS beside each fit")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(MODELS)
    if unknown:
        parser.error(f"no posterior is called {', '.join(sorted(unknown))}: {', '.join(MODELS)}")
    print(f"{machine.described()}\n")
    print("| posterior | dim | guide | verdict | worst mean, sd | worst log sd | gradients | CPU-s | NUTS, CPU-s |")
    print("|---|--:|---|---|--:|--:|--:|--:|--:|", flush=True)
    fits, raised = [], []
    for name in options.names or MODELS:
        try:
            fit = measure(name, options.data / "posterior_database", options.seed, options.nuts)
        except Exception as error:  # a fit that raises is a result too, and the worst one
            raised.append(f"{name} ({type(error).__name__}: {error})")
            continue
        fits.append(fit)
        cells = (fit.name, fit.dim, fit.guide, fit.verdict, f"{fit.mean:.2f}" + ("" if fit.right else " **off**"))
        more = (f"{fit.log_sd:.2f}", f"{fit.gradients:,}", f"{fit.seconds:.1f}", f"{fit.nuts:.1f}")
        print("| " + " | ".join(map(str, (*cells, *more))) + " |", flush=True)
    right = sum(fit.right for fit in fits)
    print(f"\nWithin {RIGHT} sd and {RIGHT_LOG_SD} log sd: {right} of {len(fits)}; raised: {len(raised)}.", *raised)
    if fits:
        median = np.median([fit.seconds for fit in fits])
        print(f"Median gradients {np.median([f.gradients for f in fits]):,.0f}, CPU-s {median:.1f}.")
