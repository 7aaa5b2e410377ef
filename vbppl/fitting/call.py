"""The call that made a posterior, as Python that can be run again: what a user gave, not what was chosen from it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.keys import raw_key
from vbppl.core.types import AnyArray
from vbppl.guides.base import Guide
from vbppl.inference.deterministic.problem import Deterministic
from vbppl.inference.stochastic.early_stopping import Validation
from vbppl.inference.stochastic.objectives import Elbo, ImportanceWeighted
from vbppl.inference.stochastic.settings import Stochastic

PARTS = (Guide, Deterministic, Stochastic, Elbo, ImportanceWeighted, Validation)  # whose fields are what was given


def call_of(
    function: Callable[..., Any], first: str, seed: AnyArray | int, given: Mapping[str, Any], end: str = ""
) -> tuple[str, ...]:
    """A call with all that was given besides its defaults, and always with its seed, as a whole number.

    What no text can say stands under its own name, and a comment before the call tells what it was.

    >>> def fit(model, guide="auto", *, seed=0, start=None): ...
    >>> call_of(fit, "model", 3, {"guide": "mean_field", "start": None})
    ('posterior = vb.fit(model, guide="mean_field", seed=3)',)
    >>> call_of(fit, "model", 3, {"start": np.zeros(3)})
    ('# start: the ndarray that was given', 'posterior = vb.fit(model, start=start, seed=3)')
    """
    defaults, words, without = inspect.signature(function).parameters, [first], list[str]()
    for name, value in given.items():
        text = _text(name, value, without)
        if text != _text(name, defaults[name].default, []):
            words.append(f"{name}={text}")
    high, low = raw_key(seed).tolist()
    words.append(f"{'seed' if 'seed' in defaults else 'seeds'}={high << 32 | low}")
    call = f"posterior = vb.{function.__name__}({', '.join(words)}){end}"
    return (*(f"# {text}" for text in without), call)


def circumstances() -> str:
    """What a fit's bits depend on besides its call, as a comment."""
    own = sys.modules[__name__.partition(".")[0]].__version__
    versions = f"vbppl {own}, JAX {jax.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    where = f"{jax.device_count()} device{'s' * (jax.device_count() > 1)} ({jax.devices()[0].device_kind})"
    return f"# {versions}; {jnp.result_type(float)} on {where}"


def _text(name: str, value: Any, without: list[str]) -> str:
    """A value as Python; or a name for it, of which `without` is told."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, float)):
        return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if type(value) in (list, tuple, dict):
        return _container(name, value, without)
    if isinstance(value, PARTS) and dataclasses.is_dataclass(value):
        inner: list[str] = []
        text = _thing(value, inner)
        if not (inner and isinstance(value, Guide)):  # of a guide with code the parts are not what was given
            without += inner
            return text
    without.append(f"{name}: the {getattr(value, '__qualname__', type(value).__qualname__)} that was given")
    return name


def _container(name: str, value: Any, without: list[str]) -> str:
    inner: list[str] = []
    pairs: Iterable[Any] = value.items() if isinstance(value, dict) else value
    parts = [_text(name, part, inner) for part in pairs]
    if inner:  # as a whole, under the name of the argument
        without.append(f"{name}: the {type(value).__name__} that was given")
        return name
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(name, key, [])}: {_text(name, each, [])}" for key, each in pairs) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    return f"[{', '.join(parts)}]"


def _thing(value: Any, without: list[str]) -> str:
    """A guide or a method with what differs from its defaults; one of the user's own by its bare name."""
    words = []
    for field in dataclasses.fields(value):
        text = _text(field.name, getattr(value, field.name), without)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if default is dataclasses.MISSING or text != _text(field.name, default, []):
            words.append(f"{field.name}={text}")
    root, name = sys.modules[__name__.partition(".")[0]], type(value).__qualname__
    ours = type(value).__module__.startswith(root.__name__ + ".")
    return f"{('vb.' if hasattr(root, name) else 'vb.guides.') * ours}{name}({', '.join(words)})"
