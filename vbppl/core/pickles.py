"""How what wraps a function is pickled: by the name that leads to it, as a function is, or with the function's code.

The name of a decorated function leads to what wraps it, so a pickle can hold neither by itself. A function `again` can
that stands at `name.again` and makes the wrapper: plain pickles hold this name; cloudpickle, and joblib with it, holds
the code where it holds that of functions, which a script or a notebook has defined.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def again(function: Callable[..., Any], wrap: Callable[[Callable[..., Any]], Any]) -> Callable[[], Any]:
    """What gives the wrapper of a function, for its `again`."""

    def made() -> Any:
        return wrapper(function) or wrap(function)

    made.__module__ = getattr(function, "__module__", None) or made.__module__
    made.__qualname__ = f"{getattr(function, '__qualname__', type(function).__name__)}.again"
    return made


def wrapper(function: Callable[..., Any]) -> Any:
    """What the name of a function leads to, where that wraps it; else None."""
    found = sys.modules.get(getattr(function, "__module__", ""))
    for name in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found if getattr(found, "__wrapped__", None) is function and hasattr(found, "again") else None
