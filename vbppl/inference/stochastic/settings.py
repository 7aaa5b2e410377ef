"""What can be asked of a stochastic fit."""

from __future__ import annotations

import dataclasses
from typing import Any

from vbppl.core.errors import of_kind, whole_number, yes_or_no
from vbppl.inference.stochastic.objectives import ClosedForm, Objective, StickingTheLanding
from vbppl.inference.stochastic.step import CHUNK


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """Stochastic gradients of the bound: fresh draws at every step, minibatches if asked for.

    Attributes:
      optimizer: any Optax transformation, used as it is; None for annealed Adam.
      steps: exactly so many steps; None to go on until the iterates are stationary and their average exact enough.
        Where params or networks are learnt without an `optimizer`, a step size is chosen before by trying some.
      draws: draws a step; two or more are stratified in every coordinate. Where a step is dear, as with networks and
        many rows, one is often enough.
      sticking_the_landing: leave the score term out of the gradient, whose variance then vanishes
        where the guide equals the posterior.
      objective: what is maximised: `vb.inference.Elbo(...)`, `vb.inference.ImportanceWeighted()`; or the plain bound.
      validation: `vb.inference.Validation(model(rows kept back))`: ends the fit when their bound has stopped rising.
      average: return the average of the last iterates, not the last one; where modules carry running statistics,
        which belong to the last iterate, it is the last one in any case.
      every: steps between two looks of progress and callback, at most 1,000.
    """

    optimizer: Any = None
    steps: int | None = None
    draws: int = 16
    sticking_the_landing: bool = False
    objective: Objective | None = None
    validation: Any = None
    average: bool = True
    every: int = CHUNK

    def chosen_objective(self) -> Objective:
        """What these settings maximise."""
        return self.objective or (StickingTheLanding() if self.sticking_the_landing else ClosedForm())

    def __post_init__(self) -> None:
        yes_or_no("sticking_the_landing", self.sticking_the_landing)
        yes_or_no("average", self.average)
        if self.objective is not None and self.sticking_the_landing:
            raise ValueError("sticking_the_landing is an objective of its own: give one of the two.")
        if not whole_number("every", self.every) <= CHUNK:
            raise ValueError(f"every must lie between 1 and {CHUNK}, not {self.every}.")
        whole_number("draws", self.draws)
        of_kind(
            "objective",
            self.objective,
            self.objective is None or hasattr(self.objective, "is_linear"),
            "vb.inference.Elbo()",
        )
        known = self.validation is None or hasattr(self.validation, "model")
        of_kind("validation", self.validation, known, "vb.inference.Validation(model(rows kept back))")
        if self.steps is not None:
            whole_number("steps", self.steps)
        if self.optimizer is not None and not hasattr(self.optimizer, "update"):
            raise TypeError(
                f"optimizer must be an Optax transformation such as optax.adam(1e-2), not {self.optimizer!r}."
            )
