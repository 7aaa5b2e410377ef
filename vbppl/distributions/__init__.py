"""Distributions under NumPyro's names and arguments."""

import vbppl.distributions.constraints as constraints
import vbppl.distributions.transforms as transforms
from vbppl.distributions.base import Distribution, ExpandedDistribution, Independent, MaskedDistribution
from vbppl.distributions.families.bounded import Beta, TruncatedNormal, Uniform
from vbppl.distributions.families.composite import MixtureSameFamily, TransformedDistribution
from vbppl.distributions.families.counts import BetaBinomial, GammaPoisson, NegativeBinomial2, Poisson
from vbppl.distributions.families.degenerate import Delta, ImproperUniform
from vbppl.distributions.families.finite import Bernoulli, Binomial, Categorical, Geometric, Multinomial
from vbppl.distributions.families.multivariate import LKJ, Dirichlet, LKJCholesky, MultivariateNormal
from vbppl.distributions.families.positive import (
    Chi2,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    LogNormal,
    Pareto,
    Weibull,
)
from vbppl.distributions.families.real import Cauchy, Gumbel, Laplace, Logistic, Normal, StudentT
from vbppl.distributions.kl import kl_divergence

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "Cauchy",
    "Chi2",
    "Delta",
    "Dirichlet",
    "Distribution",
    "ExpandedDistribution",
    "Exponential",
    "Gamma",
    "GammaPoisson",
    "Geometric",
    "Gumbel",
    "HalfCauchy",
    "HalfNormal",
    "ImproperUniform",
    "Independent",
    "InverseGamma",
    "LKJ",
    "LKJCholesky",
    "Laplace",
    "LogNormal",
    "Logistic",
    "MaskedDistribution",
    "MixtureSameFamily",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial2",
    "Normal",
    "Pareto",
    "Poisson",
    "StudentT",
    "TransformedDistribution",
    "TruncatedNormal",
    "Uniform",
    "Weibull",
    "constraints",
    "kl_divergence",
    "transforms",
]
