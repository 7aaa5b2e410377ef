"""Posteriors of series: levels that walk, autoregressions, volatility, Gaussian processes, an equation of motion."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import data


@vb.model
def local_level(y):
    """A level that walks at random under noise: centred, one latent number a year (Durbin and Koopman 2012, ch. 2)."""
    noise = vb.sample("noise", dist.HalfNormal(2.0))
    step = vb.sample("step", dist.HalfNormal(1.0))
    level = vb.sample("level", dist.ImproperUniform(dist.constraints.real_vector, (), (len(y),)))
    vb.factor("first", jnp.sum(dist.Normal(0.0, 5.0).log_prob(level[0])))
    vb.factor("walk", jnp.sum(dist.Normal(level[:-1], step).log_prob(level[1:])))
    with vb.plate("year", len(y)):
        vb.sample("y", dist.Normal(level, noise), obs=y)


def nile():
    """The Nile in units of its standard deviation."""
    return local_level(standardised(data.NILE))


def nile_exactly(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws from the posterior of `nile`: the two scales from a fine grid of their marginal, the level given them.

    Given the scales all is Gaussian. The level is drawn by Matheron's rule: a draw from the prior, corrected by
    how far the data that it predicts are from those observed. The grid's cells are 0.02 wide in the log scales.
    """
    y, times = standardised(data.NILE), np.arange(len(data.NILE))
    walk = np.minimum.outer(times, times)
    log_noise, log_step = np.arange(-1.2, 0.6, 0.02), np.arange(-5.0, 1.0, 0.02)
    log_p = np.empty((len(log_step), len(log_noise)))
    variances = np.exp(2 * log_noise)[:, None]
    for at, step in enumerate(np.exp(log_step)):
        values, vectors = np.linalg.eigh(25.0 + step**2 * walk)
        total = values + variances
        log_p[at] = -np.sum(np.log(total) + (vectors.T @ y) ** 2 / total, axis=1) / 2 - step**2 / 2
    log_p += log_step[:, None] + log_noise - variances[:, 0] / 8
    weights = np.exp(log_p - log_p.max()).ravel()
    at = rng.choice(len(weights), size=draws, p=weights / weights.sum())
    jitter = rng.uniform(-0.01, 0.01, (2, draws))
    step = np.exp(log_step[at // len(log_noise)] + jitter[0])
    noise = np.exp(log_noise[at % len(log_noise)] + jitter[1])
    steps = np.concatenate([5.0 * rng.standard_normal((draws, 1)), step[:, None] * rng.standard_normal((draws, 99))], 1)
    level = np.cumsum(steps, axis=1)
    missing = y - level - noise[:, None] * rng.standard_normal(level.shape)
    for part in np.array_split(np.arange(draws), max(draws // 500, 1)):
        prior = 25.0 + step[part, None, None] ** 2 * walk
        total = prior + noise[part, None, None] ** 2 * np.eye(len(y))
        level[part] += (prior @ np.linalg.solve(total, missing[part, :, None]))[..., 0]
    return {"noise": noise, "step": step, "level": level}


def standardised(y: np.ndarray) -> np.ndarray:
    """In units of its standard deviation around its mean."""
    return (y - y.mean()) / y.std()


@vb.model
def autoregression(y):
    """An AR(2) with its stationary part left free."""
    mean = vb.sample("mean", dist.Normal(0.0, 10.0))
    phi = vb.sample("phi", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(2.0))
    past = mean + phi[0] * (y[1:-1] - mean) + phi[1] * (y[:-2] - mean)
    with vb.plate("year", len(y) - 2):
        vb.sample("y", dist.Normal(past, noise), obs=y[2:])


def lynx():
    """Log10 of the lynx."""
    return autoregression(np.log10(data.LYNX))


@vb.model
def stochastic_volatility(y):
    """Returns whose log variance is an AR(1), non-centred (Kim, Shephard and Chib 1998)."""
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    phi = vb.sample(
        "phi", dist.TransformedDistribution(dist.Beta(20.0, 1.5), [dist.transforms.AffineTransform(-1.0, 2.0)])
    )
    sigma = vb.sample("sigma", dist.HalfNormal(0.5))
    with vb.plate("day", len(y)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))

    def walk(h, shock):
        h = phi * h + sigma * shock
        return h, h

    first = sigma * z[0] / jnp.sqrt(1.0 - phi**2)
    _, rest = jax.lax.scan(walk, first, z[1:])
    h = mu + jnp.concatenate([first[None], rest])
    with vb.plate("return", len(y)):
        vb.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


def volatility():
    """Sixty simulated returns: phi 0.95, sigma 0.3, mu 0 (NumPy's RandomState(3))."""
    rs, h, returns = np.random.RandomState(3), 0.0, []
    for _ in range(60):
        h = 0.95 * h + 0.3 * rs.randn()
        returns.append(np.exp(h / 2) * rs.randn())
    return stochastic_volatility(np.array(returns))


def squared_exponential(t, amplitude, length, jitter):
    """The covariance of a smooth process at the times `t`, `(n, n)`."""
    apart = (t[:, None] - t[None, :]) / length
    return amplitude**2 * jnp.exp(-(apart**2) / 2) + jitter * jnp.eye(len(t))


@vb.model
def gaussian_process(t, y):
    """A regression whose curve is integrated out: three hyperparameters."""
    amplitude = vb.sample("amplitude", dist.HalfNormal(2.0))
    length = vb.sample("length", dist.InverseGamma(3.0, 3.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    covariance = squared_exponential(t, amplitude, length, 1e-6) + noise**2 * jnp.eye(len(t))
    vb.sample("y", dist.MultivariateNormal(jnp.zeros(len(t)), covariance), obs=y)


def nile_process():
    """Every other year of the Nile; time in decades."""
    return gaussian_process(np.arange(0, 100, 2) / 10.0, standardised(data.NILE[::2]))


@vb.model
def log_gaussian_cox(t, counts):
    """Poisson counts whose log rate is a Gaussian process, with the latent curve kept, non-centred."""
    mean = vb.sample("mean", dist.Normal(0.0, 2.0))
    amplitude = vb.sample("amplitude", dist.HalfNormal(1.0))
    length = vb.sample("length", dist.InverseGamma(3.0, 6.0))
    with vb.plate("latent", len(t)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
    log_rate = vb.deterministic(
        "log_rate", mean + jnp.linalg.cholesky(squared_exponential(t, amplitude, length, 1e-6)) @ z
    )
    with vb.plate("period", len(t)):
        vb.sample("counts", dist.Poisson(jnp.exp(log_rate)), obs=counts)


def coal():
    """Disasters in 37 periods of three years; time in decades."""
    return log_gaussian_cox(np.arange(37) * 0.3, data.COAL.reshape(37, 3).sum(axis=1))


@vb.model
def lotka_volterra(hares, lynx, steps):
    """Predator and prey: an equation of motion, by Runge and Kutta's steps (Carpenter 2018, a case study of Stan)."""
    growth = vb.sample("growth", dist.LogNormal(jnp.log(jnp.array([0.5, 0.8])), 0.5).to_event(1))
    meeting = vb.sample("meeting", dist.LogNormal(jnp.log(jnp.array([0.03, 0.03])), 0.5).to_event(1))
    first = vb.sample("first", dist.LogNormal(jnp.log(jnp.array([30.0, 5.0])), 1.0).to_event(1))
    noise = vb.sample("noise", dist.LogNormal(-1.0 * jnp.ones(2), 1.0).to_event(1))

    def slope(state):
        prey, predators = state
        return jnp.stack([(growth[0] - meeting[0] * predators) * prey, (meeting[1] * prey - growth[1]) * predators])

    def step(state, _):
        h = 1.0 / steps
        k1 = slope(state)
        k2 = slope(state + h / 2 * k1)
        k3 = slope(state + h / 2 * k2)
        k4 = slope(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state, state

    years = len(hares)
    _, path = jax.lax.scan(step, first, None, length=(years - 1) * steps)
    path = jnp.concatenate([first[None], path[steps - 1 :: steps]])
    with vb.plate("year", years):
        vb.sample("hares", dist.LogNormal(jnp.log(path[:, 0]), noise[0]), obs=hares)
        vb.sample("lynx", dist.LogNormal(jnp.log(path[:, 1]), noise[1]), obs=lynx)


def lynx_hare():
    """Hudson's Bay, 1900-1920; four steps a year."""
    return lotka_volterra(data.HARES, data.HUDSON_LYNX, 4)
