"""Distributions under NumPyro's names and arguments.

`constraints/` are the supports, which are the bijectors; `arguments` says what a distribution may be given; `base` is
the protocol of a distribution, with what follows from it, and the wrappers; `stacked` holds those of the steps of a
chain, side by side; `samplers` draws without a loop; `families/` one class a distribution, by support: see its page.
`location_scale` has the coordinates of families that say they have both, `quantiles` those of heavy tails, `kl` the
divergences with a closed form, `rows` some of a batch, `interop` other libraries' distributions, `transforms`
NumPyro's names of the maps. To add a distribution: a frozen pytree beside its siblings with its parameters as fields,
`support`, `_sample` and `_log_density` (and `_moments`, `cdf`, `icdf`, `log_cdf`, `log_survival` where they have a
form), its name in the list below, its formulas in `tests/exact.py`, and a case in
`tests/distributions/test_distributions.py` beside the SciPy distribution it must equal.
"""

from typing import Any

import vbppl.distributions.constraints as constraints
import vbppl.distributions.transforms as transforms
from vbppl.distributions.base import Distribution, ExpandedDistribution, Independent, MaskedDistribution
from vbppl.distributions.families.bounded import Beta, Kumaraswamy, TruncatedNormal, Uniform, VonMises
from vbppl.distributions.families.composite import MixtureGeneral, MixtureSameFamily, TransformedDistribution
from vbppl.distributions.families.counts import (
    BetaBinomial,
    GammaPoisson,
    NegativeBinomial2,
    Poisson,
    ZeroInflatedDistribution,
)
from vbppl.distributions.families.degenerate import Delta, ImproperUniform
from vbppl.distributions.families.finite import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscreteUniform,
    Geometric,
    Multinomial,
)
from vbppl.distributions.families.forms import (
    BernoulliLogits,
    BernoulliProbs,
    BetaProportion,
    BinomialLogits,
    BinomialProbs,
    CategoricalLogits,
    CategoricalProbs,
    GeometricLogits,
    GeometricProbs,
    HalfStudentT,
    LogLogistic,
    LogUniform,
    Mixture,
    MultinomialLogits,
    MultinomialProbs,
    NegativeBinomial,
    NegativeBinomialLogits,
    NegativeBinomialProbs,
    TruncatedCauchy,
    ZeroInflatedNegativeBinomial2,
    ZeroInflatedPoisson,
)
from vbppl.distributions.families.multivariate import (
    LKJ,
    Dirichlet,
    DirichletMultinomial,
    LKJCholesky,
    MultivariateNormal,
)
from vbppl.distributions.families.ordinal import OrderedLogistic, OrderedProbit
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
from vbppl.distributions.families.real import (
    AsymmetricLaplace,
    Cauchy,
    Gumbel,
    Laplace,
    Logistic,
    Normal,
    SkewNormal,
    StudentT,
)
from vbppl.distributions.families.restricted import (
    IntervalCensoredDistribution,
    LeftCensoredDistribution,
    LeftTruncatedDistribution,
    RightCensoredDistribution,
    RightTruncatedDistribution,
    TruncatedDistribution,
    TwoSidedTruncatedDistribution,
)
from vbppl.distributions.families.vectors.normals import (
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateStudentT,
)
from vbppl.distributions.families.vectors.structured import CAR, GaussianRandomWalk, ZeroSumNormal
from vbppl.distributions.families.vectors.wishart import InverseWishart, Wishart
from vbppl.distributions.interop import of_numpyro
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
    "AsymmetricLaplace", "CAR", "DirichletMultinomial", "DiscreteUniform", "GaussianRandomWalk", "HalfStudentT",
    "InverseWishart", "Kumaraswamy", "LowRankMultivariateNormal", "MatrixNormal", "MixtureGeneral",
    "MultivariateStudentT", "OrderedLogistic", "OrderedProbit", "SkewNormal", "VonMises", "Wishart",
    "ZeroInflatedDistribution", "ZeroSumNormal",
    "BernoulliLogits", "BernoulliProbs", "BetaProportion", "BinomialLogits", "BinomialProbs", "CategoricalLogits",
    "CategoricalProbs", "GeometricLogits", "GeometricProbs", "LogLogistic", "LogUniform", "Mixture",
    "MultinomialLogits", "MultinomialProbs", "NegativeBinomial", "NegativeBinomialLogits", "NegativeBinomialProbs",
    "TruncatedCauchy", "ZeroInflatedNegativeBinomial2", "ZeroInflatedPoisson",
]


def __getattr__(name: str) -> Any:
    """What only NumPyro has, where it is installed: `dist.Gompertz` serves as ours do, and so does `dist.util`."""
    if not (name[:1].isupper() or name == "util"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return of_numpyro(name, __all__)
