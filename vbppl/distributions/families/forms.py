"""Distributions that are others seen otherwise: folded, or under the names and parameters that other languages use.

The functions make one of our families: `BernoulliLogits(t)` is `Bernoulli(logits=t)`.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.core.special import LOG_TWO, betaln, safe_log
from vbppl.core.types import ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.scalar import Positive, nonnegative
from vbppl.distributions.families.bounded import Beta, Uniform
from vbppl.distributions.families.composite import MixtureGeneral, MixtureSameFamily, TransformedDistribution
from vbppl.distributions.families.counts import GammaPoisson, NegativeBinomial2, Poisson, ZeroInflatedDistribution
from vbppl.distributions.families.counts import NegativeBinomialLogits as OfLogits
from vbppl.distributions.families.finite import Bernoulli, Binomial, Categorical, Geometric, Multinomial
from vbppl.distributions.families.real import Cauchy, Logistic, StudentT
from vbppl.distributions.families.restricted import TruncatedDistribution


@pytree
class HalfStudentT(Distribution):
    """`|u|`, where `u` is Student's t with `df` degrees of freedom, stretched by `scale`."""

    df: ArrayLike
    scale: ArrayLike = 1.0
    support = nonnegative

    @property
    def _whole(self) -> StudentT:
        return StudentT(self.df, 0.0, self.scale)

    def _sample(self, key, shape):
        return jnp.abs(self._whole._sample(key, shape))

    def _log_density(self, x):
        return self._whole.log_prob(x) + LOG_TWO

    def _moments(self):
        df = jnp.asarray(self.df, self.dtype)
        some = jnp.where(df > 1, df, 2.0)
        mean = 2.0 * self.scale * jnp.sqrt(some) * jnp.exp(-betaln(0.5 * some, 0.5)) / (some - 1.0)
        mean = jnp.where(df > 1, mean, jnp.inf)
        return mean, jnp.where(df > 2, self._whole.variance - jnp.square(jnp.where(df > 2, mean, 0.0)), jnp.inf)

    def cdf(self, x):
        return -jnp.expm1(self.log_survival(x))

    def log_cdf(self, x):
        return safe_log(self.cdf(x))

    def log_survival(self, x):
        return self._whole.log_survival(jnp.maximum(x, 0.0)) + LOG_TWO


def BernoulliLogits(logits: ArrayLike) -> Bernoulli:
    """`Bernoulli(logits=logits)`."""
    return Bernoulli(logits=logits)


def BernoulliProbs(probs: ArrayLike) -> Bernoulli:
    """`Bernoulli(probs=probs)`."""
    return Bernoulli(probs=probs)


def BinomialLogits(logits: ArrayLike, total_count: ArrayLike = 1) -> Binomial:
    """`Binomial(total_count, logits=logits)`."""
    return Binomial(total_count, logits=logits)


def BinomialProbs(probs: ArrayLike, total_count: ArrayLike = 1) -> Binomial:
    """`Binomial(total_count, probs=probs)`."""
    return Binomial(total_count, probs=probs)


def CategoricalLogits(logits: ArrayLike) -> Categorical:
    """`Categorical(logits=logits)`."""
    return Categorical(logits=logits)


def CategoricalProbs(probs: ArrayLike) -> Categorical:
    """`Categorical(probs=probs)`."""
    return Categorical(probs=probs)


def GeometricLogits(logits: ArrayLike) -> Geometric:
    """`Geometric(logits=logits)`."""
    return Geometric(logits=logits)


def GeometricProbs(probs: ArrayLike) -> Geometric:
    """`Geometric(probs=probs)`."""
    return Geometric(probs=probs)


def MultinomialLogits(logits: ArrayLike, total_count: ArrayLike = 1) -> Multinomial:
    """`Multinomial(total_count, logits=logits)`."""
    return Multinomial(total_count, logits=logits)


def MultinomialProbs(probs: ArrayLike, total_count: ArrayLike = 1) -> Multinomial:
    """`Multinomial(total_count, probs=probs)`."""
    return Multinomial(total_count, probs=probs)


def NegativeBinomialLogits(total_count: ArrayLike, logits: ArrayLike) -> Distribution:
    """The number of heads before `total_count` tails, where `logits` are those of heads.

    The density is that of logits of any size; draws, moments and tails of those from -80 to 80 in 32 bits.
    """
    return OfLogits(total_count, logits)


def NegativeBinomialProbs(total_count: ArrayLike, probs: ArrayLike) -> GammaPoisson:
    """The number of heads before `total_count` tails, where `probs` is the probability of heads."""
    return GammaPoisson(total_count, 1.0 / jnp.asarray(probs) - 1.0)


def NegativeBinomial(
    total_count: ArrayLike, probs: ArrayLike | None = None, logits: ArrayLike | None = None
) -> Distribution:
    """The number of heads before `total_count` tails, where heads have `probs` or `logits`; else a `ModelError`."""
    if (probs is None) == (logits is None):
        raise ModelError(
            "NegativeBinomial takes exactly one of probs, logits.",
            mend="Write NegativeBinomial(total_count, probs=...).",
        )
    return NegativeBinomialLogits(total_count, logits) if probs is None else NegativeBinomialProbs(total_count, probs)


def ZeroInflatedPoisson(gate: ArrayLike, rate: ArrayLike = 1.0) -> ZeroInflatedDistribution:
    """`ZeroInflatedDistribution(Poisson(rate), gate)`."""
    return ZeroInflatedDistribution(Poisson(rate), gate)


def ZeroInflatedNegativeBinomial2(
    mean: ArrayLike, concentration: ArrayLike, *, gate: ArrayLike = None, gate_logits: ArrayLike = None
) -> ZeroInflatedDistribution:
    """`ZeroInflatedDistribution(NegativeBinomial2(mean, concentration), gate)`; or with `gate_logits`."""
    return ZeroInflatedDistribution(NegativeBinomial2(mean, concentration), gate, gate_logits)


def BetaProportion(mean: ArrayLike, concentration: ArrayLike) -> Beta:
    """The Beta with this mean, whose two concentrations have the sum `concentration`."""
    return Beta(jnp.asarray(mean) * concentration, (1.0 - jnp.asarray(mean)) * concentration)


@pytree
class _UniformOfLogs(TransformedDistribution):
    def _moments(self):
        # With `g^2 = low high` and `h = log(high / low) / 2`: `E x = g sinh(h)/h`, `var x = E x (g cosh(h) - E x)`.
        logs: Any = self.base_dist
        low, high = logs.low, logs.high
        h, middle = 0.5 * (high - low), jnp.exp(0.5 * (high + low))
        small = jnp.where(h < 1.0, h, 1.0)
        series = sum(2 * k / math.factorial(2 * k + 1) * small ** (2 * k) for k in range(1, 8))
        mean = jnp.sinh(h) / h
        return middle * mean, jnp.square(middle) * mean * jnp.where(h < 1.0, series, jnp.cosh(h) - mean)


def LogUniform(low: ArrayLike, high: ArrayLike) -> TransformedDistribution:
    """`log x` is uniform between `log low` and `log high`: `p(x) = 1 / (x log(high / low))`."""
    return _UniformOfLogs(Uniform(jnp.log(low), jnp.log(high)), (Positive(),))


def LogLogistic(scale: ArrayLike, concentration: ArrayLike) -> TransformedDistribution:
    """`P(X > x) = 1 / (1 + (x / scale)^concentration)`: Fisk's distribution, whose logarithm is logistic."""
    return TransformedDistribution(Logistic(jnp.log(scale), 1.0 / jnp.asarray(concentration)), (Positive(),))


def TruncatedCauchy(
    loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, *, low: ArrayLike | None = None, high: ArrayLike | None = None
) -> TruncatedDistribution:
    """`TruncatedDistribution(Cauchy(loc, scale), low, high)`."""
    return TruncatedDistribution(Cauchy(loc, scale), low, high)


def Mixture(mixing_distribution: Categorical, component_distributions: Any) -> Distribution:
    """`MixtureSameFamily` of one distribution with a batch of components, `MixtureGeneral` of a list of them.

    `mixing_distribution` is a `Categorical`; `component_distributions` are that one or that list.
    """
    if isinstance(component_distributions, Distribution):
        return MixtureSameFamily(mixing_distribution, component_distributions)
    return MixtureGeneral(mixing_distribution, component_distributions)
