"""A mixture of Gaussians for what is bent, ringed, or of several widths: new components while they pay."""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.remedies.choice import KEPT, leaves_room, unless_worse
from vbppl.fitting.remedies.costs import COSTS
from vbppl.guides.gaussian import normal_of
from vbppl.inference import bound
from vbppl.inference.deterministic.beyond.mixture import Ascent, components_of, is_of_normals
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import VERDICTS, AnyReport, Report

MIXTURE_DIM = 50
SHARE = 0.8  # of what is wrong that lies in the margins, from which on these are to be shaped instead
# Where weighted draws are an answer: the gap in nats from which on a good guide is looked for; there, and from a normal
# that was left behind, at what price beside the fit, or in gradients of a cheap density.
GAP, TIMES, CHEAP = 0.1, 2, 100_000
ROOM = 0.15  # of the worst log sd, by the report, from where on a good guide is bettered at that price
FOLDS, DEEPEST = 5, 20.0  # of the cross-validation; nats below the mean that count as no lower


def add_components(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch, at_a_price: bool = False
) -> tuple[Solution, AnyReport]:
    """A mixture in the place of the Gaussian, where something else is wrong than the shape of its margins."""
    # Components of what is bent already would have to climb in bent coordinates, which nobody has written.
    if not isinstance(report, Report) or not is_of_normals(before):
        return before, report
    if report.verdict == "good" and not leaves_room(report, ROOM):
        return before, report
    if not 1 < before.target.dim <= MIXTURE_DIM or margin_share(before, report) >= SHARE:
        return before, report
    has_answer, budget = report.verdict in ("corrected", "good"), np.inf
    if has_answer and not report.log_evidence - report.elbo.value > GAP:
        return before, report
    if has_answer or at_a_price:
        each = bound.work(before.guide, before.phi, before.target) + 10 * before.target.dim
        budget = max(TIMES * before.status.gradients, min(CHEAP, bound.WORK / max(each, 1)))
    ascent = Ascent(problem, before, budget=budget)
    after = ascent.climbed(watch)
    if after.status.was_cut_short:
        return before, report
    gain = ascent.gained(after)
    tried = f"a mixture of {len(components_of(after))} normals gains {gain.in_words}"
    if not gain.is_sure():
        return ascent.spent(before).noted("mixture", f"{tried}, left out"), report
    before, after = ascent.spent(before), ascent.spent(after)
    return unless_worse(problem, before, report, after, Note("mixture", tried), watch)


def go_back(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Components added to the last normal, in whose place this came, or this: by the verdict, else by the bound.

    What is bent can get no more components, and two clusters of data under a heavy tail are bent and two modes at once.
    """
    if (normal := plan.normal) is None or is_of_normals(before):
        return before, report
    mixed = add_components(plan, problem, *normal, watch, at_a_price=True)
    (best, report), (left, _) = sorted(((before, report), mixed), key=_worth, reverse=True)
    costs = {
        name: getattr(best.status, name) + getattr(left.status, name) - getattr(normal[0].status, name)
        for name in COSTS  # both went on from the normal, and hold its cost
    }
    best = dataclasses.replace(best, status=dataclasses.replace(best.status, **costs))
    for note in [one for one in mixed[0].notes[len(normal[0].notes) :] if one not in best.notes]:
        text = note.text.removesuffix(KEPT).removesuffix(", left out")
        best = best.noted(note.topic, f"from the normal before, {text}, left out")
    return best, report.beside(best)


def _worth(found: tuple[Solution, AnyReport]) -> tuple[int, float]:
    return VERDICTS.index(found[1].verdict), float(np.nan_to_num(found[1].elbo.value, nan=-np.inf))


def margin_share(before: Solution, report: Report) -> float:
    """How much of `log p - log q` the margins' skewness and tails explain: R^2 by cross-validation, at most 1.

    Regressed on the third and fourth Hermite polynomials of each standardised coordinate at the guide's own draws,
    where first and second are zero at the optimum. Not a number where the guide is no Gaussian, or draws are few.
    """
    draws, normal = report.draws, normal_of(before.guide, before.phi)
    f = (draws.log_p - draws.log_q)[draws.own]
    sound = np.isfinite(f)
    if normal is None or sound.sum() < 4 * FOLDS * before.target.dim or not f[sound].std() > 0:
        return np.nan
    t = (draws.z[draws.own][sound] - normal[0]) / np.sqrt(np.sum(normal[1] ** 2, axis=1))
    f = np.maximum(f[sound], f[sound].mean() - DEEPEST)
    features = np.concatenate([np.ones((len(t), 1)), t**3 - 3 * t, t**4 - 6 * t**2 + 3], axis=1)
    # Draws are antithetic, the second half of a set mirrors the first: every fold takes both of a pair.
    fold, left = np.arange(len(f)) % FOLDS, 0.0
    for held in range(FOLDS):
        out = fold == held
        fitted = np.linalg.lstsq(features[~out], f[~out], rcond=None)[0]
        left += float(np.sum((f[out] - features[out] @ fitted) ** 2))
    return 1 - left / float(np.sum((f - f.mean()) ** 2))
