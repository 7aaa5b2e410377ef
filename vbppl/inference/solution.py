"""What a solver gives back, the same from each: `Solution`; and what it tells on the way: `Progress`."""

from __future__ import annotations

import dataclasses
import functools
import html
import math
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import PyTree

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback is told between the steps of a fit.

    Attributes:
      step: the steps done.
      elbo: the current estimate of the bound, in nats.
      seconds: since the first step.
      params: the current parameters, `{"guide": phi, "model": unconstrained params}`.
      objective_state: what the objective hands from step to step besides, if anything.
      stage: what the steps are for: "mean field", "full rank", "stochastic steps", ...
      of: the steps after which the fit ends, where their number was asked for.
    """

    step: int
    elbo: float
    seconds: float
    params: PyTree
    objective_state: PyTree = ()
    stage: str = "climbing"
    of: int | None = None

    @property
    def said(self) -> str:
        """What a person is told besides the steps."""
        return f"ELBO {self.elbo:.2f}"

    def __repr__(self) -> str:
        return f"Progress(step={self.step:,}, elbo={self.elbo:.3f}, seconds={self.seconds:.2g})"


class Note(NamedTuple):
    """One thing that a fit chose or met by itself: what it is about, in a word, and a sentence."""

    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.text}"


class Mode(NamedTuple):
    """Another mode than the one that was fitted.

    Attributes:
      lower: the nats by which its bound is lower.
      away: how many sds away it lies.
      place: mean and log sd of a normal there, `(2, dim)`, in the coordinates of the fit.
      factor: of its covariance, `(dim, dim)`, where a restart in width has met it; else None.
      wider: how many times as wide as the fit it then is, on average over the dims.
    """

    lower: float
    away: float
    place: np.ndarray
    factor: np.ndarray | None = None
    wider: float = 1.0

    def __str__(self) -> str:
        lower = f"whose bound is {self.lower:.1f} nats lower"
        if self.factor is None:
            return f"a restart found another mode, {self.away:.0f} sd away, {lower}"
        wide = f"{self.wider:.1f} times as wide" if self.wider > 1 else f"{1 / self.wider:.1f} times as narrow"
        return f"a restart in width found another scale: a normal {wide} fits too, {lower}"


@pytree
class Searched:
    """Other modes were looked for.

    Attributes:
      found: those that were met, and are not in the guide.
      starts: from how many starts.
      spread: by how many nats the bounds at their ends differ.
      held: those that were met, and have a component of the guide for their own.
      orders: how many modes equal the fitted one but for the order of exchangeable parts, itself among them.
      exchangeable: the sites that have these parts.
    """

    found: tuple[Mode, ...]
    starts: int = static()
    spread: float = static()
    held: tuple[Mode, ...] = ()
    orders: int = static(default=1)
    exchangeable: tuple[str, ...] = static(default=())

    @property
    def one_of(self) -> str:
        """What a verdict is said of, where there are equal modes beside the fitted one."""
        if self.orders == 1:
            return ""
        sites = ", ".join(self.exchangeable)
        return f" for one of {self.orders:,} equal modes, which differ in the order of {sites} alone"

    def of_all(self, log_evidence: float) -> str:
        """The log evidence of all equal modes, after that of the fitted one."""
        every = log_evidence + math.log(self.orders)
        return f" here, {every:.3f} of all {self.orders:,} modes" if self.orders > 1 else ""

    def __str__(self) -> str:
        return f"restarts: {self.starts}, their bounds within {self.spread:.2g} nats" if self.starts > 1 else ""


def searched_both(before: Searched | NotSearched, after: Searched | NotSearched) -> Searched | NotSearched:
    """What a fit and another one have met that began where the first had ended: its modes, and the second's widths."""
    widths = tuple(mode for mode in after.found if mode.factor is not None)
    if isinstance(before, NotSearched):
        return after if widths else before
    places = tuple(mode for mode in before.found if mode.factor is None)
    return dataclasses.replace(before, found=(*places, *widths))


@pytree
class NotSearched:
    """Other modes were not looked for, and why."""

    why: str = static()

    @property
    def found(self) -> tuple[Mode, ...]:
        """Nothing."""
        return ()

    held = found
    one_of = ""

    def of_all(self, log_evidence: float) -> str:
        """Nothing is known of others."""
        return ""

    def __str__(self) -> str:
        return f"other modes were not looked for: {self.why}"


@dataclasses.dataclass(frozen=True)
class Status:
    """Why a fit ended, and what happened on the way.

    Attributes:
      reason: one word: why it ended.
      converged: whether it ended by its own rule.
      text: the same in a sentence, with the numbers.
      steps: steps taken.
      gradients: evaluations of the model's gradient, one for each draw.
      seconds: what solving took by the clock, without judging.
      compiling: how many of them went into the first call of a new program.
      skipped: steps that were not finite and therefore changed nothing.
      first_skipped: the number of the first of them.
      nonfinite_sites: the sites whose density or gradient was not finite there.
      draw_noise: by how many sds another set of fixed draws would move the answer; 0 where draws are fresh.
      decrement: the nats still to gain, to second order; not a number where it is not known.
      r_hat: of the last round's iterates, where there were rounds.
      mcse: the standard error of their average, in posterior sds.
    """

    reason: str
    converged: bool
    text: str
    steps: int
    gradients: int
    seconds: float = dataclasses.field(default=0.0, compare=False)
    compiling: float = dataclasses.field(default=0.0, compare=False)
    skipped: int = 0
    first_skipped: int | None = None
    nonfinite_sites: tuple[str, ...] = ()
    draw_noise: float = 0.0
    # Not compared: where it is not known it is NaN, which from Python 3.13 on makes a status differ from itself.
    decrement: float = dataclasses.field(default=float("nan"), compare=False)
    r_hat: float | None = None
    mcse: float | None = None

    @property
    def was_cut_short(self) -> bool:
        """Did a person or a deadline end it?"""
        return self.reason in ("interrupted", "deadline")

    def __str__(self) -> str:
        text = f"{self.text}; {self.steps:,} steps, {self.gradients:,} gradients"
        if self.skipped:
            where = f" in site {', '.join(self.nonfinite_sites)}" if self.nonfinite_sites else ""
            first = f"(first at step {self.first_skipped:,}{where})"
            text += f"; {self.skipped:,} steps were not finite and skipped {first}"
        return text

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>"


@pytree
class Solution:
    """The end of a fit, whatever solver made it: every solver fills every field truly.

    Attributes:
      target: the density as it was fitted: with learnt params, coordinates and the states of modules.
      guide: the family.
      phi: its parameters.
      bounds: the bound at each step, in nats, `(steps,)`; NaN where a step was skipped.
      status: why the fit ended.
      other_modes: what else was found, or why nothing was looked for.
      notes: what the fit chose by itself, in the order in which it did.
      in_double: `target` in double precision, on the host, where the fit went on in it and the session does not.
    """

    target: Any
    guide: Any
    phi: PyTree
    bounds: np.ndarray
    status: Status = static()
    other_modes: Searched | NotSearched
    notes: tuple[Note, ...] = static(default=())
    in_double: Any = None

    def noted(self, topic: str, text: str) -> Solution:
        """The same with one more note."""
        return dataclasses.replace(self, notes=(*self.notes, Note(topic, text)))


def in_its_precision(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A function of a posterior, computed in double precision where its fit went on in it and the session does not.

    What is found is narrowed to the session's dtypes. In these alone draws may have no values, where a factor of a
    kernel that is nearly singular does not exist.
    """

    @functools.wraps(function)
    def computed(posterior: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        solution = posterior.solution
        if solution.in_double is None or jnp.result_type(float) == np.float64:
            return function(posterior, *args, **kwargs)
        with jax.enable_x64(True):
            phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), solution.phi)
            exact = dataclasses.replace(solution, target=solution.in_double, phi=phi, in_double=None)
            found = function(dataclasses.replace(posterior, solution=exact), *args, **kwargs)
            return jax.tree.map(_narrowed, found)

    return computed


def _narrowed(leaf: Any) -> Any:
    """An array in 32 bits, where it has 64; all else as it is."""
    dtype = str(getattr(leaf, "dtype", ""))
    return leaf.astype(dtype.replace("64", "32")) if dtype in ("float64", "int64", "uint64") else leaf
