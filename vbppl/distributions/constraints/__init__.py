"""Supports under NumPyro's constraint names; each of them *is* the bijector onto that support."""

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
    interval,
    less_than,
    nonnegative,
    positive,
    real,
    softplus_positive,
    unit_interval,
)
from vbppl.distributions.constraints.vector import ordered_vector, positive_ordered_vector, real_vector, simplex

__all__ = [
    "real",
    "real_vector",
    "real_matrix",
    "positive",
    "nonnegative",
    "softplus_positive",
    "greater_than",
    "less_than",
    "interval",
    "unit_interval",
    "simplex",
    "ordered_vector",
    "positive_ordered_vector",
    "lower_cholesky",
    "corr_cholesky",
    "positive_definite",
    "corr_matrix",
    "independent",
    "boolean",
    "nonnegative_integer",
    "positive_integer",
    "integer_interval",
    "integer_greater_than",
    "multinomial",
]
