"""Shaped margins: a Gaussian copula in the place of a Gaussian whose coordinates are skewed."""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.prepare import judged
from vbppl.guides.gaussian import correlations_of
from vbppl.inference.deterministic.beyond.copula import Margins
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Solution
from vbppl.posterior.report import VERDICTS, AnyReport

PROMISED = 0.03  # nats: of what promised less, nothing gained more
WORTHWHILE = 0.05  # nats


def shape_margins(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Bend the margins of the Gaussian, where two looks promise anything; keep them where new draws see a gain."""
    if correlations_of(before.guide) == "other" or not before.status.converged:
        return before, report
    work = Margins(dataclasses.replace(problem, targets=[before.target]), 0, before)
    after, bent = work.shaped(watch, PROMISED)
    if bent is None or after.status.was_cut_short:
        return work.spent(before), report
    gain = work.gain(bent)
    after, by = work.spent(after), f"{gain.value:.2f} ± {gain.se:.2f} nats"
    tried = f"a Gaussian copula with shaped margins gains {by}"
    if not (WORTHWHILE < gain.value < np.inf and gain.value > 2 * gain.se):
        return work.spent(before).noted("margins", f"{tried}, too little to be kept"), report
    after, card = judged(after.noted("margins", f"{tried}, kept"), problem.raw_keys[0], watch)
    if card.cut_short or VERDICTS.index(card.verdict) < VERDICTS.index(report.verdict):
        return work.spent(before).noted("margins", f"{tried}, but would be {card.verdict}"), report
    return after, card
