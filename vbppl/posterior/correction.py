"""What a posterior says where weighted draws are its best answer: averages, quantiles and draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import RepeatedDrawsWarning, of_kind
from vbppl.core.numerics import mcmc
from vbppl.posterior.weighted_draws import WeightedDraws, values_of
from vbppl.target.target import Target


def resampled(target: Target, draws: WeightedDraws, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """`n` draws on the sites' supports, `(n, ...)` each; beyond the effective number some are repeated."""
    if n > draws.ess:
        text = (
            f"{n:,} draws are taken of weighted ones that are worth {draws.ess:,.0f}: some stand more than once, "
            "and no average gets more exact by them."
        )
        warnings.warn(RepeatedDrawsWarning(text), stacklevel=4)
    return values_of(target, draws.z[draws.chosen(rng, n)])


class Expectation(NamedTuple):
    """A mean with its Monte Carlo standard error, of the shape of what was averaged."""

    value: np.ndarray | np.floating
    se: np.ndarray | np.floating


def expectation(f: Callable[..., Any], values: Mapping[str, Any], weights: np.ndarray, chains: int = 0) -> Expectation:
    """The weighted mean of `f` over draws of `values`, `(draws, ...)` each; `chains` as in `mc_error`."""
    of_kind("f", f, callable(f), "a function of the values of the sites, by their names")
    found = np.asarray(jax.vmap(f)(jax.tree.map(jnp.asarray, dict(values))), np.float64)
    mean = np.tensordot(weights, found, 1)
    return Expectation(mean[()], mc_error(found, weights, chains)[()])


def mc_error(values: np.ndarray, weights: np.ndarray, chains: int = 0) -> np.ndarray:
    """The standard error of the weighted mean of each scalar of `values`, `(draws, ...)`.

    Args:
      values: independent draws, or those of one Markov chain after the other.
      weights: they sum to one; of chains all alike.
      chains: how many; 0 where the draws are independent.
    """
    if not chains:
        return np.sqrt(np.tensordot(weights**2, (values - np.tensordot(weights, values, 1)) ** 2, 1))
    size = mcmc.ess_mean(values.reshape(chains, len(values) // chains, -1)).reshape(values.shape[1:])
    return np.sqrt(variance(values, weights) / np.where(np.isnan(size), 1.0, size))


def check_levels(q: Any) -> None:
    """Refuse what are no probabilities."""
    try:
        levels = np.asarray(q, np.float64)
    except (TypeError, ValueError):
        levels = np.full(1, np.nan)
    if not np.all((levels >= 0) & (levels <= 1)):
        raise ValueError(f"q must be numbers between 0 and 1, not {q!r:.80}.")


def variance(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted variance of each scalar of `values`, `(draws, ...)`."""
    return np.tensordot(weights, (values - np.tensordot(weights, values, 1)) ** 2, 1)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, q: float | Sequence[float]) -> np.ndarray:
    """Of each scalar of `values`, `(draws, ...)`: linear in between the middles of the draws' shares.

    The first and the last draw are quantiles 0 and 1, as NumPy has it where all weigh the same.
    """
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    found = np.empty((np.size(q), flat.shape[1]))
    for i, column in enumerate(flat.T):
        order = np.argsort(column)
        middles = np.cumsum(weights[order]) - weights[order] / 2
        middles = (middles - middles[0]) / max(middles[-1] - middles[0], 1e-300)
        found[:, i] = np.interp(np.ravel(q), middles, column[order])
    return found.reshape((*np.shape(q), *values.shape[1:]))
