"""What a model claims of its numbers, and where they show that it is not true.

Observations lie on their supports; a scale is positive; probabilities have the sum one. Where such a number follows
from the model's arguments alone, NumPy looks at it before anything compiles (`core/programs/known.py`), and the message
names the place. Numbers that depend on latent variables are looked at where a fit has failed, at a point.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.programs.known import Known
from vbppl.distributions import constraints
from vbppl.distributions.base import Distribution, ExpandedDistribution, Independent, MaskedDistribution, parameters
from vbppl.distributions.constraints import base, integer, matrix, scalar, vector
from vbppl.distributions.families.counts import NegativeBinomialLogits, Poisson
from vbppl.distributions.location_scale import vector_dim
from vbppl.distributions.stacked import Stacked
from vbppl.model.modules import parts
from vbppl.model.primitives import Site
from vbppl.model.shapes import check_range

INSIDE = 0.01  # prior sds between a mean and the bound that it must not touch


@dataclasses.dataclass(frozen=True)
class Claim:
    """`value`, which the site calls `what`, lies on `rule` wherever `mask`, if there is one, is true.

    Attributes:
      prior: the name of the latent site that the value is, where it stands for the least that is likely.
    """

    site: str
    what: str
    value: Any = None
    rule: Any = None
    mask: Any = None
    prior: str = ""

    @property
    def head(self) -> Claim:
        """The claim without its numbers, which may not outlive an abstract run."""
        return dataclasses.replace(self, value=None, rule=None, mask=None)

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        """The numbers in it, as a pytree."""
        return self.value, self.rule, self.mask

    def with_its_edge(self) -> Claim:
        """The same of a scale, which may be zero now."""
        is_scale = self.what.startswith("scale") and type(self.rule) is scalar.Positive
        return dataclasses.replace(self, rule=constraints.nonnegative) if is_scale else self

    def error(self) -> ModelError | None:
        """The first value for which it is false, as far as NumPy can tell."""
        value, off = np.asarray(self.value), self.where_false()
        if off is None or not off.any():
            return None
        if self.prior:
            return self._of_prior()
        first = tuple(int(i) for i in np.argwhere(off)[0])
        value = np.broadcast_to(value, (*off.shape, *value.shape[value.ndim - self.rule.event_dim :]))
        at = value[first[-value.ndim :] if value.ndim else ()]
        rule = str(jax.tree.map(lambda leaf: leaf[first] if np.shape(leaf) == off.shape else leaf, self.rule))
        rule = re.sub(r"\d+\.\d{6,}", lambda number: f"{float(number[0]):.6g}", rule)
        is_nan = value.dtype.kind == "f" and bool(np.isnan(at).any())
        shown = "NaN" if is_nan and not at.ndim else "" if at.ndim else f"{at:.6g}"
        if at.ndim:
            shown = re.sub(r"\s+", " ", np.array2string(at, threshold=9, precision=6, separator=", "))
        if off.size == 1:
            what = f"{self.what} is {shown}" + ("" if is_nan else f", off its support, {rule}")
        else:
            what = f"{off.sum()} of {off.size} values of {self.what} {'is' if off.sum() == 1 else 'are'} "
            what += "NaN" if is_nan else f"off its support, {rule}"
            what += f"; the first, at [{', '.join(map(str, first))}]" + ("" if is_nan else f", is {shown}")
        return ModelError(f"{what}.", site=self.site, mend=self._mend(is_nan))

    def where_false(self) -> np.ndarray | None:
        """The events for which it is false, in the batch shape; None where NumPy cannot tell."""
        value = np.asarray(self.value)
        on = None if value.ndim < self.rule.event_dim else holds(self.rule, value)
        if on is None or self.mask is None:
            return None if on is None else ~on
        mask = np.asarray(self.mask, bool)
        if on.size == 1:
            return ~on & mask.any()
        fits = mask.ndim <= on.ndim and all(m in (1, n) for m, n in zip(mask.shape[::-1], on.shape[::-1]))
        return ~on & mask if fits else None

    def _mend(self, is_nan: bool) -> str:
        if self.what == "obs":
            return OBS_MENDS[is_nan] if is_nan else CODES.get(type(self.rule), OBS_MENDS[is_nan])
        if is_nan:
            return "Look for missing values in what it is computed from."
        if self.what == "init" and type(self.rule) is not vector.Simplex:
            return "Start from a value strictly inside, for instance 1.0 for constraints.positive."
        return MENDS.get(type(self.rule), "Give values on this support.")

    def _of_prior(self) -> ModelError:
        name, rule = self.prior, type(self.rule)
        how = PRIORS.get(rule, "Give '{0}' a prior on that support.")
        what = f"{self.what} is '{name}', which may be any number, but {self.what} must lie on {self.rule}."
        return ModelError(what, site=self.site, mend=how.format(name))


OBS_MENDS = (
    "Look for mistakes in these rows, or choose a distribution whose support holds them.",
    "Leave these rows out, or say which were observed, so that the others are latent: obs_mask=~jnp.isnan(y).",
)
CODES: Mapping[type, str] = MappingProxyType(
    {
        integer.Boolean: "Code the two outcomes as 0 and 1: (y == 'yes').astype(int), or (y > 0).astype(int).",
        integer.IntegerInterval: "Count classes from 0, as np.unique(k, return_inverse=True)[1] does; no count exceeds "
        "its total.",
        vector.Simplex: "Divide each row by its sum: w / w.sum(axis=-1, keepdims=True).",
    }
)
MENDS: Mapping[type, str] = MappingProxyType(
    {
        scalar.GreaterThan: "Give the lower bound first: a low that is below high.",
        scalar.Nonnegative: "Give positive numbers, as jnp.exp(a) is, or a site with a positive support.",
        scalar.Positive: "Give positive numbers, as jnp.exp(a) is, or a site with a positive support.",
        scalar.UnitInterval: "Give probabilities, as jax.nn.sigmoid(a) is; or pass a itself as logits=.",
        matrix.LowerCholesky: "Pass np.linalg.cholesky(C), whose upper triangle is zero, or C as covariance_matrix=.",
        vector.Simplex: "Divide by the sum: p / p.sum(axis=-1, keepdims=True).",
        matrix.PositiveDefinite: "Make it symmetric, (C + C.T) / 2, and add to its diagonal: C + 1e-6 * np.eye(n).",
    }
)
PRIORS: Mapping[type, str] = MappingProxyType(
    {
        scalar.Positive: "Give '{0}' a positive prior, such as HalfNormal or LogNormal, or write jnp.exp({0}).",
        scalar.Nonnegative: "Give '{0}' a positive prior, such as HalfNormal or LogNormal, or write jnp.exp({0}).",
        scalar.UnitInterval: "Give '{0}' a prior between 0 and 1, such as Beta, or pass it as logits=.",
    }
)


# What a parameter of a distribution must be, by its name; chances are told by the class.
RULES: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(("scale", "concentration", "concentration0", "concentration1", "df"), constraints.positive)
    | {"loc": constraints.real, "logits": constraints.less_than_eq(np.inf), "rate": constraints.positive}
    | {"alpha": constraints.positive, "location": constraints.nonnegative}
    | {"total_count": constraints.nonnegative_integer}
    | {"covariance_matrix": constraints.positive_definite, "precision_matrix": constraints.positive_definite}
    | {"scale_tril": constraints.lower_cholesky, "scale_matrix": constraints.positive_definite}
    | {"gate": constraints.unit_interval, "asymmetry": constraints.positive, "skew": constraints.real}
    | {"predictor": constraints.real, "cutpoints": constraints.ordered_vector, "cov_diag": constraints.positive}
    | {"correlation": constraints.interval(-1.0, 1.0), "conditional_precision": constraints.positive}
)


def claims_of(sites: Mapping[str, Site]) -> Iterator[Claim]:
    """What the sites of a run claim."""
    latent: dict[int, Site] = {}
    for site in sites.values():
        if site.kind == "param":
            yield from (Claim(site.name, "init", leaf, site.constraint) for leaf in parts(site.value).learnt)
        elif site.kind == "factor":
            yield Claim(site.name, "log_weight", site.value, constraints.less_than(np.inf))
        elif site.kind == "sample":
            yield from _of_steps(site) if site.steps else _of_sample(site, latent)
            if not site.observed:
                latent[id(site.value)] = site


def _of_steps(site: Site) -> Iterator[Claim]:
    """Of a site in a scan: where its arrays need not broadcast to be compared; the rest is left to the fit."""
    chain, scalar_steps = site.dist, True
    while isinstance(chain, Stacked):
        chain, scalar_steps = chain.base_dist, not chain.step_batch
    for claim in _of_sample(dataclasses.replace(site, dist=chain), {}):
        if scalar_steps or (claim.mask is None and not any(map(np.ndim, jax.tree.leaves(claim.rule)))):
            yield claim


def _of_sample(site: Site, latent: Mapping[int, Site]) -> Iterator[Claim]:
    dist, mask, dims = site.dist, None, 0
    while isinstance(dist, (ExpandedDistribution, Independent, MaskedDistribution)):
        if isinstance(dist, MaskedDistribution) and dist.counted is not True:
            if dist.weight is not None:
                yield Claim(site.name, "weight", dist.weight, scalar.nonnegative)
            if dims:
                return  # a mask inside an event: the fit looks at these
            mask = dist.counted if mask is None else mask & dist.counted
        elif isinstance(dist, Independent):
            dims += dist.reinterpreted_batch_ndims
        dist = dist.base_dist
    whole = mask if mask is None or not dims else np.reshape(mask, np.shape(mask) + (1,) * dims)
    yield from (dataclasses.replace(claim, mask=whole) for claim in _of_parameters(site.name, dist, latent))
    if site.observed:
        domain = getattr(dist, "domain", dist.support)
        yield Claim(site.name, "obs", site.value, base.independent(domain, dims) if dims else domain, mask)


def _of_parameters(name: str, dist: Any, latent: Mapping[int, Site], of: str = "") -> Iterator[Claim]:
    while isinstance(dist, (ExpandedDistribution, Independent, MaskedDistribution)):
        dist = dist.base_dist
    if not type(dist).__module__.startswith("vbppl.distributions.families"):
        return
    given = {**getattr(dist, "was_given", {}), **parameters(dist)}
    for what, value in given.items():
        if isinstance(value, Distribution):
            yield from _of_parameters(name, value, latent, f" of {what}{of}")
            continue
        if isinstance(value, int):
            check_range(np.asarray(value), what + of, name)
        if (rule := _rule(dist, what, given)) is not None:
            prior = latent.get(id(value))
            if prior is not None and type(rule) not in (scalar.Real, scalar.LessThanEq):
                yield from _of_prior(Claim(name, what + of, rule=rule, prior=prior.name), prior.dist)
            yield Claim(name, what + of, value, rule)


def _rule(dist: Any, what: str, given: Mapping[str, Any]) -> Any:
    """What a parameter must lie on; None where anything goes."""
    if what == "probs":
        return constraints.simplex if dist.parameter_dims else constraints.unit_interval
    if what == "high" and "low" in given:
        return constraints.greater_than(given["low"])
    if what == "total_count" and isinstance(dist, NegativeBinomialLogits):
        return constraints.positive
    return constraints.nonnegative if type(dist) is Poisson and what == "rate" else RULES.get(what)


def _of_prior(claim: Claim, prior: Any) -> Iterator[Claim]:
    """The claim that the mean of a prior without bounds lies inside the support; the rest is left to the fit."""
    support = prior.support
    while isinstance(support, base.Independent):
        support = support.base
    if isinstance(support, scalar.Real) and prior.location_scale and not vector_dim(prior):
        loc, scale = prior.location_scale
        yield dataclasses.replace(claim, value=loc - INSIDE * scale)


def holds(rule: Any, x: np.ndarray) -> np.ndarray | None:
    """Which events of `x` lie on the support `rule`, in the batch shape; None where NumPy cannot tell."""
    leaves, structure = jax.tree.flatten((rule, np.asarray(x)))
    leaves = [np.asarray(leaf) for leaf in leaves]
    # A bound that is one number was a Python number, most likely, and changes no dtype.
    weak = [not leaf.ndim for leaf in leaves[:-1]] + [False]
    shapes = tuple(
        jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype), weak_type=is_weak)
        for leaf, is_weak in zip(leaves, weak)
    )
    return _check(structure, shapes)(*leaves)[0]


@functools.lru_cache(maxsize=256)
def _check(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Known:
    def check(*leaves: Any) -> Any:
        rule, x = jax.tree.unflatten(structure, leaves)
        return rule.check(x)

    closed = jax.make_jaxpr(check)(*shapes)
    return Known.of(closed.jaxpr, closed.consts)


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a function of data claims, without the numbers, and the program that makes them of its arguments.

    Attributes:
      heads: the claims without their numbers, and where the numbers of each stand among the program's outputs.
      at_data: the program as far as the data alone lead; its first argument, the latent coordinate, has no number.
      at_point: the same at a number for that coordinate.
      of_latent: for each claim whether it depends on the coordinate.
    """

    heads: tuple[tuple[Claim, Any], ...]
    at_data: Known
    at_point: Known
    of_latent: tuple[bool, ...]

    @classmethod
    def of(cls, heads: Sequence[tuple[Claim, Any]], program: Any, skip: int, depends: Sequence[bool]) -> Claims:
        """Those of a closed program, whose outputs after the first `skip` are the claims' numbers.

        Args:
          depends: for each output whether it depends on the first argument.
        """
        jaxpr, outputs = program.jaxpr, itertools.islice(depends, skip, None)
        of_latent = tuple(any(list(itertools.islice(outputs, structure.num_leaves))) for _, structure in heads)
        at_data, at_point = (Known.of(jaxpr, program.consts, unknown, skip) for unknown in (jaxpr.invars[:1], ()))
        return cls(tuple(heads), at_data, at_point, of_latent)

    def forget(self) -> None:
        """Let go of the numbers that the function has closed over, when it is gone."""
        self.at_data.constants.clear()
        self.at_point.constants.clear()

    def first_error(self, leaves: Sequence[Any], observations: bool = True) -> ModelError | None:
        """What is wrong with the numbers of `leaves`, the data, as far as can be told before anything compiles."""
        for (claim, _), is_latent in zip(self.heads, self.of_latent):
            if claim.what == "init" and is_latent:
                mend = "Start it from a number; what depends on latent variables is written with vb.deterministic."
                return ModelError("init depends on a latent variable.", site=claim.site, mend=mend)
        told = self._at(self.at_data, None, leaves)
        if not observations:  # as for draws, among which a scale of zero makes all alike
            told = (claim.with_its_edge() for claim in told if claim.what != "obs")
        return next(filter(None, (claim.error() for claim in told)), None)

    def error_of_nan(self, leaves: Sequence[Any]) -> ModelError | None:
        """A claim that NaN among the data make false whatever the latent variables are."""
        filled = [np.nan_to_num(leaf, nan=SOMEWHERE) if _has_nan(leaf) else leaf for leaf in leaves]
        for claim, other in zip(self._at(self.at_point, SOMEWHERE, leaves), self._at(self.at_point, SOMEWHERE, filled)):
            off, still = claim.where_false(), other.where_false()
            if off is not None and still is not None and (off & ~still).any():
                return claim.error()
        return None

    def _at(self, known: Known, coordinate: float | None, leaves: Sequence[Any]) -> Iterator[Claim]:
        numbers = iter(known(coordinate, *leaves))
        for claim, structure in self.heads:
            own = list(itertools.islice(numbers, structure.num_leaves))
            if not any(number is None for number in own):
                value, rule, mask = jax.tree.unflatten(structure, own)
                yield dataclasses.replace(claim, value=value, rule=rule, mask=mask)


SOMEWHERE = 0.3


def _has_nan(leaf: Any) -> bool:
    return jax.numpy.issubdtype(jax.numpy.result_type(leaf), np.floating) and bool(np.isnan(leaf).any())
