"""The deterministic fit with its report card, and the rungs to climb where the card is poor.

Other modes that the restarts met come first, since they would be there in any coordinates: they become a
mixture. Then the other coordinates of hierarchical sites. What is no better is not kept; what was tried is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vbppl.guides.base import Guide
from vbppl.guides.gaussian import FullRank, Gaussian
from vbppl.guides.low_rank import LowRank
from vbppl.guides.mixture import Mixture
from vbppl.guides.point import MAP
from vbppl.inference import bound
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic import fixed_draws, low_rank
from vbppl.inference.deterministic.fixed_draws import Watch
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Progress, Solution
from vbppl.posterior import judge, row_evidence
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import Report
from vbppl.target.target import Target

FULL_RANK_DIM = 512  # up to here "auto" means full rank, beyond low rank
APART = 1.0  # sds between two modes of a mixture


def climb(target: Target, problem: Problem, raw: np.ndarray, watch: Watch | None, automatic: bool) -> Posterior:
    """Fit what is wished for; where the report is poor and the choice is ours (`automatic`), try what may help."""
    (fitted,) = run_all([target], problem, [raw], watch)
    posterior = judged(target, fitted, raw)
    if not automatic or not is_poor(posterior) or posterior.status.reason == "interrupted":
        return posterior
    if len(fitted.elsewhere) and target.dim <= FULL_RANK_DIM:
        return _mixture(posterior, fitted, problem, raw)
    return _both_coordinates(posterior, problem, raw, watch)


def run_all(
    targets: Sequence[Target], problem: Problem, raw_keys: Sequence[np.ndarray], watch: Watch | None = None
) -> list[Solution]:
    """Fit what is wished for on fixed draws, by the room that knows how."""
    room = low_rank if isinstance(problem.guides[-1], LowRank) else fixed_draws
    return room.run(targets, problem, raw_keys, watch)


def judged(target: Target, fitted: Solution, raw: np.ndarray) -> Posterior:
    """What was fitted, with its report card."""
    centred = target.centred if fitted.centred is None else fitted.centred
    target = dataclasses.replace(target, params=fitted.params["model"], centred=centred)
    guide, phi, status = fitted.guide, fitted.params["guide"], fitted.status
    report = None
    try:
        elbo = bound.elbo(guide, phi, target, raw)
        if not isinstance(guide, MAP):
            report = _judge(guide, phi, target, elbo, status, raw)
    except KeyboardInterrupt:  # what has been fitted is not lost
        said = f"{status.text}; interrupted before it was judged"
        status = dataclasses.replace(status, reason="interrupted", converged=False, text=said)
        elbo, report = Estimate(np.nan, np.nan), Report.unjudged(status)
    if report is not None:
        report = dataclasses.replace(report, choices=(*report.choices, *fitted.choices))
    return Posterior(target, guide, phi, elbo, fitted.bounds, status, report)


def _judge(guide: Guide, phi: Any, target: Target, *rest: Any) -> judge.Report:
    """The report card: row by row where the guide is amortised."""
    by_row = row_evidence.weighs_rows(guide, phi, target)
    return (row_evidence.judge_rows if by_row else judge.judge)(guide, phi, target, *rest)


def is_poor(posterior: Posterior) -> bool:
    """Whether the report card says so."""
    return posterior.report is not None and posterior.report.verdict == "poor"


def _both_coordinates(
    before: Posterior, problem: Problem, raw: np.ndarray, watch: Callable[[Progress], None] | None
) -> Posterior:
    """Try the other coordinates too, if there are any; keep the higher bound, and say so."""
    other = np.any(problem.centred != before.target.centred, axis=1)
    if not other.any():
        return before
    start = None if problem.start is None else problem.start[other]
    problem = dataclasses.replace(problem, centred=problem.centred[other], start=start)
    try:
        (fitted,) = run_all([before.target], problem, [raw], watch)
    except InitializationError:  # so these coordinates are no choice
        card: Any = before.report
        note = "the other coordinates were tried: no start has a finite density there"
        return dataclasses.replace(before, report=dataclasses.replace(card, choices=(*card.choices, note)))
    after = judged(before.target, fitted, raw)
    if after.status.reason == "interrupted":
        return before
    better = not before.elbo.value >= after.elbo.value  # a bound that is no number is no better
    kept, left = (after, before) if better else (before, after)
    words = ["centred" if np.any(each.target.centred) else "decentred" for each in (kept, left)]
    note = f"both coordinates were fitted to the end: ELBO {kept.elbo} {words[0]}, kept; {left.elbo} {words[1]}"
    report: Any = kept.report  # there is one for every guide but MAP
    advice = tuple(step for step in report.advice if "decenter" not in step)
    own = [choice for choice in report.choices if not choice.startswith("coordinates:")]
    report = dataclasses.replace(report, choices=(note, *own), advice=advice)
    return dataclasses.replace(kept, report=report)


def _mixture(before: Posterior, fitted: Solution, problem: Problem, raw: np.ndarray) -> Posterior:
    """A full-rank Gaussian for each mode that the restarts found, weighed by the evidence it accounts for."""
    guide, phi = before.guide, np.asarray(before.phi, np.float64)
    if not isinstance(guide, Gaussian):
        return before
    fits = []
    for place in (np.stack([guide.loc(phi), np.log(guide.sd(phi))]), *fitted.elsewhere):
        method = dataclasses.replace(problem.method, kind="auto", draws=None)
        centred = before.target.centred[None]
        one = dataclasses.replace(problem, guides=(FullRank(),), method=method, centred=centred, start=place[None])
        fits += fixed_draws.run([before.target], one, [raw])
    if any(fit.status.reason == "interrupted" for fit in fits):
        return before
    components: list[np.ndarray] = []
    for fit in fits:
        phi = fit.params["guide"]
        # Two restarts may have met the same mode.
        if fit.status.converged and all(_away(phi, other) > APART for other in components):
            components.append(phi)
    if len(components) < 2:
        return before
    elbos = [bound.elbo(FullRank(), phi, before.target, raw).value for phi in components]
    gradients = fitted.status.gradients + sum(fit.status.gradients for fit in fits)
    status = dataclasses.replace(fitted.status, other_modes=(), gradients=gradients)
    phi = Mixture.of(components, elbos)
    weights = ", ".join(f"{weight:.2f}" for weight in np.exp(phi["log_weights"]))
    note = f"guide: a mixture of {len(components)} modes, weights {weights}"
    mixed = dataclasses.replace(
        fitted,
        params={**fitted.params, "guide": phi},
        status=status,
        guide=Mixture(),
        choices=(*fitted.choices, note),
    )
    after = judged(before.target, mixed, raw)
    return after if after.elbo.value > before.elbo.value else before


def _away(phi: np.ndarray, other: np.ndarray) -> float:
    """How far apart two full-rank Gaussians lie, in sds of the wider one."""
    sd = np.maximum(FullRank().sd(phi), FullRank().sd(other))
    return float(np.abs((FullRank().loc(phi) - FullRank().loc(other)) / sd).max())
