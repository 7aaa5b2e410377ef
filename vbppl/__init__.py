"""vbppl: probabilistic programs, variational Bayes, and the evidence of how good the answer is."""

from typing import TYPE_CHECKING

from vbppl import distributions, guides, inference
from vbppl.core import errors
from vbppl.core.errors import ModelError, VbpplWarning
from vbppl.data.shards import shard
from vbppl.data.source import Source
from vbppl.distributions.interop import foreign
from vbppl.fitting.calibration import calibrate
from vbppl.fitting.fit import fit
from vbppl.fitting.fit_many import fit_many
from vbppl.fitting.refine import refine
from vbppl.guides.amortized import Amortized
from vbppl.guides.gaussian import FullRank, Laplace, MeanField, Pathfinder
from vbppl.guides.low_rank import LowRank
from vbppl.guides.point import MAP
from vbppl.inference.deterministic.problem import Deterministic
from vbppl.inference.stochastic.settings import Stochastic
from vbppl.model.control_flow.scan import scan
from vbppl.model.model import Model, guide, model
from vbppl.model.modules import mutable, prior_over, prng_key
from vbppl.model.outside.numpyro import of_numpyro as _of_numpyro
from vbppl.model.primitives import deterministic, factor, param, plate, sample, subsample
from vbppl.model.reparam import decenter
from vbppl.posterior.export import plots as plot
from vbppl.posterior.export.arviz import to_arviz
from vbppl.posterior.export.page import write_report
from vbppl.posterior.export.storage import load, save
from vbppl.posterior.posterior import Posterior
from vbppl.target.target import Target, density, target

__version__ = "0.1.0"

# In the order of the wings: how a model is written, the waist, how it is approximated. What fewer people touch is found
# one step further in: `errors`, `guides`, `inference`.
# fmt: off
__all__ = [
    "ModelError", "VbpplWarning", "errors",
    "Source", "shard", "distributions", "foreign",
    "sample", "param", "plate", "subsample", "deterministic", "factor", "scan", "mutable", "prng_key", "prior_over",
    "model", "guide", "Model", "decenter",
    "target", "density", "Target",
    "MeanField", "FullRank", "LowRank", "Amortized", "Laplace", "Pathfinder", "MAP", "guides",
    "Deterministic", "Stochastic", "inference",
    "Posterior", "save", "load", "plot", "write_report", "to_arviz",
    "fit", "fit_many", "refine", "calibrate",
]
# fmt: on

if TYPE_CHECKING:  # which then knows all names that there are
    from numpyro import handlers as handlers
else:

    def __getattr__(name: str) -> object:
        """NumPyro's `handlers`, where it is installed, and what its other words are here."""
        return _of_numpyro(name)
