"""Models that people wait for: each written once for vbppl and NumPyro alike, and once as a flat density by hand.

A model is written by a function of the words, `(ppl, dist)`, so that both libraries run the same statements. The
density by hand is a function of the flat unconstrained vector and the data, in plain `jax.numpy`, as somebody who knows
the model would write it for speed: constants left out, rows in arrays, `gammaln` once for each argument with a slope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln


class Case(NamedTuple):
    """A model and its limit.

    Attributes:
      write: from the words of a library and its distributions to a model's function.
      by_hand: the log density `(z, *data)` of the flat vector.
      dim: of that vector.
      data: the model's arguments.
    """

    write: Callable[[Any, Any], Callable[..., Any]]
    by_hand: Callable[..., Any]
    dim: int
    data: tuple[np.ndarray, ...]


def _normal(x: Any, loc: Any, scale: Any) -> Any:
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale)


def _eight_schools(ppl, dist):
    def model(sigma, y):
        mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
        tau = ppl.sample("tau", dist.HalfCauchy(5.0))
        with ppl.plate("school", len(sigma)):
            theta = ppl.sample("theta", dist.Normal(mu, tau))
            ppl.sample("y", dist.Normal(theta, sigma), obs=y)

    return model


def _eight_schools_by_hand(z, sigma, y):
    mu, log_tau, theta = z[0], z[1], z[2:]
    tau = jnp.exp(log_tau)
    priors = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau
    return priors + jnp.sum(_normal(theta, mu, tau) + _normal(y, theta, sigma))


def _regression(ppl, dist):
    def model(x, y):
        a = ppl.sample("a", dist.Normal(0.0, 5.0))
        b = ppl.sample("b", dist.Normal(0.0, 5.0))
        sigma = ppl.sample("sigma", dist.HalfNormal(2.0))
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.Normal(a + b * x, sigma), obs=y)

    return model


def _regression_by_hand(z, x, y):
    sigma = jnp.exp(z[2])
    priors = -0.5 * (z[0] / 5) ** 2 - 0.5 * (z[1] / 5) ** 2 - 0.5 * (sigma / 2) ** 2 + z[2]
    return priors + jnp.sum(_normal(y, z[0] + z[1] * x, sigma))


def _radon(ppl, dist):
    def model(county, floor, uranium, y):
        mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
        gamma = ppl.sample("gamma", dist.Normal(0.0, 5.0))
        beta = ppl.sample("beta", dist.Normal(0.0, 5.0))
        tau = ppl.sample("tau", dist.HalfCauchy(1.0))
        sigma = ppl.sample("sigma", dist.HalfCauchy(1.0))
        with ppl.plate("counties", len(uranium)):
            alpha = ppl.sample("alpha", dist.Normal(mu + gamma * uranium, tau))
        with ppl.plate("house", len(y)):
            ppl.sample("y", dist.Normal(alpha[county] + beta * floor, sigma), obs=y)

    return model


def _radon_by_hand(z, county, floor, uranium, y):
    tau, sigma, alpha = jnp.exp(z[3]), jnp.exp(z[4]), z[5:]
    priors = -0.02 * jnp.sum(z[:3] ** 2) - jnp.log1p(tau**2) - jnp.log1p(sigma**2) + z[3] + z[4]
    priors += jnp.sum(_normal(alpha, z[0] + z[1] * uranium, tau))
    return priors + jnp.sum(_normal(y, alpha[county] + z[2] * floor, sigma))


def _radon_data(rng):
    """Of the size of the Minnesota data: 919 houses in 85 counties."""
    county, floor = np.sort(rng.integers(0, 85, 919)), rng.integers(0, 2, 919).astype(float)
    uranium = 0.4 * rng.standard_normal(85)
    alpha = 1.5 + 0.7 * uranium + 0.2 * rng.standard_normal(85)
    return county, floor, uranium, alpha[county] - 0.6 * floor + 0.75 * rng.standard_normal(919)


def _groups(ppl, dist):
    def model(*groups):
        for i, y in enumerate(groups):
            loc = ppl.sample(f"loc_{i}", dist.Normal(0.0, 5.0))
            scale = ppl.sample(f"scale_{i}", dist.HalfNormal(2.0))
            with ppl.plate(f"unit_{i}", len(y)):
                theta = ppl.sample(f"theta_{i}", dist.Normal(loc, scale))
                ppl.sample(f"y_{i}", dist.Normal(theta, 1.0), obs=y)

    return model


def _groups_by_hand(z, *groups):
    total, start = 0.0, 0
    for y in groups:
        loc, log_scale, theta = z[start], z[start + 1], z[start + 2 : start + 2 + len(y)]
        start += 2 + len(y)
        scale = jnp.exp(log_scale)
        total += -0.5 * (loc / 5) ** 2 - 0.5 * (scale / 2) ** 2 + log_scale
        total += jnp.sum(_normal(theta, loc, scale) - 0.5 * (y - theta) ** 2)
    return total


def _beta_binomial(ppl, dist):
    def model(n, y):
        a = ppl.sample("a", dist.Gamma(2.0, 0.5))
        b = ppl.sample("b", dist.Gamma(2.0, 0.5))
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.BetaBinomial(a, b, n), obs=y)

    return model


def _beta_binomial_by_hand(z, n, y):
    a, b = jnp.exp(z[0]), jnp.exp(z[1])
    priors = 2.0 * z[0] - 0.5 * a + 2.0 * z[1] - 0.5 * b
    at = jnp.concatenate([y + a, n - y + b, n + a + b, jnp.stack([a, b, a + b])])
    heads, tails, both, ends = jnp.split(gammaln(at), [len(y), 2 * len(y), 3 * len(y)])
    return priors + jnp.sum(heads + tails - both) + len(y) * (ends[2] - ends[0] - ends[1])


def _negative_binomial(ppl, dist):
    def model(x, y):
        a = ppl.sample("a", dist.Normal(0.0, 5.0))
        b = ppl.sample("b", dist.Normal(0.0, 5.0))
        concentration = ppl.sample("concentration", dist.Gamma(2.0, 0.5))
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.NegativeBinomial2(jnp.exp(a + b * x), concentration), obs=y)

    return model


def _negative_binomial_by_hand(z, x, y):
    c, log_mean = jnp.exp(z[2]), z[0] + z[1] * x
    priors = -0.02 * (z[0] ** 2 + z[1] ** 2) + 2.0 * z[2] - 0.5 * c
    rest = -(y + c) * jnp.log(c + jnp.exp(log_mean)) + y * log_mean + c * z[2]
    at = gammaln(jnp.concatenate([y + c, c[None]]))
    return priors + jnp.sum(rest + at[:-1]) - len(y) * at[-1]


def _gamma(ppl, dist):
    def model(x, y):
        a = ppl.sample("a", dist.Normal(0.0, 5.0))
        b = ppl.sample("b", dist.Normal(0.0, 5.0))
        shape = ppl.sample("shape", dist.Gamma(2.0, 0.5))
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.Gamma(shape, shape * jnp.exp(-a - b * x)), obs=y)

    return model


def _gamma_by_hand(z, x, y):
    shape, log_mean = jnp.exp(z[2]), z[0] + z[1] * x
    priors = -0.02 * (z[0] ** 2 + z[1] ** 2) + 2.0 * z[2] - 0.5 * shape
    each = shape * (z[2] - log_mean + jnp.log(y)) - shape * y * jnp.exp(-log_mean)
    return priors + jnp.sum(each) - len(y) * gammaln(shape)


def _kernel(x, scale, length, jitter):
    return scale**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + jitter * jnp.eye(len(x))


def _gp(ppl, dist):
    def model(x, y):
        scale = ppl.sample("scale", dist.LogNormal(0.0, 1.0))
        length = ppl.sample("length", dist.LogNormal(0.0, 1.0))
        noise = ppl.sample("noise", dist.LogNormal(-1.0, 1.0))
        ppl.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), _kernel(x, scale, length, noise**2)), obs=y)

    return model


def _gp_by_hand(z, x, y):
    scale, length, noise = jnp.exp(z)
    factor = jnp.linalg.cholesky(_kernel(x, scale, length, noise**2))
    left = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    priors = -0.5 * z[0] ** 2 - 0.5 * z[1] ** 2 - 0.5 * (z[2] + 1) ** 2
    return priors - 0.5 * jnp.sum(left**2) - jnp.sum(jnp.log(jnp.diag(factor)))


def _poisson_gp(ppl, dist):
    def model(x, y):
        scale = ppl.sample("scale", dist.LogNormal(0.0, 1.0))
        length = ppl.sample("length", dist.LogNormal(0.0, 1.0))
        f = ppl.sample("f", dist.MultivariateNormal(jnp.zeros(len(x)), _kernel(x, scale, length, 1e-4)))
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.Poisson(jnp.exp(f)), obs=y)

    return model


def _poisson_gp_by_hand(z, x, y):
    scale, length, f = jnp.exp(z[0]), jnp.exp(z[1]), z[2:]
    factor = jnp.linalg.cholesky(_kernel(x, scale, length, 1e-4))
    left = jax.scipy.linalg.solve_triangular(factor, f, lower=True)
    priors = -0.5 * z[0] ** 2 - 0.5 * z[1] ** 2
    return priors - 0.5 * jnp.sum(left**2) - jnp.sum(jnp.log(jnp.diag(factor))) + jnp.sum(y * f - jnp.exp(f))


def _random_walk(ppl, dist):
    def model(y):
        step = ppl.sample("step", dist.HalfNormal(1.0))
        noise = ppl.sample("noise", dist.HalfNormal(1.0))
        level = ppl.sample("level_0", dist.Normal(0.0, 1.0))
        for i in range(len(y)):
            level = ppl.sample(f"level_{i + 1}", dist.Normal(level, step)) if i else level
            ppl.sample(f"y_{i}", dist.Normal(level, noise), obs=y[i])

    return model


def _random_walk_by_hand(z, y):
    step, noise, level = jnp.exp(z[0]), jnp.exp(z[1]), z[2:]
    priors = -0.5 * step**2 + z[0] - 0.5 * noise**2 + z[1] - 0.5 * level[0] ** 2
    return priors + jnp.sum(_normal(level[1:], level[:-1], step)) + jnp.sum(_normal(y, level, noise))


def _network(ppl, dist):
    def model(x, y):
        w1 = ppl.sample("w1", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
        b1 = ppl.sample("b1", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
        w2 = ppl.sample("w2", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
        b2 = ppl.sample("b2", dist.Normal(0.0, 1.0))
        hidden = jnp.tanh(x[:, None] * w1 + b1)
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.Normal(hidden @ w2 + b2, 0.1), obs=y)

    return model


def _network_by_hand(z, x, y):
    hidden = jnp.tanh(x[:, None] * z[:8] + z[8:16])
    return -0.5 * jnp.sum(z**2) - 50 * jnp.sum((y - hidden @ z[16:24] - z[24]) ** 2)


def _horseshoe(ppl, dist):
    def model(x, y):
        tau = ppl.sample("tau", dist.HalfCauchy(0.1))
        sigma = ppl.sample("sigma", dist.HalfNormal(1.0))
        with ppl.plate("column", x.shape[1]):
            lam = ppl.sample("lam", dist.HalfCauchy(1.0))
            beta = ppl.sample("beta", dist.Normal(0.0, lam * tau))
        with ppl.plate("row", len(y)):
            ppl.sample("y", dist.Normal(x @ beta, sigma), obs=y)

    return model


def _horseshoe_by_hand(z, x, y):
    tau, sigma, lam, beta = jnp.exp(z[0]), jnp.exp(z[1]), jnp.exp(z[2:22]), z[22:]
    priors = -jnp.log1p((tau / 0.1) ** 2) + z[0] - 0.5 * sigma**2 + z[1] + jnp.sum(z[2:22] - jnp.log1p(lam**2))
    return priors + jnp.sum(_normal(beta, 0.0, lam * tau)) + jnp.sum(_normal(y, x @ beta, sigma))


TOPICS, WORDS, DOCUMENTS = 3, 15, 14


def _topics(ppl, dist):
    def model(counts):
        with ppl.plate("topic", TOPICS):
            words = ppl.sample("words", dist.Dirichlet(jnp.full(WORDS, 0.5)))
        with ppl.plate("document", len(counts)):
            topics = ppl.sample("topics", dist.Dirichlet(jnp.full(TOPICS, 0.5)))
            ppl.factor("counts", jnp.sum(counts * jnp.log(topics @ words), axis=-1))

    return model


def _stick(z):
    """Stick-breaking of `z`, `(rows, parts - 1)`, and `sum_k alpha log x_k` for `alpha` of a half with the Jacobian."""
    parts = z.shape[1] + 1
    z = z - jnp.log(jnp.arange(parts - 1, 0, -1.0))
    log_here, log_rest = -jax.nn.softplus(-z), -jax.nn.softplus(z)
    before = jnp.cumsum(log_rest, axis=1)
    before = jnp.concatenate([jnp.zeros_like(before[:, :1]), before], axis=1)
    log_x = before + jnp.concatenate([log_here, jnp.zeros_like(log_here[:, :1])], axis=1)
    return jnp.exp(log_x), jnp.sum(log_here + log_rest + before[:, :-1]) - 0.5 * jnp.sum(log_x)


def _topics_by_hand(z, counts):
    words, its_prior = _stick(z[: TOPICS * (WORDS - 1)].reshape(TOPICS, WORDS - 1))
    topics, their_prior = _stick(z[TOPICS * (WORDS - 1) :].reshape(DOCUMENTS, TOPICS - 1))
    return its_prior + their_prior + jnp.sum(counts * jnp.log(topics @ words))


def cases() -> dict[str, Case]:
    """The models of the table, by name, with data made here, the same in every process."""
    rng = np.random.default_rng(12)
    sigma, schools = np.array([15.0, 10, 16, 11, 9, 11, 10, 18]), np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    x = rng.standard_normal(100)
    groups = tuple(2.0 * rng.standard_normal(2 + i) + i for i in range(10))
    trials = rng.integers(5, 40, 48).astype(float)
    heads = rng.binomial(trials.astype(int), rng.beta(2.0, 3.0, 48)).astype(float)
    counts = rng.negative_binomial(3, 3 / (3 + np.exp(1 + 0.5 * x))).astype(float)
    times = rng.gamma(3.0, np.exp(1 + 0.5 * x) / 3)
    at, steps = np.linspace(-3, 3, 60), rng.standard_normal(30)
    wiggle = np.sin(2 * at) + 0.2 * rng.standard_normal(60)
    places = np.linspace(-2, 2, 40)
    events = rng.poisson(np.exp(1 + np.sin(2 * places))).astype(float)
    columns = rng.standard_normal((50, 20))
    response = columns @ np.r_[2.0, -1.5, 1.0, np.zeros(17)] + rng.standard_normal(50)
    mix = rng.dirichlet(np.full(TOPICS, 0.5), DOCUMENTS) @ rng.dirichlet(np.full(WORDS, 0.5), TOPICS)
    bags = np.stack([rng.multinomial(60, p) for p in mix]).astype(float)
    return {
        "eight schools": Case(_eight_schools, _eight_schools_by_hand, 10, (sigma, schools)),
        "regression": Case(_regression, _regression_by_hand, 3, (x, 1 + 0.5 * x + 0.3 * rng.standard_normal(100))),
        "radon": Case(_radon, _radon_by_hand, 90, _radon_data(rng)),
        "30 sites": Case(_groups, _groups_by_hand, sum(2 + len(y) for y in groups), groups),
        "beta-binomial": Case(_beta_binomial, _beta_binomial_by_hand, 2, (trials, heads)),
        "negative binomial": Case(_negative_binomial, _negative_binomial_by_hand, 3, (x, counts)),
        "gamma": Case(_gamma, _gamma_by_hand, 3, (x, times)),
        "GP of 60": Case(_gp, _gp_by_hand, 3, (at, wiggle)),
        "Poisson GP of 40": Case(_poisson_gp, _poisson_gp_by_hand, 42, (places, events)),
        "walk of 30 statements": Case(
            _random_walk, _random_walk_by_hand, 32, (np.cumsum(0.3 * steps) + 0.5 * rng.standard_normal(30),)
        ),
        "network of 25 weights": Case(_network, _network_by_hand, 25, (at / 3, wiggle)),
        "horseshoe": Case(_horseshoe, _horseshoe_by_hand, 42, (columns, response)),
        "topics, 70 dims": Case(_topics, _topics_by_hand, 70, (bags,)),
    }
