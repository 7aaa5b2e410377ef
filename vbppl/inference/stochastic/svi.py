"""The stochastic fit: one compiled loop (`loop.py`), driven in chunks from Python.

One step draws noise, evaluates the bound and its gradient, and updates the parameters. Between
chunks of steps Python has the word: progress, callback, hooks, Ctrl-C, stopping.

Steps come in rounds, and the iterates of a round's last half are averaged (Polyak and Juditsky 1992).
`rounds.py` says which rounds there are and when the fit may stop, by the tests of `stopping.py`.
With a checkpoint the fit is written to a file between chunks; one that is killed goes on from there.

If a chunk ends in something that is not finite, it is made again with care: then a step that is not
finite changes nothing and is counted, and the first such step is made once more to name the site.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.archive import PathLike
from vbppl.core.keys import host_generator
from vbppl.core.types import PyTree
from vbppl.data.prefetch import Prefetcher
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import Gaussian
from vbppl.inference.solution import Ending, Hook, Progress, Solution, Status
from vbppl.inference.stochastic.checkpoint import NoCheckpoint, Saver
from vbppl.inference.stochastic.control_variates import ControlVariate, anchors, can_anchor, no_anchor
from vbppl.inference.stochastic.objectives import ClosedForm, Objective, StickingTheLanding
from vbppl.inference.stochastic.optimizers import AnnealedAdam, Optax
from vbppl.inference.stochastic.schedule import THIN, UNTRIED, Course, Round, race
from vbppl.inference.stochastic.settings import Stochastic
from vbppl.inference.stochastic.step import Problem, Schedule, State, draws_a_step, first_state, run_chunk, where
from vbppl.target.target import Target


def run(
    target: Target,
    guide: Guide,
    phi: PyTree,
    method: Stochastic,
    raw_key: np.ndarray,
    stream: Minibatches | None = None,
    prefetcher: Prefetcher | None = None,
    watch: Callable[[Progress], None] | None = None,
    hooks: Sequence[Hook] = (),
    objective: Objective | None = None,
    state: PyTree = (),
    checkpoint: PathLike | None = None,
) -> Solution:
    """Maximise the bound from `phi` on.

    Args:
      target: the density.
      guide: the family.
      phi: its parameters to start from.
      method: the settings.
      raw_key: of the whole fit.
      stream: which rows are shown; None for all.
      feeder: reads the rows of data that stay on the host; None where there are none.
      watch: called after each chunk.
      hooks: called after each chunk, after `watch`; the first that answers ends the fit.
      objective: what is maximised; None for the one that `method` says.
      state: what `objective` is handed at the first step.
      checkpoint: a file that is written between chunks; if there is one, the fit goes on from it.
    """
    optimizer = AnnealedAdam() if method.optimizer is None else Optax(method.optimizer)
    objective, anchor = objective or method.chosen_objective(), None
    plain = isinstance(objective, (ClosedForm, StickingTheLanding)) and method.steps is None
    if plain and isinstance(guide, Gaussian) and can_anchor(target, stream or Minibatches()):
        objective, anchor, state = ControlVariate(objective), anchors(target, guide), no_anchor(target.dim)
    stratification = objective.stratification(guide, target, method.draws, host_generator(raw_key, "strata"))
    target, stream = target.in_fixed_coordinates(), stream or Minibatches()
    problem = Problem(target, guide, objective, optimizer, stream, stratification, raw_key, method.draws)
    first = first_state(problem, _on_host({"guide": phi, "model": target.params}), _on_host(state))
    driver = _Driver(problem, first, method, watch or (lambda progress: None), hooks, prefetcher, anchor)
    saver = NoCheckpoint() if checkpoint is None else Saver(checkpoint, driver)
    try:
        driver.go(saver)
    except KeyboardInterrupt:
        driver.reason = "interrupted"
    fitted = driver.fitted()
    for hook in hooks:
        fitted = hook.finish(fitted)
    return fitted


class _Driver:
    """The Python side of the loop: chunks, rounds, records."""

    def __init__(
        self,
        problem: Problem,
        first: State,
        method: Stochastic,
        watch: Callable[[Progress], None],
        hooks: Sequence[Hook],
        prefetcher: Prefetcher | None,
        anchor: Callable[[PyTree], PyTree] | None = None,
    ):
        self.problem, self.method, self.watch, self.hooks = jax.device_put(problem), method, watch, hooks
        self.prefetcher, self.anchor = prefetcher, anchor
        # An anchor is no statistic: it is made anew at the average.
        self.average = method.average and (anchor is not None or not _holds_floats(first.moving.state))
        self.course, self.state = Course(method.steps, self.average, problem.objective.warm_up_steps), first
        # On the host as well, because a chunk takes the state's buffers away.
        self.best, self.carried = first.moving.params, first.moving.state
        self.bounds, self.trace = np.zeros(0), np.zeros((0, 2, 0))
        self.done, self.careful, self.reason, self.ending = 0, False, "", None
        self.first_skipped, self.nonfinite_sites = None, ()
        self.pace, self.raced = None, 0
        self.began = time.perf_counter()

    def go(self, saver: NoCheckpoint | Saver) -> None:
        """Make chunks of steps until there is a reason to end."""
        if isinstance(self.problem.optimizer, AnnealedAdam):
            if self.pace is None and is_paced(self.problem, self.state):
                again = self.prefetcher is None or self.prefetcher.is_repeatable
                self.pace = race(self.tried, self.method.steps) if again else UNTRIED
                saver.save(self)
            self.problem = self.paced(self.pace or 1.0)
        while not self.reason:
            plan = self.course.round()
            self.chunk(plan, jax.device_put(Schedule.of(*plan[:1], *plan[2:])))
            if self.ending:
                self.reason = "hook"
            elif self.done == plan.begin + plan.steps:
                self.turn(plan)
            saver.save(self)

    def tried(self, pace: float, steps: int) -> float:
        """The bound at the end of `steps` steps at a pace, from where the fit begins; it is left as it was."""
        here, before, self.problem = self.problem, _on_host(self.state), self.paced(pace)
        plan = jax.device_put(Schedule.of(0, steps, steps))
        _, bounds, _ = self.advance(jax.device_put(before), steps, plan, False)
        self.problem, self.state, self.raced = here, before, self.raced + steps
        return float(bounds[-max(steps // 4, 1) :].mean())

    def paced(self, pace: float) -> Problem:
        """The problem with learnt numbers that move at a pace."""
        optimizer = dataclasses.replace(self.problem.optimizer, pace=jax.device_put(pace))
        return dataclasses.replace(self.problem, optimizer=optimizer)

    def chunk(self, plan: Round, schedule: Schedule) -> None:
        """Some steps in one call of the compiled loop; with care if they end in something not finite."""
        steps, before = min(self.method.every, plan.begin + plan.steps - self.done), _on_host(self.state)
        self.state, bounds, trace = self.advance(self.state, steps, schedule, self.careful)
        if not self.careful and not _is_finite((self.state.moving, bounds)):
            self.careful = True
            self.state, bounds, trace = self.advance(before, steps, schedule, True)
        finite = np.isfinite(bounds)
        if self.first_skipped is None and not finite.all():
            self.blame(before, int(np.argmin(finite)), schedule)
        trace = trace[plan.looked_at(self.done // THIN + 1 + np.arange(len(trace)))]
        self.trace = np.concatenate([self.trace, trace]) if len(self.trace) else trace
        self.bounds = np.append(self.bounds, bounds)
        self.done += steps
        self.best, self.carried = _on_host((self.state.moving.params, self.state.moving.state))
        mean = float(bounds[finite].mean()) if finite.any() else math.nan
        now = Progress(self.done, mean, time.perf_counter() - self.began, self.best, self.carried)
        self.watch(now)
        answers = [hook.after_chunk(now) for hook in self.hooks]
        self.ending = next(filter(None, answers), None)

    def advance(
        self, state: State, steps: int, schedule: Schedule, careful: bool
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """`steps` steps, the bound at each, `(steps,)`, and the records of the iterates; sources come in feeds."""
        done, calls = int(state.step), []
        for problem, count in self.fed(state, steps):
            state, bounds, trace = run_chunk(problem, state, np.int32(count), schedule, careful)
            calls.append((bounds, count, trace, (done + count) // THIN - done // THIN))
            done += count
        bounds = [np.asarray(found)[:count] for found, count, _, _ in calls]
        return state, np.concatenate(bounds), np.concatenate([np.asarray(t)[:count] for _, _, t, count in calls])

    def fed(self, state: State, steps: int) -> Iterator[tuple[Problem, int]]:
        """The problem for the next `steps` steps, in portions of so many steps."""
        if self.prefetcher is None:
            yield self.problem, steps
            return
        for feed, count in self.prefetcher.feeds(state.cursor, steps):
            yield dataclasses.replace(self.problem, stream=feed), count

    def turn(self, plan: Round) -> None:
        """End a round: look at its trace, go on from its average."""
        moving = self.state.moving
        self.best = _on_host(moving.mean if self.average else moving.params)
        if self.anchor is not None:
            self.carried = self.anchor(self.best["guide"])
        moving = dataclasses.replace(moving, params=self.best, state=self.carried)
        self.state = dataclasses.replace(self.state, moving=moving)
        self.course, self.reason = self.course.after(self.trace)
        self.trace = self.trace[:0]
        if np.isfinite(self.bounds[-plan.steps :]).mean() < 0.5 and self.reason != "steps":
            self.reason = "stuck"  # steps that are skipped agree perfectly

    def blame(self, before: State, offset: int, schedule: Schedule) -> None:
        """Make the first bad step again and ask each site of the model at its draws."""
        at = self.advance(before, offset, schedule, True)[0] if offset else before
        target = dataclasses.replace(self.problem.target, params=at.moving.params["model"])
        problem, _ = next(self.fed(at, 1))
        z, rows = where(problem, at, schedule)
        self.first_skipped, self.nonfinite_sites = int(at.step), target.nonfinite_sites(np.asarray(z), rows)

    def fitted(self) -> Solution:
        """What the run leaves behind."""
        ending = self.ending or self.ended()
        skipped = int((~np.isfinite(self.bounds)).sum())
        look = self.course.look
        status = Status(
            ending.reason,
            ending.converged,
            ending.text,
            self.done,
            (self.done + self.raced) * draws_a_step(self.problem),
            skipped,
            self.first_skipped,
            self.nonfinite_sites,
            r_hat=look.r_hat if look else None,
            mcse=look.mcse if look else None,
        )
        choices = ()
        if self.pace:
            size = f"{self.pace * float(self.problem.optimizer.first):.2g}"
            how = f"by a race of {self.raced:,} steps" if self.raced else "untried, as a source can be read only once"
            choices = (f"step size of what is learnt: {size}, {how}",)
        return Solution(self.best, self.bounds, status, self.carried, choices=choices)

    def ended(self) -> Ending:
        """What there is to say about the end."""
        said = {
            "settled": f"stationary: {self.course.said()}; other modes were not looked for",
            "steps": f"all steps asked for, not tested for convergence: {self.course.said()}",
            "capped": f"not converged within {self.done:,} steps: {self.course.said()}",
            "stuck": "more than half of the last steps were not finite: not converged",
            "interrupted": "interrupted: not converged",
        }[self.reason]
        return Ending(self.reason, self.reason == "settled", said)


def is_paced(problem: Problem, state: State) -> bool:
    """Whether numbers are learnt of which no one knows how long their steps should be."""
    params = state.moving.params
    found = jax.make_jaxpr(lambda pace, power: problem.guide.metric(params["guide"], power, pace))(1.0, 1.0).jaxpr
    read = [atom for equation in found.eqns for atom in equation.invars] + found.outvars
    return bool(jax.tree.leaves(params["model"])) or any(atom is found.invars[0] for atom in read)


def _on_host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, tree)


def _holds_floats(tree: PyTree) -> bool:
    return any(jnp.issubdtype(np.asarray(leaf).dtype, jnp.inexact) for leaf in jax.tree.leaves(tree))


def _is_finite(tree: PyTree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_on_host(tree)))
