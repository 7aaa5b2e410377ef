"""vbppl: probabilistic programs, variational Bayes, and the evidence of how good the answer is."""

from vbppl import distributions
from vbppl.calibration import Calibration, calibrate
from vbppl.distributions.foreign import foreign
from vbppl.engine import Stochastic
from vbppl.errors import ModelError, VbpplWarning
from vbppl.fitting import fit
from vbppl.guides.amortised import Amortized
from vbppl.guides.gaussian import FullRank, Laplace, MeanField, Pathfinder
from vbppl.guides.low_rank import LowRank
from vbppl.guides.point import MAP
from vbppl.guides.structured import Structured
from vbppl.held_out import Validation
from vbppl.language import deterministic, factor, mutable, param, plate, prng_key, sample, subsample
from vbppl.many import fit_many
from vbppl.models import Model, guide, model
from vbppl.objectives import Elbo, ImportanceWeighted
from vbppl.posterior import Posterior
from vbppl.priors import prior_over
from vbppl.records import Progress, Status
from vbppl.reparam import decenter
from vbppl.sources import Source
from vbppl.target import Target, target
from vbppl.wish import Deterministic

__version__ = "0.1.0"

# In the order of the floors: how a model is written, the waist, how it is approximated.
__all__ = [
    "ModelError",
    "VbpplWarning",
    "distributions",
    "foreign",
    "Source",
    "sample",
    "param",
    "plate",
    "subsample",
    "deterministic",
    "factor",
    "mutable",
    "prng_key",
    "prior_over",
    "model",
    "guide",
    "Model",
    "decenter",
    "target",
    "Target",
    "Progress",
    "Status",
    "MeanField",
    "FullRank",
    "LowRank",
    "Structured",
    "Amortized",
    "Laplace",
    "Pathfinder",
    "MAP",
    "Elbo",
    "ImportanceWeighted",
    "Deterministic",
    "Stochastic",
    "Validation",
    "Posterior",
    "fit",
    "fit_many",
    "Calibration",
    "calibrate",
]
