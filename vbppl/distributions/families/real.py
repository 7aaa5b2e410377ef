"""Distributions of one number on the whole real line."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import jax.scipy.stats as stats
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import HALF_LOG_TWO_PI
from vbppl.core.types import ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.base import Bijector
from vbppl.distributions.constraints.scalar import real


@pytree
class Normal(Distribution):
    """`log p(x) = -((x - loc) / scale)^2 / 2 - log scale - log(2 pi) / 2`; `scale` is the standard deviation.

    >>> round(float(Normal(0.0, 2.0).log_prob(1.0)), 4)
    -1.7371
    """

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support: ClassVar[Bijector] = real

    def _sample(self, key, shape):
        return self.loc + self.scale * jax.random.normal(key, shape, self.dtype)

    def log_prob(self, x):
        u = (x - self.loc) / self.scale
        return -0.5 * jnp.square(u) - (jnp.log(self.scale) + HALF_LOG_TWO_PI)

    @property
    def mean(self):
        return self._fill(self.loc)

    @property
    def variance(self):
        return self._fill(jnp.square(self.scale))

    def cdf(self, x):
        return special.ndtr((x - self.loc) / self.scale)

    def icdf(self, q):
        return self.loc + self.scale * special.ndtri(q)


@pytree
class StudentT(Distribution):
    """Student's t with `df` degrees of freedom, moved by `loc` and stretched by `scale`."""

    df: ArrayLike
    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support: ClassVar[Bijector] = real

    def _sample(self, key, shape):
        df = jnp.asarray(self.df, self.dtype)
        return self.loc + self.scale * jax.random.t(key, df, shape, self.dtype)

    def log_prob(self, x):
        return stats.t.logpdf(x, self.df, self.loc, self.scale)

    @property
    def mean(self):
        return self._fill(jnp.where(jnp.greater(self.df, 1), self.loc, jnp.nan))

    @property
    def variance(self):
        df = jnp.where(jnp.greater(self.df, 2), self.df, 3.0)
        finite = jnp.square(self.scale) * df / (df - 2)
        heavy = jnp.where(jnp.greater(self.df, 1), jnp.inf, jnp.nan)
        return self._fill(jnp.where(jnp.greater(self.df, 2), finite, heavy))


@pytree
class Cauchy(Distribution):
    """`p(x) = 1 / (pi scale (1 + ((x - loc) / scale)^2))`; it has neither mean nor variance."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support: ClassVar[Bijector] = real

    def _sample(self, key, shape):
        return self.loc + self.scale * jax.random.cauchy(key, shape, self.dtype)

    def log_prob(self, x):
        return stats.cauchy.logpdf(x, self.loc, self.scale)

    def cdf(self, x):
        return 0.5 + jnp.arctan((x - self.loc) / self.scale) / np.pi

    def icdf(self, q):
        return self.loc + self.scale * jnp.tan(np.pi * (q - 0.5))


@pytree
class Laplace(Distribution):
    """`p(x) = exp(-|x - loc| / scale) / (2 scale)`."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support: ClassVar[Bijector] = real

    def _sample(self, key, shape):
        return self.loc + self.scale * jax.random.laplace(key, shape, self.dtype)

    def log_prob(self, x):
        return stats.laplace.logpdf(x, self.loc, self.scale)

    @property
    def mean(self):
        return self._fill(self.loc)

    @property
    def variance(self):
        return self._fill(2.0 * jnp.square(self.scale))

    def cdf(self, x):
        return stats.laplace.cdf(x, self.loc, self.scale)

    def icdf(self, q):
        side = jnp.sign(q - 0.5)
        return self.loc - self.scale * side * jnp.log1p(-2 * jnp.abs(q - 0.5))


@pytree
class Logistic(Distribution):
    """The distribution whose `cdf` is `1 / (1 + exp(-(x - loc) / scale))`."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support: ClassVar[Bijector] = real

    def _sample(self, key, shape):
        return self.loc + self.scale * jax.random.logistic(key, shape, self.dtype)

    def log_prob(self, x):
        u = (x - self.loc) / self.scale
        return -jax.nn.softplus(u) - jax.nn.softplus(-u) - jnp.log(self.scale)

    @property
    def mean(self):
        return self._fill(self.loc)

    @property
    def variance(self):
        return self._fill(jnp.square(self.scale) * (np.pi**2 / 3))

    def cdf(self, x):
        return jax.nn.sigmoid((x - self.loc) / self.scale)

    def icdf(self, q):
        return self.loc + self.scale * special.logit(q)


@pytree
class Gumbel(Distribution):
    """The limit of maxima, whose `cdf` is `exp(-exp(-(x - loc) / scale))`."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support: ClassVar[Bijector] = real

    def _sample(self, key, shape):
        return self.loc + self.scale * jax.random.gumbel(key, shape, self.dtype)

    def log_prob(self, x):
        u = (x - self.loc) / self.scale
        return -u - jnp.exp(-u) - jnp.log(self.scale)

    @property
    def mean(self):
        return self._fill(self.loc + self.scale * np.euler_gamma)

    @property
    def variance(self):
        return self._fill(jnp.square(self.scale) * (np.pi**2 / 6))

    def cdf(self, x):
        return jnp.exp(-jnp.exp(-(x - self.loc) / self.scale))

    def icdf(self, q):
        return self.loc - self.scale * jnp.log(-jnp.log(q))
