"""vbppl: probabilistic programs, variational Bayes, and the evidence of how good the answer is."""

from vbppl import distributions
from vbppl.errors import ModelError, VbpplWarning
from vbppl.distributions.foreign import foreign
from vbppl.language import deterministic, factor, param, plate, sample, subsample
from vbppl.models import Model, guide, model
from vbppl.target import Target, target
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.point import MAP
from vbppl.records import Progress, Status
from vbppl.engine import Stochastic
from vbppl.fixed_draws import Deterministic
from vbppl.posterior import Posterior
from vbppl.fitting import fit

__version__ = "0.1.0"

__all__ = [
    "ModelError",
    "VbpplWarning",
    "distributions",
    "foreign",
    "sample",
    "param",
    "plate",
    "subsample",
    "deterministic",
    "factor",
    "model",
    "guide",
    "Model",
    "target",
    "Target",
    "MeanField",
    "FullRank",
    "MAP",
    "Progress",
    "Status",
    "Stochastic",
    "Deterministic",
    "Posterior",
    "fit",
]
