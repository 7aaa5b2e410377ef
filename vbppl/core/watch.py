"""Who watches a fit: a deadline, and whoever wants to be told how it goes.

A solver yields its states, one after the other, to `last`, which keeps the newest. An interrupt (Ctrl-C) and a deadline
therefore end a fit in the same way, at the last state that was whole, and a solver needs no word about either.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, ParamSpec, TypeVar

State = TypeVar("State")
Result = TypeVar("Result")
Args = ParamSpec("Args")


def _nobody(news: Any) -> None:
    """Listens to nothing."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """A deadline on the clock of `time.perf_counter`, and who is told of progress; what is told moves nothing.

    >>> watch = Watch.lasting(60.0)
    >>> watch.is_over
    False

    Attributes:
      tell: is given news of each step.
      doing: is given, in a few words, what is done from now on, steps or not.
      deadline: when it is over.
      keeps: whether what there is at an interrupt is kept; False where an older answer stands, which its owner keeps.
    """

    tell: Callable[[Any], None] = _nobody
    doing: Callable[[str], None] = _nobody
    deadline: float = math.inf
    keeps: bool = True
    agreed: Callable[[Any], Any] | None = None  # where processes fit together: the first one's clock counts for all

    @classmethod
    def lasting(
        cls,
        seconds: float | None = None,
        tell: Callable[[Any], None] = _nobody,
        doing: Callable[[str], None] = _nobody,
    ) -> Watch:
        """A watch that is over in so many seconds from now; None for never."""
        return cls(tell, doing, math.inf if seconds is None else time.perf_counter() + seconds)

    @property
    def has_listener(self) -> bool:
        """Does anybody want to be told?"""
        return self.tell is not _nobody

    @property
    def is_over(self) -> bool:
        """Has the deadline passed?"""
        return self.is_over_in(0.0)

    def is_over_in(self, seconds: float) -> bool:
        """Will it have passed in so many?"""
        over = time.perf_counter() + seconds > self.deadline
        return bool(self.agreed(over)) if self.agreed and self.deadline < math.inf else over


def last(
    states: Iterable[State], first: State, watch: Watch, news: Callable[[State], Any] | None = None
) -> tuple[State, str]:
    """The last of `states`, or `first` if there is none, and what cut them short.

    Args:
      states: a solver on its way; it makes a state when it is asked for the next one. What a generator returns
        besides is the end that it came to: no further step, so nobody is told of it.
      first: what there is before the first of them.
      watch: is told `news` of each state, if anybody listens.
      news: what to tell, which has a `step`: of each step once, since a solver may also stop to look at something
        else, where a deadline can end it; None for nothing.

    Returns:
      the newest whole state, and "" where the states came to their own end, "interrupted" or "deadline".
    """
    state, states, told = first, iter(states), None
    try:
        while True:
            try:
                state = next(states)
            except StopIteration as end:
                return (state if end.value is None else end.value), ""
            if news is not None and watch.has_listener and (now := news(state)).step != told:
                told = now.step
                watch.tell(now)
            if watch.is_over:
                return state, "deadline"
    except KeyboardInterrupt:
        if not watch.keeps or watch.agreed:  # together there is no state that all have
            raise
        return state, "interrupted"


def end_of(solver: Callable[Args, Iterable[State]]) -> Callable[Args, State]:
    """A solver that is not watched: the same function, which gives the last state alone.

    >>> end_of(range)(3)
    2
    """

    def solve(*args: Args.args, **kwargs: Args.kwargs) -> State:
        *_, end = solver(*args, **kwargs)
        return end

    return solve


def result_of(stage: Generator[Any, None, Result]) -> Result:
    """What a generator returns, of whose way nobody is told.

    >>> def three():
    ...     yield 1
    ...     return 3
    >>> result_of(three())
    3
    """
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value
