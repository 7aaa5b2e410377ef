"""The maps of `TransformedDistribution` under NumPyro's names; they are the bijectors themselves.

To map values, write `transform.forward(z)`: calling a bijector asks whether a value lies on its support.
"""

from vbppl.distributions.constraints.base import Independent as IndependentTransform
from vbppl.distributions.constraints.compose import Chain as ComposeTransform
from vbppl.distributions.constraints.matrix import CorrCholesky as CorrCholeskyTransform
from vbppl.distributions.constraints.matrix import LowerCholesky as LowerCholeskyTransform
from vbppl.distributions.constraints.scalar import Affine as AffineTransform
from vbppl.distributions.constraints.scalar import Positive as ExpTransform
from vbppl.distributions.constraints.scalar import Power as PowerTransform
from vbppl.distributions.constraints.scalar import Real as IdentityTransform
from vbppl.distributions.constraints.scalar import SoftplusPositive as SoftplusTransform
from vbppl.distributions.constraints.scalar import UnitInterval as SigmoidTransform
from vbppl.distributions.constraints.vector import OrderedVector as OrderedTransform
from vbppl.distributions.constraints.vector import Simplex as StickBreakingTransform

# fmt: off
__all__ = [
    "AffineTransform", "ComposeTransform", "CorrCholeskyTransform", "ExpTransform", "IdentityTransform",
    "IndependentTransform", "LowerCholeskyTransform", "OrderedTransform", "PowerTransform", "SigmoidTransform",
    "SoftplusTransform", "StickBreakingTransform",
]
