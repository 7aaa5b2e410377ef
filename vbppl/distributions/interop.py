"""Distributions of other libraries, recognised by how they are called, never by an import.

The field has four conventions, and the signature of `sample` tells them apart:

    numpyro, flowjax   sample(key, sample_shape=())          "key"
    tfp, distrax       sample(sample_shape=(), seed=key)     "seed"
    distreqx           sample(key), unbatched log_prob       "vmap"

Only `sample` and `log_prob` of the stranger are used. Its support is read as ours: NumPyro's by the class
name of the constraint and its bounds, the others' by the name of the distribution's class, or of TFP's
default bijector. Their log determinants never enter: TFP's for the simplex is off by `log sqrt K`. Where the
support cannot be told, the error asks for it, since a guess would be a silent wrong answer.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import is_array, pytree, set_field, static
from vbppl.core.types import Array, PyTree, Shape
from vbppl.distributions import constraints
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.base import Bijector, independent, widened

_MEND = "Wrap it: vb.foreign(dist, support=constraints.positive), with the support that it has."


def as_distribution(value: Any, site_name: str) -> Distribution:
    """`value` if it is ours, an adapter if it is another library's, or an error that names the site."""
    if isinstance(value, Distribution):
        if not hasattr(value, "support"):
            mend = "Write in the class where its values lie: support = dist.constraints.real."
            raise ModelError(f"{type(value).__name__} has no support.", site=site_name, mend=mend)
        if not isinstance(value.support, Bijector):
            raise _no_constraint(value, site_name)
        return value
    if isinstance(value, type) and hasattr(value, "log_prob"):
        raise ModelError(
            f"the second argument of sample is the class {value.__name__}, not a distribution.",
            site=site_name,
            mend=f"Give it its parameters: {value.__name__}(...).",
        )
    if hasattr(value, "rvs"):
        mend = "Write ours, which JAX can differentiate: dist.Normal(loc, scale), dist.StudentT(df, loc, scale)."
        raise ModelError("the distribution is one of SciPy.", site=site_name, mend=mend)
    if any(hasattr(value, member) for member in ("log_prob", "event_shape", "batch_shape", "support")):
        for method in ("sample(self, key, sample_shape=())", "log_prob(self, x)"):
            if not callable(getattr(value, method.partition("(")[0], None)):
                mend = f"Write `def {method}` in its class: a distribution has both sample and log_prob."
                what = f"{type(value).__name__} has no {method.partition('(')[0]}, so it is not a distribution."
                raise ModelError(what, site=site_name, mend=mend)
    if not _is_distribution_like(value):
        raise ModelError(
            f"the second argument of sample must be a distribution, not a {type(value).__name__} ({_short(value)}).",
            site=site_name,
            mend=f'Write sample("{site_name}", dist.Normal(0.0, 1.0)); deterministic records a value.',
        )
    return Foreign(value)


def _no_constraint(value: Distribution, site_name: str) -> ModelError:
    support = value.support
    found = f"the class {support.__name__}" if isinstance(support, type) else f"a {type(support).__name__}"
    mend = "Give a value of dist.constraints, such as interval(0.0, 1.0), or one of a class of your own below "
    return ModelError(
        f"the support of {type(value).__name__} is {found}, not a constraint.",
        site=site_name,
        mend=f"{mend}Bijector (from vbppl.distributions.constraints.base).",
    )


def foreign(dist: Any, support: Bijector | None = None) -> Distribution:
    """Adapt another library's distribution `dist`, and say which `support` it has where that cannot be told.

    Raises:
      ModelError: it has no `sample` and `log_prob`, or the support is no constraint.

    >>> class Coinlike:
    ...     event_shape = ()
    ...
    ...     def sample(self, key, sample_shape=()):
    ...         return jax.random.uniform(key, sample_shape)
    ...
    ...     def log_prob(self, x):
    ...         return jnp.zeros_like(x)
    >>> foreign(Coinlike(), support=constraints.unit_interval).support
    unit_interval
    """
    if isinstance(dist, Distribution) and support is None:
        return dist
    if not _is_distribution_like(dist):
        raise ModelError(f"foreign needs an object with sample and log_prob, not a {type(dist).__name__}.")
    if not isinstance(support, Bijector | None):
        raise ModelError(f"the support given to foreign is a {type(support).__name__}, not a constraint.", mend=_MEND)
    return Foreign(dist, support)


def as_bijector(constraint: Any) -> Bijector | None:
    """Our bijector for a constraint of ours or of NumPyro's; `None` where there is none."""
    if isinstance(constraint, Bijector):
        return constraint
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(constraint).__name__.lstrip("_")).lower()
    if name == "independent_constraint":
        base = as_bijector(constraint.base_constraint)
        return None if base is None else independent(base, constraint.reinterpreted_batch_ndims)
    if name == "zero_sum":
        return constraints.zero_sum(constraint.event_dim)
    if name == "circular":
        return constraints.interval(-np.pi, np.pi)
    name = _OTHER_NAMES.get(name, name)
    ours = getattr(constraints, name) if name in constraints.__all__ else None
    if ours is None or isinstance(ours, Bijector):
        return ours
    return ours(*(getattr(constraint, bound) for bound in _BOUNDS if hasattr(constraint, bound)))


def of_numpyro(name: str, ours: Sequence[str]) -> Any:
    """The distribution that NumPyro calls so, as it is; or an error that says what there is."""
    close = difflib.get_close_matches(name, ours, n=1)
    mend = f"Did you mean dist.{close[0]}?" if close else "See dist.__all__ for those that there are."
    try:
        theirs = importlib.import_module("numpyro.distributions")
    except ImportError:
        problem = (
            f"vbppl.distributions has no {name} of its own, and NumPyro, whose distributions serve too, is not here."
        )
        raise AttributeError(f"{problem}\n  To mend it: {mend} Or: pip install numpyro") from None
    if not hasattr(theirs, name):
        raise AttributeError(f"neither vbppl.distributions nor NumPyro's have {name}.\n  To mend it: {mend}")
    return getattr(theirs, name)


_BOUNDS = ("lower_bound", "upper_bound")
_OTHER_NAMES = {
    "softplus_lower_cholesky": "lower_cholesky",
    "open_interval": "interval",
    "integer_nonnegative": "nonnegative_integer",
    "integer_positive": "positive_integer",
}


def _is_distribution_like(value: Any) -> bool:
    return callable(getattr(value, "sample", None)) and callable(getattr(value, "log_prob", None))


def _short(value: Any) -> str:
    if is_array(value) and np.ndim(value):
        return f"of shape {np.shape(value)}"
    words = repr(value)
    return words if len(words) <= 40 else words[:37] + "..."


@functools.cache
def _convention(cls: type) -> str:
    names = inspect.signature(cls.sample).parameters
    return "seed" if "seed" in names else "key" if "sample_shape" in names or len(names) > 2 else "vmap"


@pytree
class Foreign(Distribution):
    """Another library's distribution, behind our members.

    Its numbers are data; everything else about it, functions included, is a part of the compiled program.
    """

    numbers: tuple[Any, ...]
    given_support: Bijector | None
    rest: tuple[Any, ...] = static()
    structure: Any = static()
    of_attributes: type | None = static(default=None)  # the class, where what was flattened are the attributes

    def __init__(self, dist: Any, support: Bijector | None = None):
        leaves, structure = jax.tree.flatten(dist)
        of_attributes = type(dist) if _loses(dist, jax.tree.unflatten(structure, leaves)) else None
        if of_attributes is not None:
            leaves, structure = jax.tree.flatten(dict(vars(dist)))
        set_field(self, "numbers", tuple(leaf if _is_number(leaf) else None for leaf in leaves))
        set_field(self, "given_support", support)
        set_field(self, "rest", tuple(None if _is_number(leaf) else leaf for leaf in leaves))
        set_field(self, "structure", structure)
        set_field(self, "of_attributes", of_attributes)

    @property
    def inner(self) -> PyTree:
        """The distribution as its own library made it."""
        leaves = [rest if number is None else number for number, rest in zip(self.numbers, self.rest)]
        inner = jax.tree.unflatten(self.structure, leaves)
        if self.of_attributes is None:
            return inner
        whole = object.__new__(self.of_attributes)
        vars(whole).update(inner)
        return whole

    @property
    def batch_shape(self):
        return tuple(getattr(self.inner, "batch_shape", ()))

    @property
    def event_shape(self):
        shape = _first_of(self.inner, ("event_shape", "shape")) or ()
        return () if callable(shape) else tuple(shape)

    @property
    def event_dim(self):
        return len(self.event_shape)

    @property
    def dtype(self):
        return jnp.result_type(*(number for number in self.numbers if number is not None), 0.0)

    @property
    def support(self):
        support = self._known_support
        if support is None:
            name = type(self.inner).__name__
            raise ModelError(f"the support of the foreign distribution {name} is not known.", mend=_MEND)
        return widened(support, self.event_dim)

    @property
    def _known_support(self) -> Bijector | None:
        return _support_of(self.inner) if self.given_support is None else self.given_support

    @property
    def is_discrete(self):
        if self._known_support is not None:
            return self._known_support.is_discrete
        draw = jax.eval_shape(lambda key: self.sample(key), jax.random.key(0))
        return not jnp.issubdtype(draw.dtype, jnp.floating)

    @property
    def has_rsample(self):
        flag = getattr(self.inner, "has_rsample", None)
        if isinstance(flag, bool):
            return flag
        return not self.is_discrete and "NOT" not in str(getattr(self.inner, "reparameterization_type", ""))

    def _sample(self, key, shape):
        batch, event = self.batch_shape, self.event_shape
        batch_at = len(shape) - len(event) - len(batch)
        lead, target = shape[:batch_at], shape[batch_at : batch_at + len(batch)]
        # Where the batch has size 1 and more is asked for, ask for draws: copies would not be independent.
        more = tuple(wanted if size == 1 else 1 for size, wanted in zip(batch, target))
        draws = _call_sample(self.inner, key, (*lead, *more) if any(m > 1 for m in more) else lead)
        if draws.ndim == len(shape):
            return draws
        pairs = [axis for i in range(len(batch)) for axis in (batch_at + i, batch_at + len(batch) + i)]
        first, last = range(batch_at), range(batch_at + 2 * len(batch), draws.ndim)
        return draws.transpose(*first, *pairs, *last).reshape(shape)

    def log_prob(self, x):
        log_prob = self.inner.log_prob
        if _convention(type(self.inner)) == "vmap":
            for _ in range(np.ndim(x) - self.event_dim):
                log_prob = jax.vmap(log_prob)
        return jnp.asarray(log_prob(x))

    mean = property(lambda self: self._moment("mean"))
    variance = property(lambda self: self._moment("variance"))

    def _moment(self, name: str) -> Array:
        moment = getattr(self.inner, name, None)
        if moment is None:
            raise self._no(name)
        return jnp.asarray(moment() if callable(moment) else moment)


def _loses(dist: Any, again: Any) -> bool:
    """Does a user's subclass of NumPyro's inherit a registration that does not know of its attributes?"""
    kept = getattr(again, "__dict__", {})
    return any(name not in kept and not hasattr(type(dist), name) for name in getattr(dist, "__dict__", {}))


def _is_number(leaf: Any) -> bool:
    return is_array(leaf) or isinstance(leaf, (int, float)) and not isinstance(leaf, bool)


def _call_sample(inner: Any, key: Array, shape: Shape) -> Array:
    convention = _convention(type(inner))
    if convention == "seed":
        return jnp.asarray(inner.sample(sample_shape=shape, seed=key))
    if convention == "key":
        return jnp.asarray(inner.sample(key, shape))
    sample = inner.sample
    for _ in shape:
        sample = jax.vmap(sample)
    return jnp.asarray(sample(jax.random.split(key, shape) if shape else key))


def _support_of(inner: Any) -> Bijector | None:
    """The support, by what the stranger says of itself, else by the name of its class, or of its parts."""
    constraint = getattr(inner, "support", None)
    if constraint is not None:
        return as_bijector(constraint)
    name = type(inner).__name__
    if name in _BY_CLASS:
        return _BY_CLASS[name]
    if name == "HalfStudentT":
        return constraints.greater_than_eq(inner.loc)
    base, bijector = (_first_of(inner, names) for names in (_BASES, _BIJECTORS))
    if base is not None:
        return _image(_support_of(base), bijector)
    default = getattr(inner, "experimental_default_event_space_bijector", None)
    return _image(constraints.real, default()) if callable(default) else None


# How TFP, distrax and FlowJAX call the distribution inside another, and the map between them.
_BASES = ("distribution", "base_dist")
_BIJECTORS = ("bijector", "bijection")


def _first_of(inner: Any, names: tuple[str, ...]) -> Any:
    return next((getattr(inner, name) for name in names if getattr(inner, name, None) is not None), None)


def _image(support: Bijector | None, bijector: Any) -> Bijector | None:
    """What a foreign map makes of `support`, where both are known by name; a wrapper without a map leaves it be."""
    if support is None or bijector is None:
        return support
    name = type(bijector).__name__
    if name in ("Chain", "_Chain"):  # FlowJAX's has the first one first
        parts = bijector.bijections if hasattr(bijector, "bijections") else list(bijector.bijectors)[::-1]
        return functools.reduce(_image, parts, support)
    inner = _first_of(bijector, _BIJECTORS)
    if name in _AROUND and inner is not None:
        return _image(support, inner)
    if name in ("Invert", "Inverse"):  # of a map of all reals onto themselves, as flows are
        return support if support == _image(support, inner) == constraints.real else None
    if support is not constraints.real:
        return support if name == "Identity" else None
    if name == "Sigmoid" and getattr(bijector, "low", None) is not None:
        return constraints.interval(bijector.low, bijector.high)
    return constraints.real if name in _WHOLE_LINE else _OF_REALS.get(name)


_AROUND = ("NumericalInverse", "Block", "Scan", "Vmap", "Reshape", "NonTrainable")
_WHOLE_LINE = frozenset(
    "Identity Shift Scale ScalarAffine Affine Loc Permute Flip Sinh SinhArcsinh AsymmetricAffine TriangularAffine "
    "DiagLinear DiagPlusLowRankLinear LowerUpperTriangularAffine ScaleMatvecTriL ScaleMatvecDiag Planar LeakyTanh "
    "RationalQuadraticSpline Sandwich MaskedAutoregressive MaskedCoupling Coupling BlockAutoregressiveNetwork".split()
)


def _by_name(table: dict[str, Bijector]) -> dict[str, Bijector]:
    """A table whose keys are several names each, by each of them."""
    return {name: support for names, support in table.items() for name in names.split()}


_OF_REALS: dict[str, Bijector] = _by_name(
    {
        "Softplus SoftPlus Exp": constraints.positive,
        "Sigmoid": constraints.unit_interval,
        "Tanh": constraints.interval(-1.0, 1.0),
        "SoftmaxCentered": constraints.simplex,
        "CorrelationCholesky": constraints.corr_cholesky,
        "FillScaleTriL": constraints.lower_cholesky,
    }
)

_BY_CLASS: dict[str, Bijector] = _by_name(
    {
        "Normal Laplace Cauchy Gumbel Logistic StudentT JohnsonSU StandardNormal MultivariateNormal": constraints.real,
        "MultivariateNormalDiag MultivariateNormalTri MultivariateNormalTriL": constraints.real,
        "MultivariateNormalFullCovariance": constraints.real,
        "Gamma LogNormal Exponential InverseGamma Chi2": constraints.positive,
        "Poisson NegativeBinomial Geometric": constraints.nonnegative_integer,
        "Beta": constraints.unit_interval,
        "Dirichlet": constraints.simplex,
        "Bernoulli": constraints.boolean,
        "VonMises": constraints.interval(-np.pi, np.pi),
    }
)
