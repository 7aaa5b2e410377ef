"""A mixture of the modes and widths that restarts met: they would be there in any coordinates."""

from __future__ import annotations

from vbppl.core.watch import Watch
from vbppl.fitting.plan import FULL_RANK_DIM, Plan
from vbppl.fitting.remedies.choice import unless_worse
from vbppl.fitting.remedies.components import MIXTURE_DIM
from vbppl.inference.deterministic.beyond.mixture import Ascent, components_of
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import AnyReport


def mix_modes(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A full-rank Gaussian for each mode that the restarts found, which then climb together, and are joined by more."""
    if not before.other_modes.found or before.target.dim > FULL_RANK_DIM:
        return before, report
    ascent = Ascent(problem, before)
    after = ascent.climbed(watch, grows=before.target.dim <= MIXTURE_DIM)
    if after.status.was_cut_short:
        return before, report
    gain = ascent.gained(after)
    tried = f"a mixture of {len(components_of(after))} normals, begun with those met, gains {gain.in_words}"
    # Of far modes any gain is worth it: one of a thousandth is a thousandth of a nat.
    if len(components_of(after)) == 1 or not gain.value > 0:
        return ascent.spent(before).noted("modes", f"{tried}, left out"), report
    before, after = ascent.spent(before), ascent.spent(after)
    return unless_worse(problem, before, report, after, Note("modes", tried), watch)
