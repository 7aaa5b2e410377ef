"""The stochastic solver: one compiled loop of steps (`step.py`), driven in chunks from Python by functions of a state.

One step draws noise, evaluates the bound and its gradient, and updates the parameters. Between chunks of steps the
state is a value: it is told to whoever watches, looked at by stop rules, and kept in the checkpoint.

Steps come in phases, and the iterates of a phase's last half are averaged (Polyak and Juditsky 1992).
`schedule.py` says which phases there are and when the fit may stop, by the tests of `core/numerics/convergence.py`.

If a chunk ends in something that is not finite, it is made again with care: then a step that is not
finite changes nothing and is counted, and the first such step is made once more to name the site.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.keys import host_generator
from vbppl.core.types import PyTree
from vbppl.core.watch import Watch, last
from vbppl.data.prefetch import Prefetcher
from vbppl.data.source import mesh_of
from vbppl.inference.solution import Note, NotSearched, Progress, Solution, Status
from vbppl.inference.stochastic.checkpoint import Checkpoint, NoCheckpoint, State, fingerprint
from vbppl.inference.stochastic.control_variates import ControlVariate, anchor_at, can_anchor, no_anchor
from vbppl.inference.stochastic.early_stopping import Ending
from vbppl.inference.stochastic.optimizers import AnnealedAdam, Optax
from vbppl.inference.stochastic.problem import Problem
from vbppl.inference.stochastic.schedule import THIN, UNTRIED_STEP_SIZE, Phase, Schedule, successive_halving
from vbppl.inference.stochastic.step import Position, Setup, draws_a_step, first_position, points_of, run_chunk
from vbppl.target.density import nonfinite_sites
from vbppl.target.target import with_fixed_parameterisations

COMPILED: set[int] = set()  # the kinds of chunks of which there is a program


def solve(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Maximise the bound; an interrupt or a deadline gives back what there is after the last whole chunk."""
    run, first = _begun(problem)
    checkpoint: Checkpoint | NoCheckpoint = NoCheckpoint()
    if problem.checkpoint is not None:
        fed, _ = next(run.fed(run.setup, first.position, 1))
        checkpoint = Checkpoint(
            problem.checkpoint, fingerprint(problem, fed, first), devices.spans_processes(run.setup.mesh)
        )
    with checkpoint.locked():
        try:
            first = checkpoint.restored(first)
            state, cut = last(choose_step_size(run, first, checkpoint), first, watch)
            if not cut:
                state, cut = last(advance(run, state, checkpoint), state, watch, progress_of)
        except KeyboardInterrupt:
            state, cut = first, "interrupted"
        if cut == "deadline":
            checkpoint.save(state)
    return [_solution(run, state, cut)]


def choose_step_size(run: Run, state: State, checkpoint: Checkpoint | NoCheckpoint) -> Generator[State, None, State]:
    """The state with a step size for what is learnt without a unit, if that is needed: the best of some short tries.

    Each try is a state, at which the fit can end, and nobody is told of it.
    """
    if state.ending is not None or state.step_size is not None or not run.needs_step_size:
        return state
    began, state = time.perf_counter() - state.seconds, dataclasses.replace(state, trial_steps=0)

    def trial(step_size: float, steps: int) -> Generator[State, None, float]:
        """The bound at the end of `steps` steps, from where the fit begins, which is left as it was."""
        nonlocal state
        # A copy: a position that is donated may share its memory with the array on the host that it was put from.
        position, phase = jax.device_put(jax.tree.map(np.array, state.position)), Phase(0, steps, steps, steps)
        _, bounds, _, _ = _steps(run, run.with_step_size(step_size), position, steps, phase.as_data(), False)
        state = dataclasses.replace(state, trial_steps=state.trial_steps + steps, seconds=time.perf_counter() - began)
        yield state
        return float(bounds[-max(steps // 4, 1) :].mean())

    # Rows that come from a generator are there once, and the fit needs them.
    repeatable = run.prefetcher is None or run.prefetcher.is_repeatable
    step_size = (yield from successive_halving(trial, run.problem.settings.steps)) if repeatable else UNTRIED_STEP_SIZE
    state = dataclasses.replace(state, step_size=step_size, seconds=time.perf_counter() - began)
    checkpoint.save(state)
    return state


def advance(run: Run, state: State, checkpoint: Checkpoint | NoCheckpoint) -> Iterator[State]:
    """The states after each chunk of steps, until the fit ends by itself; each is kept when the next is asked for."""
    setup = run.with_step_size(state.step_size)
    # The loop takes its own position away (it is donated), so it works on one on the device, while that of the state
    # stays on the host, whole: an interrupt at any moment finds the state before.
    live = state.position
    while state.ending is None:
        state, live = _chunk(run, setup, state, live)
        # Told first, written after: what a watcher stops is done again by whoever goes on from the file.
        yield state
        checkpoint.save(state)


def progress_of(state: State) -> Progress:
    """What is told of a state."""
    carry, chunk = state.position.carry, state.bounds[state.reported :]
    mean = float(chunk[np.isfinite(chunk)].mean()) if np.isfinite(chunk).any() else math.nan
    step, of = int(state.position.step), state.schedule.asked
    return Progress(step, mean, state.seconds, carry.params, carry.objective_state, "stochastic steps", of)


@dataclasses.dataclass(frozen=True)
class Run:
    """A problem with what the loop needs of it: what a fit never changes.

    Attributes:
      problem: what is to be solved.
      setup: what a step reads, on the device.
      anchored: whether there is a control variate, whose anchor is renewed.
      needs_step_size: whether numbers are learnt of which no one knows how long their steps should be.
    """

    problem: Problem
    setup: Setup
    anchored: bool
    needs_step_size: bool

    @property
    def prefetcher(self) -> Prefetcher | None:
        """Reads rows from the host, if there is something to read."""
        return self.problem.prefetcher

    def with_step_size(self, step_size: float | None) -> Setup:
        """The setup with steps of this size for what is learnt without a unit."""
        if step_size is None:
            return self.setup
        optimizer = dataclasses.replace(self.setup.optimizer, unknown=jax.device_put(step_size))
        return dataclasses.replace(self.setup, optimizer=optimizer)

    def fed(self, setup: Setup, position: Position, steps: int) -> Iterator[tuple[Setup, int]]:
        """The setup for the next `steps` steps, in portions of so many steps."""
        if self.prefetcher is None:
            yield setup, steps
            return
        for part, count in self.prefetcher.feeds(position.cursor, steps):
            yield dataclasses.replace(setup, minibatches=part), count


def _begun(problem: Problem) -> tuple[Run, State]:
    """What a fit never changes, and the state before its first step."""
    settings, objective, objective_state = problem.settings, problem.objective, problem.objective_state
    target, guide, raw_key = problem.target, problem.guide, problem.raw_key
    optimizer = AnnealedAdam() if settings.optimizer is None else Optax(settings.optimizer)
    anchored = objective.is_linear and can_anchor(target, guide, problem.minibatches)
    if anchored:
        objective, objective_state = ControlVariate(objective), no_anchor(target.dim)
    # Which rows does not matter for the shape of the noise, and none is read.
    rows = {name: np.arange(length, dtype=np.int32) for name, _, length in problem.minibatches.plates}
    shown = guide.noise(target.replace(rows=rows))
    if objective.needs_independent_draws:
        noise = shown.apart(settings.draws)
    else:
        noise = shown.spread(host_generator(raw_key, "strata"), settings.draws)
    # Compiled in, coordinates cost nothing in a step; the anchor and the answer keep theirs as data.
    target = with_fixed_parameterisations(target)
    mesh = mesh_of((target, guide))
    setup = Setup(target, guide, objective, optimizer, problem.minibatches, noise, raw_key, mesh)
    params = _on_host({"guide": problem.phi, "model": target.params})
    position = first_position(setup, params, _on_host(objective_state))
    # An anchor is no statistic: it is made anew at the average.
    average = settings.average and (anchored or not _holds_floats(objective_state))
    needs_step_size = settings.optimizer is None and _needs_step_size(setup, position)
    memories = tuple(rule.first() for rule in problem.stop_rules)
    schedule = Schedule(settings.steps, average, objective.warm_up_steps)
    first = State(position, schedule, np.zeros(0), np.zeros((0, 2, 0)), memories)
    return Run(problem, devices.put(setup, mesh), anchored, needs_step_size), first


def _chunk(run: Run, setup: Setup, state: State, live: Position) -> tuple[State, Position]:
    """The state after some steps in one call of the compiled loop, and the same place on the device."""
    began, phase, done = time.perf_counter(), state.schedule.phase(), int(state.position.step)
    renewals = phase.renewals() if run.anchored and state.schedule.asked is not None else ()
    end = min(at for at in (*renewals, phase.begin + phase.steps) if at > done)
    # Where a chunk ends moves no bit: noise, rows and step sizes are functions of the step's number.
    steps, data, careful = min(run.problem.settings.every, end - done), phase.as_data(), state.careful
    after, bounds, trace, compiling = _steps(run, setup, live, steps, data, careful)
    if not careful and not _is_finite((after.carry, bounds)):
        # From the state before, on the host; the bare loop has spoilt its own. Once careful, always careful.
        careful = True
        after, bounds, trace, more = _steps(run, setup, state.position, steps, data, True)
        compiling += more
    finite, first_skipped, sites = np.isfinite(bounds), state.first_skipped, state.nonfinite_sites
    if first_skipped is None and not finite.all():
        first_skipped, sites = _find_nonfinite_sites(run, setup, state.position, int(np.argmin(finite)), data)
    kept = trace[phase.looked_at(done // THIN + 1 + np.arange(len(trace)))]
    state = dataclasses.replace(
        state,
        position=_on_host(after),
        bounds=np.append(state.bounds, bounds),
        trace=np.concatenate([state.trace, kept]) if len(state.trace) else kept,
        careful=careful,
        reported=len(state.bounds),
        first_skipped=first_skipped,
        nonfinite_sites=sites,
        seconds=state.seconds + time.perf_counter() - began,
        compiling=state.compiling + compiling,
    )
    # Rules look before the phase ends: they judge iterates, which the next phase may begin elsewhere.
    state = _looked_at(run, state)
    if done + steps in renewals:
        state = _anchored(run, state, state.position.carry.params)
    elif state.ending is None and done + steps == phase.begin + phase.steps:
        state = _at_the_end_of(run, state, phase)
    else:
        return state, after
    return state, state.position


def _steps(
    run: Run, setup: Setup, position: Position, steps: int, phase: Phase, careful: bool
) -> tuple[Position, np.ndarray, np.ndarray, float]:
    """The place after `steps` steps, the bound at each, `(steps,)`, the records, and the seconds spent compiling."""
    done, calls, compiling = int(position.step), [], 0.0
    if setup.mesh is not None:  # where a program gives it back to, so that there is one program
        position = devices.put(position, setup.mesh)
    for fed, count in run.fed(setup, position, steps):
        began, kind = time.perf_counter(), _kind((fed, position), careful)
        position, bounds, trace = run_chunk(fed, position, np.int32(count), phase, careful)
        compiling += (time.perf_counter() - began) * (kind not in COMPILED)
        COMPILED.add(kind)
        calls.append((bounds, count, trace, (done + count) // THIN - done // THIN))
        done += count
    # Only now is waited for: while one portion runs, the next is read.
    bounds = [np.asarray(found)[:count] for found, count, _, _ in calls]
    records = [np.asarray(found)[:count] for _, _, found, count in calls]
    return position, np.concatenate(bounds), np.concatenate(records), compiling


def _kind(tree: PyTree, careful: bool) -> int:
    """What two calls have in common that share a program."""
    leaves, structure = jax.tree.flatten(tree)
    return hash((structure, careful, *((np.shape(leaf), str(getattr(leaf, "dtype", ""))) for leaf in leaves)))


def _looked_at(run: Run, state: State) -> State:
    """The state after every stop rule has had its look; the first that says so ends the fit."""
    if not run.problem.stop_rules:
        return state
    began, now = time.perf_counter(), progress_of(state)
    checked = [rule.check(memory, now) for rule, memory in zip(run.problem.stop_rules, state.memories)]
    ending = next((ending for _, ending in checked if ending is not None), None)
    seconds = state.seconds + time.perf_counter() - began
    return dataclasses.replace(state, memories=tuple(memory for memory, _ in checked), ending=ending, seconds=seconds)


def _at_the_end_of(run: Run, state: State, phase: Phase) -> State:
    """End a phase: look at its trace, go on from its average."""
    carry, (schedule, reason) = state.position.carry, state.schedule.after(state.trace)
    params = carry.mean if state.schedule.average else carry.params
    if reason != "steps" and np.isfinite(state.bounds[-phase.steps :]).mean() < 0.5:
        reason = "stuck"  # steps that are skipped agree perfectly
    state = dataclasses.replace(state, schedule=schedule, trace=state.trace[:0])
    ending = _ending(state, reason) if reason else None
    return dataclasses.replace(_anchored(run, state, params), ending=ending)


def _anchored(run: Run, state: State, params: PyTree) -> State:
    """The state at `params`, with the anchor there."""
    carry = dataclasses.replace(state.position.carry, params=params)
    if run.anchored:
        carry = dataclasses.replace(
            carry, objective_state=anchor_at(run.problem.guide, params["guide"], run.problem.target)
        )
    return dataclasses.replace(state, position=dataclasses.replace(state.position, carry=carry))


def _find_nonfinite_sites(
    run: Run, setup: Setup, before: Position, offset: int, phase: Phase
) -> tuple[int, tuple[str, ...]]:
    """Make the first bad step again and ask each site of the model at its draws: its number, and the sites."""
    at = _steps(run, setup, before, offset, phase, True)[0] if offset else before
    target = setup.target.replace(params=at.carry.params["model"])
    fed, _ = next(run.fed(setup, at, 1))
    z, rows = points_of(fed, at, phase)
    return int(at.step), nonfinite_sites(target.replace(rows=rows), np.asarray(z))


def _ending(state: State, reason: str) -> Ending:
    """What there is to say about the end."""
    course = state.schedule.said()
    said = {
        "settled": f"stationary: {course}",
        "steps": f"all steps asked for, not tested for convergence: {course}",
        "capped": f"not converged within {len(state.bounds):,} steps: {course}",
        "stuck": "more than half of the last steps were not finite: not converged",
        "interrupted": "interrupted: not converged",
        "deadline": "the deadline came: not converged",
    }[reason]
    return Ending(reason, reason == "settled", said)


def _solution(run: Run, state: State, cut: str) -> Solution:
    """What the fit leaves behind."""
    problem, carry, convergence = run.problem, state.position.carry, state.schedule.convergence
    ending = state.ending or _ending(state, cut)
    params, objective_state = carry.params, carry.objective_state
    for rule, memory in zip(problem.stop_rules, state.memories):
        params, objective_state, ending = rule.choose(memory, params, objective_state, ending)
    target = problem.target.replace(params=params["model"])
    guide, target = problem.objective.at_rest(problem.guide, target, objective_state)
    skipped = int((~np.isfinite(state.bounds)).sum())
    status = Status(
        ending.reason,
        ending.converged,
        ending.text,
        len(state.bounds),
        (len(state.bounds) + state.trial_steps) * draws_a_step(run.setup),
        state.seconds,
        state.compiling,
        skipped,
        state.first_skipped,
        state.nonfinite_sites,
        r_hat=convergence.r_hat if convergence else None,
        mcse=convergence.mcse if convergence else None,
    )
    modes = NotSearched("stochastic steps start from one place")
    return Solution(target, guide, params["guide"], state.bounds, status, modes, _notes(run, state))


def _notes(run: Run, state: State) -> tuple[Note, ...]:
    if state.step_size is None:
        return ()
    step_size = state.step_size * float(run.setup.optimizer.first)
    how = (
        f"the best of tries of {state.trial_steps:,} steps"
        if state.trial_steps
        else "untried, as a source can be read only once"
    )
    return (Note("step size", f"{step_size:.2g} for what is learnt, {how}"),)


def _needs_step_size(setup: Setup, position: Position) -> bool:
    """Whether numbers are learnt of which no one knows how long their steps should be."""
    params = position.carry.params
    found = jax.make_jaxpr(lambda unknown, power: setup.guide.step_scale(params["guide"], power, unknown))(
        1.0, 1.0
    ).jaxpr
    read = [atom for equation in found.eqns for atom in equation.invars] + found.outvars
    return bool(jax.tree.leaves(params["model"])) or any(atom is found.invars[0] for atom in read)


def _on_host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, tree)


def _holds_floats(tree: PyTree) -> bool:
    return any(jnp.issubdtype(np.asarray(leaf).dtype, jnp.inexact) for leaf in jax.tree.leaves(tree))


def _is_finite(tree: PyTree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_on_host(tree)))
