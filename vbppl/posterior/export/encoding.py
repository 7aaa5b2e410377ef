"""Values as JSON and arrays, and back: no code stands in a file, and none that a file names is ever imported.

    a text, a whole number, True, False, None, a finite number      as JSON has them
    a tuple                          [...]
    a list, a dict                   {"list": [...]}, {"dict": {...}}
    a number that JSON has not       {"number": "nan", "dtype": "float"}; of NumPy, with its dtype
    an array                         {"array": its name in the file, "jax": whether it is one of JAX}
    a value of the package           {"class": "Report", "fields": {...}}

Classes are looked up by their names in one table, `KNOWN`; a field that a file does not have stands at its default, so
that files of before it was added can be read: a new field of such a class needs one. What is in none of these forms,
such as a function, or an object of the user's own, is refused: what holds it is given anew when the file is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive, devices
from vbppl.distributions.location_scale import Parameterisation
from vbppl.guides.copula import Copula
from vbppl.guides.gaussian import FullRank, Laplace, MeanField, Pathfinder
from vbppl.guides.layers.affine import Affine
from vbppl.guides.layers.base import Layered
from vbppl.guides.layers.conditional import Conditional
from vbppl.guides.layers.conditional_laplace import ConditionalLaplace
from vbppl.guides.layers.conditionally_structured import ConditionallyStructured
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.guides.layers.sinh_arcsinh import SinhArcsinh
from vbppl.guides.layers.yeo_johnson import YeoJohnson
from vbppl.guides.low_rank import LowRank
from vbppl.guides.mixture import Mixture
from vbppl.guides.point import MAP
from vbppl.guides.structured import Structured
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Mode, Note, NotSearched, Searched, Status
from vbppl.posterior.mcmc.report import ChainReport
from vbppl.posterior.quantities import Worst
from vbppl.posterior.report import Gap, Report, Unjudged
from vbppl.posterior.weighted_draws import WeightedDraws

GUIDES = (MeanField, FullRank, Laplace, Pathfinder, LowRank, Mixture, MAP, Structured)
GUIDES += (Layered, Copula, ConditionallyStructured, ConditionalLaplace)
LAYERS = (Affine, Conditional, NewtonStep, SinhArcsinh, YeoJohnson)
RESULTS = (Status, Note, Mode, Searched, NotSearched)
REPORTS = (Report, ChainReport, Unjudged, Estimate, WeightedDraws, Worst, Gap)
KNOWN: Mapping[str, Any] = {cls.__name__: cls for cls in (*GUIDES, *LAYERS, *RESULTS, *REPORTS, Parameterisation)}
NAMES = {cls: name for name, cls in KNOWN.items()}


class NotStorable(TypeError):
    """A value that has no form in a file: where it stands, and what it is."""

    def __init__(self, where: str, value: Any):
        self.where, self.value = where, value
        super().__init__(f"{where} is {described(value)}")


def described(value: Any) -> str:
    """What kind of thing it is, in a few words."""
    name = getattr(value, "__qualname__", None)
    return f"the {type(value).__name__} {name}" if name else f"of the class {type(value).__qualname__}"


def encoded(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON can hold it; its arrays go to `arrays`, by names that begin with `name`.

    Raises:
      NotStorable: there is no such form.
    """
    if value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, (float, np.generic)) and not hasattr(value, "shape"):
        return {"number": repr(value), "dtype": "float"}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"number": repr(value.item()), "dtype": str(value.dtype)}
    if isinstance(value, (np.ndarray, jax.Array)) and _is_numbers(value):
        while name in arrays:  # a dot may stand in a site's own name
            name += "'"
        arrays[name] = np.asarray(devices.readable(value))
        return {"array": name, "jax": isinstance(value, jax.Array)}
    if type(value) in NAMES:
        fields = {each: encoded(getattr(value, each), f"{name}.{each}", arrays) for each in _fields(type(value))}
        return {"class": NAMES[type(value)], "fields": fields}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        parts = [encoded(part, f"{name}[{i}]", arrays) for i, part in enumerate(value)]
        return parts if type(value) is tuple else {"list": parts}
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {"dict": {key: encoded(part, f"{name}.{key}", arrays) for key, part in value.items()}}
    raise NotStorable(name, value)


def decoded(form: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value that `encoded` has given this form.

    Raises:
      ValueError, KeyError, TypeError: it is no such form.
    """
    if isinstance(form, list):
        return tuple(decoded(part, arrays) for part in form)
    if not isinstance(form, dict):
        return form
    if "array" in form:
        found = arrays[form["array"]]
        return jnp.asarray(found) if form["jax"] else found
    if "number" in form:
        number = float(form["number"]) if form["dtype"].startswith("float") else _whole(form["number"])
        if form["dtype"] == "float":
            return number
        if (dtype := np.dtype(form["dtype"])).kind not in "biuf":
            raise ValueError(f"it holds a number of {dtype}")
        return dtype.type(number)
    if "class" in form:
        if form["class"] not in KNOWN:
            raise ValueError(f"it holds a {form['class']!s:.80}, which this version does not know")
        cls, fields = KNOWN[form["class"]], form["fields"]
        if extra := [name for name in fields if name not in _fields(cls)]:
            raise ValueError(f"its {form['class']} has {extra[0]!s:.80}, which this version does not know")
        return archive.typed(cls, {name: decoded(part, arrays) for name, part in fields.items()})
    if "list" in form:
        return [decoded(part, arrays) for part in form["list"]]
    return {name: decoded(part, arrays) for name, part in form["dict"].items()}


def _whole(text: str) -> int | bool:
    """A whole number or a truth value, from how Python writes it."""
    return text == "True" if text in ("True", "False") else int(text)


def _fields(cls: Any) -> tuple[str, ...]:
    """What a value of the class is made of."""
    return cls._fields if hasattr(cls, "_fields") else tuple(field.name for field in dataclasses.fields(cls))


def _is_numbers(array: Any) -> bool:
    """An array that a file can hold: no objects, and no keys, which are made of seeds."""
    return not jnp.issubdtype(array.dtype, jax.dtypes.prng_key) and array.dtype.kind in "biufcV"
