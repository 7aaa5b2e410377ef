"""The one list of supports, under NumPyro's names; each of them *is* the bijector onto that support.

`base` is the protocol; `scalar`, `vector` and `matrix` are maps from the reals onto one event; `integer` holds the
supports that no map reaches; `compose` puts maps one after the other. To add one: a frozen pytree with
`forward_and_log_det`, `inverse` and `check`, its name here, and a case in `tests/distributions/test_constraints.py`.
`interop` finds NumPyro's constraints by these names.
"""

from vbppl.distributions.constraints.base import independent
from vbppl.distributions.constraints.integer import (
    boolean,
    integer_greater_than,
    integer_interval,
    multinomial,
    nonnegative_integer,
    positive_integer,
)
from vbppl.distributions.constraints.matrix import (
    corr_cholesky,
    corr_matrix,
    lower_cholesky,
    positive_definite,
    real_matrix,
)
from vbppl.distributions.constraints.scalar import (
    greater_than,
    greater_than_eq,
    interval,
    less_than,
    less_than_eq,
    nonnegative,
    positive,
    real,
    softplus_positive,
    unit_interval,
)
from vbppl.distributions.constraints.vector import (
    ordered_vector,
    positive_ordered_vector,
    real_vector,
    simplex,
    zero_sum,
)

# fmt: off
__all__ = [
    "real", "real_vector", "real_matrix", "positive", "nonnegative", "softplus_positive", "greater_than",
    "greater_than_eq", "less_than", "less_than_eq", "interval", "unit_interval", "simplex", "ordered_vector",
    "positive_ordered_vector", "lower_cholesky", "corr_cholesky", "positive_definite", "corr_matrix", "independent",
    "zero_sum", "boolean", "nonnegative_integer", "positive_integer", "integer_interval", "integer_greater_than",
    "multinomial",
]
