"""Kullback-Leibler divergences that have a closed form: `KL(q, p) = E_q[log q(x) - log p(x)]`, in nats."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.special import deviance, log_gamma_divergence, sum_rightmost
from vbppl.core.types import Array
from vbppl.distributions.base import Distribution, ExpandedDistribution, Independent
from vbppl.distributions.families.bounded import Beta
from vbppl.distributions.families.degenerate import Delta
from vbppl.distributions.families.multivariate import Dirichlet, MultivariateNormal, solve_lower
from vbppl.distributions.families.positive import Gamma, LogNormal
from vbppl.distributions.families.real import Normal


def has_kl(q: Distribution, p: Distribution) -> bool:
    """Does `kl_divergence(q, p)` have a closed form? Decided by the types alone.

    >>> has_kl(Normal(0.0, 1.0), Normal(1.0, 1.0)), has_kl(Normal(0.0, 1.0), Gamma(1.0, 1.0))
    (True, False)
    """
    (core_q, dims_q), (core_p, dims_p) = _peel(q), _peel(p)
    if isinstance(core_q, Delta):
        return True
    return dims_q == dims_p and (type(core_q), type(core_p)) in _FORMULAS


def kl_divergence(q: Distribution, p: Distribution) -> Array:
    """`E_q[log q(x) - log p(x)]`, in the batch shape of `q` and `p` together.

    Raises `NotImplementedError` where there is no closed form; ask `has_kl` first.

    >>> round(float(kl_divergence(Normal(2.0, 2.0), Normal(-1.0, 1.0))), 6)
    5.306853
    """
    if not has_kl(q, p):
        raise NotImplementedError(f"KL({type(q).__name__}, {type(p).__name__}) has no closed form here.")
    if isinstance(_peel(q)[0], Delta):
        return q.log_prob(q.mean) - p.log_prob(q.mean)
    return sum_rightmost(kl_by_coordinate(q, p), _peel(q)[1])


def has_coordinates(q: Distribution) -> bool:
    """Whether `kl_by_coordinate` may be asked of `q`: not of a point, whose divergence is its log density."""
    return not isinstance(_peel(q)[0], Delta)


def kl_by_coordinate(q: Distribution, p: Distribution) -> Array:
    """The same, before it is summed over the dimensions that `to_event` made an event."""
    (core_q, dims), (core_p, _) = _peel(q), _peel(p)
    each = _FORMULAS[type(core_q), type(core_p)](core_q, core_p)
    shape = np.broadcast_shapes(*((*d.batch_shape, *d.event_shape[:dims]) for d in (q, p)))
    return jnp.broadcast_to(each, shape)


def normal_beside(p: Distribution, loc: Array, sd: Array, factor: Array | None = None) -> Distribution | None:
    """What `x` is if its unconstrained `z` is `N(loc, sd)`, where that has a closed-form divergence from `p`.

    Args:
      p: the distribution that it is to be compared with: its family decides.
      loc, sd: of shape batch + event of `p`.
      factor: of vectors, the lower triangular factor of the covariance, in the place of `sd`.

    >>> q = normal_beside(LogNormal(0.0, 1.0), jnp.asarray(1.0), jnp.asarray(1.0))
    >>> print(type(q).__name__, kl_divergence(q, LogNormal(0.0, 1.0)))
    LogNormal 0.5
    """
    core, dims = _peel(p)
    for family in (Normal, LogNormal):
        if type(core) is family:
            return family(loc, sd).to_event(dims)
    if type(core) is MultivariateNormal:
        factor = sd[..., None] * jnp.eye(sd.shape[-1], dtype=sd.dtype) if factor is None else factor
        return MultivariateNormal(loc, scale_tril=factor).to_event(dims)
    return None


def normal_moments(q: Distribution, p: Distribution) -> tuple[Array, Array] | None:
    """`loc` and `sd` of `q` in unconstrained space, if it is normal there, as `normal_beside` would make it.

    >>> loc, sd = normal_moments(LogNormal(0.5, 2.0), LogNormal(0.0, 1.0))
    >>> print(loc, sd)
    0.5 2.0
    """
    (core, _), (core_p, _) = _peel(q), _peel(p)
    if not isinstance(core, (Normal, LogNormal)) or core.support is not core_p.support:
        return None
    shape = (*q.batch_shape, *q.event_shape)
    return jnp.broadcast_to(core.loc, shape), jnp.broadcast_to(core.scale, shape)


def _peel(distribution: Distribution) -> tuple[Distribution, int]:
    """What is inside `expand` and `to_event`, and how many batch dimensions of it are read as an event."""
    dims = 0
    while isinstance(distribution, (ExpandedDistribution, Independent)):
        if isinstance(distribution, Independent):
            dims += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, dims


def _normal(q: Normal | LogNormal, p: Normal | LogNormal) -> Array:
    ratio = q.scale / p.scale
    distance = (q.loc - p.loc) / p.scale
    return 0.5 * (jnp.square(ratio) + jnp.square(distance) - 1.0) - jnp.log(ratio)


def _multivariate_normal(q: MultivariateNormal, p: MultivariateNormal) -> Array:
    size = q.event_shape[-1]
    batch = np.broadcast_shapes(np.shape(p.scale_tril), np.shape(q.scale_tril))
    dtype = jnp.result_type(q.dtype, p.dtype)
    factors = (jnp.broadcast_to(jnp.asarray(d.scale_tril, dtype), batch) for d in (p, q))
    ratio = jax.lax.linalg.triangular_solve(*factors, left_side=True, lower=True)
    distance = solve_lower(p.scale_tril, jnp.asarray(q.loc - p.loc, dtype))
    squares = jnp.sum(jnp.square(ratio), axis=(-2, -1)) + jnp.sum(jnp.square(distance), axis=-1)
    log_det = jnp.sum(jnp.log(jnp.diagonal(ratio, axis1=-2, axis2=-1)), axis=-1)
    return 0.5 * (squares - size) - log_det


def _gamma(q: Gamma, p: Gamma) -> Array:
    # Deviances, so that two large concentrations do not cancel to whole nats in 32 bits.
    a, c, ratio = q.concentration, p.concentration, p.rate / q.rate
    return deviance(c, a * ratio, jnp.log(a) + jnp.log(ratio)) + log_gamma_divergence(c, a)


def _beta(q: Beta, p: Beta) -> Array:
    pairs = [jnp.broadcast_arrays(d.concentration1, d.concentration0) for d in (q, p)]
    return _dirichlet(*(Dirichlet(jnp.stack(pair, axis=-1)) for pair in pairs))


def _dirichlet(q: Dirichlet, p: Dirichlet) -> Array:
    a, b = (jnp.asarray(d.concentration, d.dtype) for d in (q, p))
    total_a, total_b = (jnp.sum(c, axis=-1, keepdims=True) for c in (a, b))
    mean = total_b * (a / total_a)
    each = deviance(b, mean, jnp.log(mean)) + log_gamma_divergence(b, a)
    return jnp.sum(each, axis=-1) - log_gamma_divergence(total_b, total_a)[..., 0]


_FORMULAS: dict[tuple[type, type], Callable[..., Array]] = {
    (Normal, Normal): _normal,
    (LogNormal, LogNormal): _normal,
    (MultivariateNormal, MultivariateNormal): _multivariate_normal,
    (Gamma, Gamma): _gamma,
    (Beta, Beta): _beta,
    (Dirichlet, Dirichlet): _dirichlet,
}
