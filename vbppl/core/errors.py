"""Errors that say what is wrong, where, which values disagree, and how to mend it."""

from __future__ import annotations

import importlib
import numbers
from typing import Any

import numpy as np


class ModelError(ValueError):
    """A model, guide or data set that cannot mean what it says.

    The message has up to four parts, in this order: the site, what is wrong, the values
    that disagree, and the mend.

    >>> print(ModelError("the name is used twice.", site="mu", mend="Rename one of the two."))
    site 'mu': the name is used twice.
      To mend it: Rename one of the two.
    """

    def __init__(self, what: str, *, site: str | None = None, details: str = "", mend: str = ""):
        self.what, self.site, self.details, self.mend = what, site, details, mend
        lines = [f"site '{site}': {what}" if site else what]
        if details:
            lines += ["  " + line for line in details.splitlines()]
        if mend:
            lines.append(f"  To mend it: {mend}")
        super().__init__("\n".join(lines))

    @property
    def rest(self) -> dict[str, Any]:
        """All but what is wrong, for one that says more of it."""
        return {"site": self.site, "details": self.details, "mend": self.mend}


class VbpplWarning(UserWarning):
    """A fit that ended, but whose answer needs a second look; the text says why. The base of all vbppl's warnings."""


class PoorFitWarning(VbpplWarning):
    """A fit whose verdict is poor, or whose errors could not be measured."""


class NotConvergedWarning(VbpplWarning):
    """A fit that did not come to its own end."""


class RepeatedDrawsWarning(VbpplWarning):
    """More draws are asked for than the weighted ones are worth, so that some stand more than once."""


class PoorPosteriorError(Exception):
    """An answer that is poorer than what a script needs; see `Report.require`."""


def needed(module: str, what: str, extra: str) -> Any:
    """A module of an optional dependency.

    Raises:
      ModuleNotFoundError: it is not installed; the message says how it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package, text = module.partition(".")[0], f"{what} needs {error.name}, which is not installed."
        mend = f'\n  To mend it: pip install "vbppl[{extra}]"' if error.name == package else ""
        raise ModuleNotFoundError(text + mend, name=error.name) from error


def of_kind(name: str, value: Any, is_one: bool, words: str) -> Any:
    """`value`, where it is what `words` say.

    Raises:
      TypeError: it is not; the message begins with `name`.
    """
    if not is_one:
        raise TypeError(f"{name} must be {words}, not {value!r:.80}.")
    return value


def one_of(name: str, value: Any, *words: Any) -> Any:
    """`value`, where it is one of `words`: strings, True, False, None. An array is like none of them.

    Raises:
      ValueError: it is not; the message begins with `name`.
    """
    if not (value is None or isinstance(value, (str, bool, np.bool_))) or value not in words:
        raise ValueError(f"{name} must be {', '.join(map(repr, words[:-1]))} or {words[-1]!r}, not {value!r:.80}.")
    return value


def yes_or_no(name: str, value: Any) -> bool:
    """`value`, where it is True or False, of Python or of NumPy."""
    return of_kind(name, value, isinstance(value, (bool, np.bool_)), "True or False")


def whole_number(name: str, value: Any, least: int | None = 1) -> int:
    """`value` as an int, where it is one, of Python or of NumPy, and not below `least`, if there is such a bound.

    >>> whole_number("draws", 16)
    16

    Raises:
      TypeError, ValueError: it is not; the message begins with `name`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, such as {max(least or 1, 1)}, not {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return int(value)
