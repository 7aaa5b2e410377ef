"""The maps of `TransformedDistribution` under NumPyro's names; they are the bijectors themselves.

To map values, write `transform.forward(z)`: calling a bijector asks whether a value lies on its support.
"""

from vbppl.bijectors.base import Independent as IndependentTransform
from vbppl.bijectors.chain import Chain as ComposeTransform
from vbppl.bijectors.matrix import CorrCholesky as CorrCholeskyTransform
from vbppl.bijectors.matrix import LowerCholesky as LowerCholeskyTransform
from vbppl.bijectors.scalar import Affine as AffineTransform
from vbppl.bijectors.scalar import Positive as ExpTransform
from vbppl.bijectors.scalar import Power as PowerTransform
from vbppl.bijectors.scalar import Real as IdentityTransform
from vbppl.bijectors.scalar import SoftplusPositive as SoftplusTransform
from vbppl.bijectors.scalar import UnitInterval as SigmoidTransform
from vbppl.bijectors.vector import OrderedVector as OrderedTransform
from vbppl.bijectors.vector import Simplex as StickBreakingTransform

__all__ = [
    "AffineTransform",
    "ComposeTransform",
    "CorrCholeskyTransform",
    "ExpTransform",
    "IdentityTransform",
    "IndependentTransform",
    "LowerCholeskyTransform",
    "OrderedTransform",
    "PowerTransform",
    "SigmoidTransform",
    "SoftplusTransform",
    "StickBreakingTransform",
]
