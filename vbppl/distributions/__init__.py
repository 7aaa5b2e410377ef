"""Distributions under NumPyro's names and arguments.

`constraints/` are the supports, which are the bijectors; `arguments` says what a distribution may be given; `base` is
the protocol of a distribution, with what follows from it, and the wrappers; `stacked` holds those of the steps of a
chain, side by side; `families/` one class a distribution, by support: `real`, `positive`, `bounded`, `finite`,
`counts`, `multivariate`, `degenerate`; of others `composite` and `restricted` (censored, truncated). `location_scale`
has the coordinates of families that say they have both, `kl` the divergences with a closed form, `rows` some of a
batch, `interop` other libraries' distributions, `transforms` NumPyro's names of the maps. To add a distribution: a
frozen pytree beside its siblings with its parameters as fields, `support`, `_sample` and `_log_density` (and
`_moments`, `cdf`, `icdf`, `log_cdf`, `log_survival` where they have a form), its name in the list below, its formulas
in `tests/exact.py`, and a case in `tests/distributions/test_distributions.py` beside the SciPy distribution it must
equal.
"""

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
from vbppl.distributions.families.restricted import (
    IntervalCensoredDistribution,
    LeftCensoredDistribution,
    LeftTruncatedDistribution,
    RightCensoredDistribution,
    RightTruncatedDistribution,
    TruncatedDistribution,
    TwoSidedTruncatedDistribution,
)
from vbppl.distributions.kl import kl_divergence

# fmt: off
__all__ = [
    "Bernoulli", "Beta", "BetaBinomial", "Binomial", "Categorical", "Cauchy", "Chi2", "Delta", "Dirichlet",
    "Distribution", "ExpandedDistribution", "Exponential", "Gamma", "GammaPoisson", "Geometric", "Gumbel",
    "HalfCauchy", "HalfNormal", "ImproperUniform", "Independent", "InverseGamma", "LKJ", "LKJCholesky", "Laplace",
    "LogNormal", "Logistic", "MaskedDistribution", "MixtureSameFamily", "Multinomial", "MultivariateNormal",
    "NegativeBinomial2", "Normal", "Pareto", "Poisson", "StudentT", "TransformedDistribution", "TruncatedNormal",
    "IntervalCensoredDistribution", "LeftCensoredDistribution", "LeftTruncatedDistribution",
    "RightCensoredDistribution", "RightTruncatedDistribution", "TruncatedDistribution", "TwoSidedTruncatedDistribution",
    "Uniform", "Weibull", "constraints", "kl_divergence", "transforms",
]
