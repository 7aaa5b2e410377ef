"""A plain log density as a model of one flat latent site and one factor, so that all that is said of models holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.types import Array
from vbppl.distributions.constraints.scalar import real
from vbppl.distributions.families.degenerate import ImproperUniform
from vbppl.model.model import Model, model
from vbppl.model.primitives import factor, sample


@model
def plain_density(log_density: Callable[[Array], Any], dim: int) -> None:
    """A model that is nothing but a function of one vector "z", `(dim,)`."""
    # A flat prior adds exactly zero, so the density stays what the function says, its constant too.
    z = sample("z", ImproperUniform(real, (), (dim,)))
    value = log_density(z)
    if jnp.shape(value) != ():
        raise ModelError(
            f"the log density has shape {jnp.shape(value)} at one point z of shape {(dim,)}, but must be a scalar.",
            mend="Sum over its terms: return jnp.sum(...).",
        )
    factor("density", value)


def is_plain(program: Model) -> bool:
    """Was it made of a plain function?"""
    return program.function is inspect.unwrap(plain_density)
