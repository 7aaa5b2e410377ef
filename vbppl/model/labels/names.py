"""Labels of rows: checked where they are given, and hidden from a run where they come with a model's arguments.

Labels shape no density, so two models that differ in them alone share their compiled programs. A list of strings, or an
array of strings or dates, among the arguments reaches the function as `Unread`: it has a length and may be given to a
plate. A function that reads more of a list than that is run again with the list itself, which is then a setting like
any other; an array must be numbers where it is read.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import jax
import jax.core
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import Array
from vbppl.data.source import Source
from vbppl.model.shapes import as_numbers

Label: TypeAlias = Any  # a string, a number or a date
WORDS = (str, datetime.date, np.datetime64)
PLAIN = (*WORDS, bool, int, float, np.number, np.bool_, datetime.timedelta, np.timedelta64)
REPEATED = 5  # labels that a message names


@dataclasses.dataclass(frozen=True)
class Argument:
    """Where labels are found in a model: among its arrays, or else among its settings, the one of that number."""

    number: int
    is_array: bool


class ReadError(Exception):
    """A function has read labels of which it was to see their number alone."""

    def __init__(self, number: int):
        super().__init__("the labels among the arguments were read; pass what shapes a model as single strings")
        self.number = number


class Unread:
    """Labels of which a run sees how many there are; whatever else it asks of them is a `ReadError`."""

    __slots__ = ("_names", "_number")

    def __init__(self, number: int, names: Names):
        self._number, self._names = number, names

    def __len__(self) -> int:
        return len(self._names.value)

    @property
    def size(self) -> int:
        """How many."""
        return len(self)

    @property
    def shape(self) -> tuple[int]:
        """As an array has it."""
        return (len(self),)

    @property
    def ndim(self) -> int:
        """As an array has it."""
        return 1

    def _read(self, *_: Any, **__: Any) -> NoReturn:
        raise ReadError(self._number)

    # Asked for its kind it must not say "no list", or a function would go another way in silence.
    __class__ = property(_read)  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    __getattr__ = __iter__ = __getitem__ = __contains__ = __reversed__ = __array__ = __jax_array__ = _read
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _read  # pyright: ignore[reportAssignmentType]
    __add__ = __radd__ = __mul__ = __rmul__ = __str__ = __repr__ = __format__ = _read  # pyright: ignore
    __float__ = __int__ = __index__ = __reduce_ex__ = _read  # pyright: ignore[reportAssignmentType]


def is_unread(value: Any) -> bool:
    """Not by `isinstance`, which asks the value."""
    return type(value) is Unread


@dataclasses.dataclass(frozen=True, eq=False)
class Names:
    """A list of strings, or an array of strings or dates, among a model's arguments: all of one length are equal.

    Attributes:
      value: as it was given, an array as one of NumPy.
      kind: list, tuple or `np.ndarray`.
      called: which argument it is, for messages.
    """

    value: Any
    kind: type
    called: str

    def __eq__(self, other: object) -> bool:
        return type(other) is Names and (self.kind, len(self.value)) == (other.kind, len(other.value))

    def __hash__(self) -> int:
        return hash((self.kind.__name__, len(self.value)))

    @classmethod
    def of(cls, leaf: Any, called: Callable[[], str]) -> Names | None:
        """The argument as labels; None where it can be none."""
        if is_words(leaf):
            return cls(tuple(leaf), type(leaf), called())
        if isinstance(leaf, (jax.Array, np.generic, str)) or not hasattr(leaf, "__array__"):
            return None
        array = np.asarray(leaf)
        is_one = array.dtype.kind in "USMO" and array.ndim == 1 and array.size
        return cls(np.array(array), np.ndarray, called()) if is_one else None

    def refuse(self) -> None:
        """Say what an array must be that is no labels; a list may be anything.

        Raises:
          ModelError: it is an array.
        """
        if self.kind is np.ndarray:
            as_numbers(self.value, self.called)


def is_words(value: Any) -> bool:
    """A list or tuple of strings or dates alone, which may be labels."""
    return type(value) in (list, tuple) and bool(value) and all(isinstance(each, WORDS) for each in value)


Labels: TypeAlias = "tuple[Label, ...] | Argument"


def sized(what: str, value: Any, arguments: Mapping[int, int]) -> tuple[int, Labels] | None:
    """How many labels `value` holds, and which; None where it may be a size.

    Args:
      what: they are of, to begin a message with.
      value: a size, or labels.
      arguments: the model's arrays in this run: by their identity, their number.

    Raises:
      ModelError: they are no labels, or not all different.
    """
    if is_unread(value):
        checked(what, value._names.value)  # for a message here and now; nothing of it goes into the program
        return len(value), Argument(value._number, is_array=False)
    if isinstance(value, jax.core.Tracer) and value.ndim == 1:
        if id(value) not in arguments:
            mend = "Pass the labels as an argument of the model, as they are; or the number of rows, len(y)."
            raise ModelError(f"{what}: its labels are computed from data, so no run can tell them.", mend=mend)
        return len(value), Argument(arguments[id(value)], is_array=True)
    if isinstance(value, (list, tuple, range)):
        found = list(value)
    elif hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1 and not isinstance(value, jax.core.Tracer):
        found = list(np.asarray(value))
    else:
        return None
    if not found:
        raise ModelError(f"{what}: there are no labels in {value!r:.80}.", mend="Give one for each row.")
    return len(found), checked(what, found)


def checked(what: str, labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels as values of Python, or of NumPy where they are dates; none may be missing or stand twice.

    Raises:
      ModelError: one is, or does.
    """
    found = tuple(map(_plain, labels))
    for i, each in enumerate(found):
        if is_missing(each):
            mend = "Leave the row out, or give it a name."
            raise ModelError(f"{what}: label {i} is missing ({each!r}).", mend=mend)
        if not isinstance(each, PLAIN):
            problem = f"{what}: label {i} is {each!r:.80}, but labels are strings, numbers or dates."
            raise ModelError(problem, mend="Pass the number of rows, or a sequence of names: ['a', 'b'].")
    counts = Counter(texts(found))
    if len(counts) < len(found):
        twice = [f"{word} ({count} times)" for word, count in counts.items() if count > 1]
        more = f" and {len(twice) - REPEATED} more" if len(twice) > REPEATED else ""
        raise ModelError(
            f"{what}: labels stand more than once: {', '.join(twice[:REPEATED])}{more}.",
            mend="A plate of rows needs a name for each; one of groups takes np.unique(column), or the "
            "column.cat.categories of pandas.",
        )
    return found


def _plain(label: Label) -> Label:
    if type(label).__name__ in ("Interval", "Period"):  # of pandas
        return str(label)
    if isinstance(label, np.floating):
        return float(str(label))  # 0.1, of whatever precision
    return label.item() if isinstance(label, (np.integer, np.bool_, np.str_)) and not _is_span(label) else label


def _is_span(label: Label) -> bool:
    return isinstance(label, np.timedelta64)  # which NumPy counts among the integers


def is_missing(label: Label) -> bool:
    """None, NaN and the like: what does not equal itself."""
    return label is None or type(label).__name__ in ("NAType", "NaTType") or bool(label != label)


def texts(labels: Sequence[Label]) -> tuple[str, ...]:
    """The labels as words; a date at midnight is a day.

    >>> texts(("a", 1990, 0.5, np.datetime64("2020-02-01T00:00", "ns")))
    ('a', '1990', '0.5', '2020-02-01')
    """
    return tuple(map(_text, labels))


def _text(label: Label) -> str:
    if isinstance(label, datetime.datetime):  # one of pandas is one too
        return label.isoformat(sep=" ").removesuffix(" 00:00:00")
    if isinstance(label, np.datetime64):
        text = str(label)
        head, _, rest = text.partition("T")
        return head if not rest.strip("0:.") else text
    return str(label)


def values_at(labels: Labels, arrays: Sequence[Any], settings: Sequence[Any], what: str) -> tuple[Label, ...] | None:
    """The labels that an outline tells of, from a model's own arguments; None of an array that has no numbers here."""
    if not isinstance(labels, Argument):
        return labels
    found = arrays[labels.number] if labels.is_array else settings[labels.number].value
    if isinstance(found, (jax.core.Tracer, jax.ShapeDtypeStruct)) or not hasattr(found, "__len__"):
        return None
    if isinstance(found, jax.Array) and not found.is_fully_addressable:
        return None
    return checked(what, list(np.asarray(found)) if labels.is_array else list(found))


def by_identity(arrays: Sequence[Array]) -> Iterator[tuple[int, int]]:
    """For each of a run's arrays that may be labels its identity and number."""
    return ((id(array), i) for i, array in enumerate(arrays) if _is_a_column(array))


def _is_a_column(array: Any) -> bool:
    """A source has no axis of its own to be asked for: its rows may be pytrees."""
    return not isinstance(array, Source) and getattr(array, "ndim", 0) == 1
