"""A mixture of the modes and widths that restarts met: they would be there in any coordinates."""

from __future__ import annotations

from vbppl.core.watch import Watch
from vbppl.fitting.plan import FULL_RANK_DIM, Plan
from vbppl.fitting.prepare import judged
from vbppl.fitting.rungs.components import MIXTURE_DIM
from vbppl.inference.deterministic.beyond import mixture
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Solution
from vbppl.posterior.report import AnyReport


def mix_modes(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A full-rank Gaussian for each mode that the restarts found, which then climb together, and are joined by more."""
    if not before.other_modes.found or before.target.dim > FULL_RANK_DIM:
        return before, report
    after = mixture.climbed(problem, before, watch, grows=before.target.dim <= MIXTURE_DIM)
    if after.status.was_cut_short:
        return before, report
    nats, error = mixture.gain(problem, before, after)
    if len(mixture.components_of(after)) == 1 or not nats > 0:
        text = f"a mixture of them was tried: {nats:.2f} ± {error:.2f} nats, left out"
        return mixture.spent(before, after).noted("modes", text), report
    return judged(after, problem.raw_keys[0], watch)
