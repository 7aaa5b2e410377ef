"""What is tried where the report is poor and the guide was ours to choose: the remedies of `remedies/`.

Hyperparameters that depend on the scales among them come first of all, after a first look: where they are good, nothing
is fitted anew. Then all remedies in order. Where the starts disagreed, or nothing converged, draws of the prior are
starts too. A series is one whatever else is tried, and given its hyperparameters has an answer of its own. Sites whose
priors have heavy tails are seen by their quantiles. Rows that no coordinates can move
(non-centred by hand, or without location and scale) are given their hyperparameters first, since what restarts met may
lie along one ridge of these. Other modes come next, since they would be there in any coordinates. Then the other
coordinates of hierarchical sites, unless what the first look has led to is an answer; in those that were kept, a
Laplace approximation of rows beside these sites, and hyperparameters that depend on the scales among them, where the
report is no better than corrected, as for rows; margins that are not a normal's; and last a mixture of Gaussians, also
where weighted draws are an answer already, but the guide is none, and for a price beside what the fit took. Where what
came in the place of a normal is no answer, a mixture is tried from that normal too. A good guide is bettered by the two
that cost little where its own report sees a standard deviation that is off.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.prepare import judge_solution
from vbppl.fitting.remedies.components import add_components, go_back
from vbppl.fitting.remedies.costs import costing
from vbppl.fitting.remedies.from_prior import begin_at_prior
from vbppl.fitting.remedies.hypers import can_structure, structure_hypers
from vbppl.fitting.remedies.margins import shape_margins
from vbppl.fitting.remedies.modes import mix_modes
from vbppl.fitting.remedies.parameterisations import reparameterise
from vbppl.fitting.remedies.rows import condition_other_rows, condition_rows
from vbppl.fitting.remedies.series import condition_series
from vbppl.fitting.remedies.tails import in_its_parameterisation, see_by_quantiles
from vbppl.inference.deterministic.beyond.mixture import is_of_normals
from vbppl.inference.deterministic.beyond.series import is_chain
from vbppl.inference.deterministic.problem import Deterministic
from vbppl.inference.solution import Solution
from vbppl.posterior.report import VERDICTS, AnyReport

# In order, with the verdicts that call for it. Each says by itself whether it has anything to offer.
NO_ANSWER, NOT_GOOD, ALWAYS = ("poor", "unknown"), ("poor", "unknown", "corrected"), VERDICTS
REMEDIES = (
    (begin_at_prior, NO_ANSWER),
    (condition_series, NOT_GOOD),
    (see_by_quantiles, NO_ANSWER),
    (condition_rows, NOT_GOOD),
    (mix_modes, NO_ANSWER),
    (reparameterise, NO_ANSWER),
    (condition_other_rows, NO_ANSWER),
    (structure_hypers, ALWAYS),
    (shape_margins, NO_ANSWER),
    (add_components, ALWAYS),
    (go_back, NO_ANSWER),
)


def goes_on_at_once(plan: Plan, problem: Any, solution: Solution) -> bool:
    """Whether a first look at a solution is enough to go on by: see `judged_or_structured`."""
    is_ours = plan.is_automatic and isinstance(plan.settings, Deterministic)
    return is_ours and can_structure(solution) and not is_chain(problem, solution)


def judged_or_structured(
    plan: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch
) -> tuple[Plan, Solution, AnyReport]:
    """After a first look that is not good: structured hyperparameters, if these are good, else the whole report.

    Doubts and other coordinates, which cost more than all before, are then not looked into. What gains anything and is
    not good goes with the plan, for its turn among the remedies; what gains nothing is noted, and not tried again.
    """
    if report.verdict == "good" or watch.is_over:
        return plan, solution, report
    # A first look decides against nothing: the whole report will.
    after, again = structure_hypers(plan, problem, solution, dataclasses.replace(report, verdict="poor"), watch)
    if again.verdict == "good":
        return plan, after, again
    if after.guide is not solution.guide:
        plan = dataclasses.replace(plan, structured=(solution.phi, after, again))
        after = costing(solution, after)
    return plan, *judge_solution(after, problem.raw_keys[0], watch)


def escalate(
    plan: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A better solution with its report, if there is one; else the same."""
    better, report = _remedied(plan, problem, solution, report, watch)
    lost = [note for note in solution.notes if note.topic == "precision" and note not in better.notes]
    return (better.noted(*lost[0]) if lost else better), report


def _remedied(
    plan: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Remedy after remedy, until one brings an answer or time is over."""
    if not (plan.is_automatic and isinstance(plan.settings, Deterministic)):
        return solution, report
    for remedy, verdicts in REMEDIES:
        if report.verdict not in verdicts or solution.status.was_cut_short:
            continue
        if watch.is_over:
            return solution.noted("ended", "out of time before all was tried that may better the answer"), report
        if is_of_normals(solution):
            plan = dataclasses.replace(plan, normal=(solution, report))
        try:
            solution, report = remedy(plan, problem, solution, report, watch)
            plan, problem = in_its_parameterisation(plan, problem, solution)
        except KeyboardInterrupt:  # what earlier remedies have found stays
            return solution.noted("ended", "interrupted while a better answer was looked for"), report
    return solution, report
