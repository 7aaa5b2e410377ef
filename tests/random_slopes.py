"""Random slopes with correlations: the sleep study, and its evidence by quadrature.

Reaction times (ms) of 18 subjects on ten days without sleep: Belenky et al. 2003, "Patterns of performance degradation
and restoration during sleep restriction and subsequent recovery", the numbers as in stitchfix/MomentMixedModels
(`data/sleepstudy.csv`, Apache 2.0).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import scipy.optimize as so
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist

DAYS = np.arange(10.0)
REACTION = np.array(
    [
        [249.56, 258.7047, 250.8006, 321.4398, 356.8519, 414.6901, 382.2038, 290.1486, 430.5853, 466.3535],
        [222.7339, 205.2658, 202.9778, 204.707, 207.7161, 215.9618, 213.6303, 217.7272, 224.2957, 237.3142],
        [199.0539, 194.3322, 234.32, 232.8416, 229.3074, 220.4579, 235.4208, 255.7511, 261.0125, 247.5153],
        [321.5426, 300.4002, 283.8565, 285.133, 285.7973, 297.5855, 280.2396, 318.2613, 305.3495, 354.0487],
        [287.6079, 285.0, 301.8206, 320.1153, 316.2773, 293.3187, 290.075, 334.8177, 293.7469, 371.5811],
        [234.8606, 242.8118, 272.9613, 309.7688, 317.4629, 309.9976, 454.1619, 346.8311, 330.3003, 253.8644],
        [283.8424, 289.555, 276.7693, 299.8097, 297.171, 338.1665, 332.0265, 348.8399, 333.36, 362.0428],
        [265.4731, 276.2012, 243.3647, 254.6723, 279.0244, 284.1912, 305.5248, 331.5229, 335.7469, 377.299],
        [241.6083, 273.9472, 254.4907, 270.8021, 251.4519, 254.6362, 245.4523, 235.311, 235.7541, 237.2466],
        [312.3666, 313.8058, 291.6112, 346.1222, 365.7324, 391.8385, 404.2601, 416.6923, 455.8643, 458.9167],
        [236.1032, 230.3167, 238.9256, 254.922, 250.7103, 269.7744, 281.5648, 308.102, 336.2806, 351.6451],
        [256.2968, 243.4543, 256.2046, 255.5271, 268.9165, 329.7247, 379.4445, 362.9184, 394.4872, 389.0527],
        [250.5265, 300.0576, 269.8939, 280.5891, 271.8274, 304.6336, 287.7466, 266.5955, 321.5418, 347.5655],
        [221.6771, 298.1939, 326.8785, 346.8555, 348.7402, 352.8287, 354.4266, 360.4326, 375.6406, 388.5417],
        [271.9235, 268.4369, 257.2424, 277.6566, 314.8222, 317.2135, 298.1353, 348.1229, 340.28, 366.5131],
        [225.264, 234.5235, 238.9008, 240.473, 267.5373, 344.1937, 281.1481, 347.5855, 365.163, 372.2288],
        [269.8804, 272.4428, 277.8989, 281.7895, 279.1705, 284.512, 259.2658, 304.6306, 350.7807, 369.4692],
        [269.4117, 273.474, 297.5968, 310.6316, 287.1726, 329.6076, 334.4818, 343.2199, 369.1417, 364.1236],
    ]
)
# Log evidences, and means and sds of (tau, correlation, sigma), by `by_quadrature` at 37 points an axis, 8 sds wide; at
# 25 points the log evidences are the same within 2e-4.
ALL_SUBJECTS, SIX_SUBJECTS = -888.5076, -316.7317
SIX_MEAN = np.array([38.7622, 8.6009, 0.1423, 35.8077])
SIX_SD = np.array([17.0580, 4.2763, 0.3766, 3.7522])


def hypers():
    """The means of intercepts and slopes, their scales, the factor of their correlations, and the noise."""
    mu = vb.sample("mu", dist.Normal(jnp.array([250.0, 10.0]), jnp.array([100.0, 20.0])).to_event(1))
    tau = vb.sample("tau", dist.HalfNormal(jnp.array([50.0, 20.0])).to_event(1))
    factor = vb.sample("factor", dist.LKJCholesky(2, 2.0))
    return mu, tau, factor, vb.sample("sigma", dist.HalfNormal(50.0))


@vb.model
def with_vectors(y, days):
    """Each subject's intercept and slope as one vector."""
    mu, tau, factor, sigma = hypers()
    with vb.plate("subject", len(y)):
        b = vb.sample("b", dist.MultivariateNormal(mu, scale_tril=tau[:, None] * factor))
        vb.sample("y", dist.Normal(b[:, :1] + b[:, 1:] * days, sigma).to_event(1), obs=y)


@vb.model
def one_by_one(y, days):
    """The same: intercepts, and slopes given these."""
    mu, tau, factor, sigma = hypers()
    with vb.plate("subject", len(y)):
        a = vb.sample("a", dist.Normal(mu[0], tau[0]))
        slope = mu[1] + tau[1] * factor[1, 0] * (a - mu[0]) / tau[0]
        b = vb.sample("b", dist.Normal(slope, tau[1] * factor[1, 1]))
        vb.sample("y", dist.Normal(a[:, None] + b[:, None] * days, sigma).to_event(1), obs=y)


@vb.model
def by_hand(y, days):
    """The same, non-centred by hand."""
    mu, tau, factor, sigma = hypers()
    with vb.plate("subject", len(y)):
        z = vb.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        b = mu + z @ (tau[:, None] * factor).T
        vb.sample("y", dist.Normal(b[:, :1] + b[:, 1:] * days, sigma).to_event(1), obs=y)


def by_quadrature(y, days, points, width):
    """The log evidence, and means and sds of (tau, correlation, sigma).

    Means, intercepts and slopes are integrated in closed form, the four that are left on a grid around the mode.
    """
    x = np.stack([np.ones_like(days), days], axis=1)
    square, (subjects, times) = x.T @ x, y.shape
    fits = y @ x @ np.linalg.inv(square)  # by least squares: all that the data say but for the noise
    left, mean = np.sum((y - fits @ x.T) ** 2), fits.mean(axis=0)
    scatter = (fits - mean).T @ (fits - mean)

    def normal(covariance, square_of, count):
        log_det = np.linalg.slogdet(covariance)[1]
        squares = np.einsum("...ij,ij->...", np.linalg.inv(covariance), square_of)
        return -0.5 * (count * (log_det + 2 * np.log(2 * np.pi)) + squares)

    def log_density(at):
        tau, rho, sigma = np.exp(at[..., :2]), np.tanh(at[..., 2]), np.exp(at[..., 3])
        prior = tau[..., :, None] * tau[..., None, :] * np.where(np.eye(2), 1.0, rho[..., None, None])
        each = prior + sigma[..., None, None] ** 2 * np.linalg.inv(square)
        noise = -(times - 2) / 2 * np.log(2 * np.pi * sigma**2) - np.linalg.slogdet(square)[1] / 2
        found = subjects * noise - left / (2 * sigma**2) + normal(each, scatter, subjects - 1) - np.log(subjects)
        away = mean - np.array([250.0, 10.0])
        found += normal(each / subjects + np.diag([100.0**2, 20.0**2]), np.outer(away, away), 1)
        found += (st.halfnorm.logpdf(tau, scale=[50.0, 20.0]) + at[..., :2]).sum(axis=-1)
        found += st.halfnorm.logpdf(sigma, scale=50.0) + at[..., 3]
        return found + st.beta.logpdf((rho + 1) / 2, 2, 2) - np.log(2) + np.log1p(-(rho**2))

    mode = so.minimize(lambda at: -log_density(at), [3.2, 1.8, 0.1, 3.2], method="Nelder-Mead", tol=1e-8).x
    steps = 1e-3 * np.eye(4)
    corners = [
        [log_density(mode + s * a + t * b) * s * t for a in steps for b in steps] for s in (1, -1) for t in (1, -1)
    ]
    factor = np.linalg.cholesky(np.linalg.inv(-np.sum(corners, axis=0).reshape(4, 4) / 4e-6))
    axis = np.linspace(-width, width, points)
    at = mode + np.stack(np.meshgrid(*[axis] * 4, indexing="ij"), axis=-1).reshape(-1, 4) @ factor.T
    log_p = np.concatenate([log_density(part) for part in np.array_split(at, 40)])
    total = np.exp(log_p - log_p.max())
    evidence = np.log(total.sum()) + log_p.max() + 4 * np.log(axis[1] - axis[0]) + np.log(np.diag(factor)).sum()
    values = np.concatenate([np.exp(at[:, :2]), np.tanh(at[:, 2:3]), np.exp(at[:, 3:])], axis=1)
    mean = total @ values / total.sum()
    return evidence, mean, np.sqrt(total @ (values - mean) ** 2 / total.sum())
