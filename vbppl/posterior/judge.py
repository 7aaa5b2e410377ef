"""Judging a solution against its density: the report.

Draws of the guide, and draws far out that it does not reach, are weighed together (`weighted_draws`), and the means and
sds of what a user reads off are compared with the guide's (`quantities`). What weighing cannot show is looked for
elsewhere: another mode by the restarts of the solver, a heavy tail along the ridges of the density, correlations by
the average curvature of a mean-field bound.

What the solver tells against its solution (not converged, other modes) makes it poor whatever the draws say. A mode
that is known to hold next to nothing of the evidence is none.

The draws that are weighed are no more than the gradients that the fit has taken, or than `CHEAP`; the bound itself, and
linear response, draw besides. Where a gradient is dear, half as many are weighed at first, and short chains are started
only if these take no more than half of the fit's gradients; so many again may go into blocks that are drawn again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics.draws import fresh_draws
from vbppl.core.programs.threads import suited_to
from vbppl.core.watch import Watch
from vbppl.guides.gaussian import FullRank, MeanField, normal_of
from vbppl.guides.layers.base import STRAIGHT, Bend, evaluations_of, unlayered
from vbppl.guides.layers.newton_step import step_to_blocks
from vbppl.guides.noise import Nothing
from vbppl.inference import bound
from vbppl.inference.bound import WORK, Estimate, log_prob, work
from vbppl.inference.deterministic.state import DEAR
from vbppl.inference.redrawn import PRICE as PRICE_REDRAWN
from vbppl.inference.redrawn import TIMES, redrawn
from vbppl.inference.solution import Mode, Note, Solution
from vbppl.posterior import quantities, report
from vbppl.posterior.quantities import WEIGHTLESS_DIM, Errors, Worst
from vbppl.posterior.report import Report, Unjudged, decided, solver_reasons
from vbppl.posterior.response.linear_response import Curvature, curvature, to_respond
from vbppl.posterior.row_evidence import judge_rows, weighs_rows
from vbppl.posterior.short_chains import CHAINS, MIN_CHAINS, PRICE, errors_by_chains
from vbppl.posterior.weighted_draws import (
    ENOUGH,
    KEPT,
    TRUSTED_K,
    Drawn,
    Ellipsoid,
    WeightedDraws,
    draw,
    draw_more,
    reaches_out,
)
from vbppl.target.batched import HEAVY, evaluate
from vbppl.target.target import Target

CHEAP = 3_000  # evaluations that any fit is worth
DRAWS, IN_DOUBT = 2_048, (CHEAP, 8_192, 24_576)  # draws, and all of them where there is doubt, and where that stays
MIN_DRAWS, MIN_DRAWS_WIDE = 256, 448  # of an expensive density, or guide
SHARE, AFFORDED = 2, 2  # of the fit's gradients, those that short chains may take; for each draw that is affordable
WITNESSES = 2  # sets of chains that must find an answer wrong: of many quantities in many fits one will by chance
NEAR = 0.01  # nats to the posterior, by the log weights, under which nothing leads from where draws come to elsewhere
APART = 0.1  # nats to the posterior from where on draws with blocks drawn again are the better answer
WORTH = 2_000  # effective draws that are answer enough
TAIL_DIM, SOME_TAILS_DIM = 64, 1024  # dims up to which all ridges are looked at, and some where all seems good
NEGLIGIBLE = 0.01  # of the evidence, in all other modes together
MODE_DRAWS, MODE_ROUNDS = 2_048, 2  # at another mode, each time around where the weights of the last said that it is
SAME_BOUND = 1.0  # nats, within which a normal at another mode has the bound with which it was met
WEIGHED = "draws", "log_evidence", "ess", "pareto_k"  # what a report tells of other draws than the guide's
Ask: TypeAlias = Callable[[], bool]
POINT = "a MAP estimate is a point: there is no distribution to judge"


def judge(
    solution: Solution,
    raw: np.ndarray,
    watch: Watch = Watch(),  # noqa: B008 -- frozen
    at_first_look: Ask = lambda: False,
) -> Report | Unjudged:
    """How good a solution is, from fresh draws of its guide.

    Args:
      solution: what a solver gave back.
      raw: the key of the whole fit.
      watch: where its deadline would pass, by what draws have taken so far, doubts are not looked into with more.
      at_first_look: whether doubts are left open altogether, asked where a first look is not good: what is, is.

    Returns:
      the report; one that knows nothing, and is therefore poor, where a person interrupts: the fit is not lost.
    """
    began = time.perf_counter()
    try:
        with np.errstate(all="ignore"), suited_to(solution.target.dim):  # what is not finite is told by the report
            found = _judged(solution, raw, watch, at_first_look)
    except KeyboardInterrupt:
        if not watch.keeps:
            raise
        return Report.unfinished(solution, time.perf_counter() - began)
    return dataclasses.replace(found, seconds=time.perf_counter() - began)


def _judged(solution: Solution, raw: np.ndarray, watch: Watch, at_first_look: Ask) -> Report | Unjudged:
    """By the questions that the guide allows: none of a point, row by row where it is amortised."""
    guide, phi, target = solution.guide, solution.phi, solution.target
    elbo = bound.elbo(guide, phi, target, raw)
    if isinstance(guide.noise(target), Nothing):
        return Unjudged(elbo, why=POINT)
    if weighs_rows(guide, phi, target):
        return judge_rows(solution, elbo, raw, watch)
    return _judged_whole(_without_negligible(solution, elbo, raw, watch), elbo, raw, watch, at_first_look)


def _affordable(solution: Solution) -> float:
    """Draws of which the density may be asked: intermediate values grow with the data, and so does their price."""
    guide, phi, target = solution.guide, solution.phi, solution.target
    return WORK / max(work(guide, phi, target) + 10 * target.dim, 1)


def _without_negligible(solution: Solution, elbo: Estimate, raw: np.ndarray, watch: Watch) -> Solution:
    """The solution, without those of the other modes met that are known to hold next to nothing; which is noted."""
    modes, rng = solution.other_modes, host_generator(raw, "modes")
    # A guide that asks for the density itself is too dear to be asked so often.
    if not modes.found or evaluations_of(solution.guide) or not reaches_out(solution.guide, solution.target):
        return solution
    if watch.is_over or _affordable(solution) < (1 + MODE_ROUNDS) * MODE_DRAWS * len(modes.found):
        return solution
    left = list[Mode]()
    for mode in modes.found:
        log_share = np.nan if mode.factor is not None else _log_evidence_at(mode, solution, elbo, rng) - elbo.value
        if log_share < math.log(NEGLIGIBLE / len(modes.found)):
            text = f"another mode, {mode.away:.0f} sd away, holds {math.exp(log_share):.1g} of the evidence: left out"
            solution = solution.noted("modes", text)
        else:
            left.append(mode)
    return dataclasses.replace(solution, other_modes=dataclasses.replace(modes, found=tuple(left)))


def _log_evidence_at(mode: Mode, solution: Solution, elbo: Estimate, rng: np.random.Generator) -> float:
    """The log evidence where a mode's normal is denser than the guide, in nats, at most; not a number if unknown.

    By draws of Student's t there, and far out. The mode's bound cannot say it: the evidence may be far higher.
    """
    guide, phi, target = solution.guide, solution.phi, solution.target
    around, draws = Ellipsoid(mode.place[0].astype(np.float64), np.diag(np.exp(mode.place[1]))), MODE_DRAWS
    normal, found = around, WeightedDraws.none(target.dim)
    z = normal.at(fresh_draws(rng, draws, target.dim))
    met = np.mean(evaluate(target, z)[0] - normal.log_normal(z))
    if not met > elbo.value - mode.lower - SAME_BOUND:  # it was met in other coordinates, or beside a far lower bound
        return np.nan
    for _ in range(MODE_ROUNDS):
        z = np.concatenate([around.student(rng, draws // 2), around.far(rng, draws // 2)])
        log_q, log_m = np.asarray(log_prob(guide, phi, z, target), np.float64), around.log_student(z) - math.log(2)
        log_m = np.logaddexp(log_m, around.log_far(z) - math.log(2))
        log_p = np.where(normal.log_normal(z) > log_q, evaluate(target, z)[0], -np.inf)
        found = WeightedDraws.of(z, log_p, log_q, log_m, np.zeros(draws, bool))
        if not found.ess >= ENOUGH:
            return np.nan
        around = Ellipsoid.around(z, found.weights)
    return found.log_evidence + 3 / math.sqrt(found.ess) if found.tells_evidence else np.nan


def _judged_whole(solution: Solution, elbo: Estimate, raw: np.ndarray, watch: Watch, at_first_look: Ask) -> Report:
    """By draws of all coordinates together."""
    guide, phi, target = solution.guide, solution.phi, solution.target
    rng, began = host_generator(raw, "judge"), time.perf_counter()
    base, base_phi, bend = unlayered(guide, phi, target)
    normal = normal_of(base, base_phi) if 0 < target.dim <= quantities.DIRECTION_DIM else None
    found = _Found(solution, elbo, _tail(normal, target, bend), curvature(guide, phi, target, raw), normal, bend)
    most = int(np.clip(_affordable(solution), MIN_DRAWS, IN_DOUBT[-1]))
    most = min(most, max(CHEAP, solution.status.gradients))
    if evaluations_of(guide):  # of a guide that asks for the density itself no more than a report holds on to
        most = min(most, max(KEPT // target.dim, MIN_DRAWS_WIDE))
    few = DRAWS // 2 if target.data_size > DEAR else DRAWS  # more where these leave a doubt
    drawn = draw(guide, phi, target, rng, min(most, few if target.dim <= WEIGHTLESS_DIM else MIN_DRAWS_WIDE))
    drawn, judged, errors = _looked_at(found, drawn)
    if judged.verdict != "good" and not watch.is_over and at_first_look():  # after which nobody looks again
        return _kept(judged)
    # Errors of few draws are noisy: where something may be wrong, more are taken; and where they are the answer. Always
    # so many at once: a number that followed the fit's gradients would compile some guides' draws anew.
    for wanted in IN_DOUBT:
        more = wanted - len(judged.draws)
        hopeless = bool(solver_reasons(solution.status, solution.other_modes)) and judged.verdict == "poor"
        answered = judged.verdict == "good" or (judged.verdict == "corrected" and judged.draws.ess > WORTH)
        worth = judged.draws.ess * most / len(judged.draws)  # of all that are affordable
        beyond = target.dim > WEIGHTLESS_DIM and not worth > ENOUGH
        if answered or hopeless or beyond or wanted > most or more <= 0:
            break
        # Compiling, which the first draws may have brought, makes these look dearer, never cheaper.
        if watch.is_over_in((time.perf_counter() - began) * more / len(judged.draws)):
            text = f"by {len(judged.draws):,} draws only, as the time was over; in doubt there would be {most:,}"
            judged = _noted(judged, text)
            break
        further = draw_more(guide, phi, target, rng, more, judged.draws)
        drawn = drawn.joined(further.without_rounded() if reaches_out(guide, target) else further)
        judged, _, errors = _report(found, drawn)
    if judged.verdict == "good" and TAIL_DIM < target.dim <= SOME_TAILS_DIM and bend is STRAIGHT:
        # Of one heavy tail among so many coordinates the weights of a few thousand draws tell next to nothing.
        ridges = _tail(normal_of(base, base_phi), target, along=quantities.unlike_a_normal(judged.draws))
        judged, _, errors = _report(dataclasses.replace(found, tail=ridges), drawn)
    judged = dataclasses.replace(judged, worst_told_apart=errors.told_apart)
    if judged.verdict in ("poor", "unknown") and found.curved.factor is not None and solution.status.converged:
        affordable = DRAWS if watch.is_over else max(most, DRAWS)
        judged = _corrected_by_linear_response(found, found.curved.factor, judged, affordable, rng)
    judged = _with_blocks_redrawn(found, judged, raw, watch)
    return _kept(_after_chains(found, judged, most, raw, watch))


def _looked_at(found: _Found, drawn: Drawn) -> tuple[Drawn, Report, Errors]:
    """The report on the first draws, without those that rounding cannot tell apart where they may be what is heavy."""
    judged, _, errors = _report(found, drawn)
    if judged.draws.pareto_k < TRUSTED_K or not reaches_out(found.solution.guide, found.solution.target):
        return drawn, judged, errors
    # A few heavy weights may be all rounding: far out a density in single precision can be any number.
    told_apart = drawn.without_rounded()
    if not told_apart.weighs_like(judged.draws):
        judged, _, errors = _report(found, told_apart)
    return told_apart, judged, errors


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is known of a solution before its draws are weighed; `normal` is what `bend` makes the guide of."""

    solution: Solution
    elbo: Estimate
    tail: Worst
    curved: Curvature
    normal: tuple[np.ndarray, np.ndarray] | None
    bend: Bend = STRAIGHT


def _with_blocks_redrawn(found: _Found, judged: Report, raw: np.ndarray, watch: Watch) -> Report:
    """The same; but of rows given hyperparameters with weights of blocks that are drawn again, if these are worth it.

    A guide `APART` from the posterior is off by up to .45 sd, and what it lacks adds up over its rows: weights of whole
    draws see half of it. Where those of redrawn blocks can be trusted the answer is theirs. The errors then told are of
    these draws unweighed: of hyperparameters the guide's, of rows smaller ones, as blocks are chosen by their weights.
    """
    guide, phi, target = found.solution.guide, found.solution.phi, found.solution.target
    step = step_to_blocks(guide)
    if step is None or not judged.log_weight_sd**2 / 2 > APART:
        return judged
    price, status = PRICE_REDRAWN + TIMES * evaluations_of(guide), judged.status
    count = min(status.gradients // (SHARE * price), 2 * DRAWS, KEPT // target.dim) // 2 * 2
    if count < DRAWS // 2 or solver_reasons(status, judged.other_modes):
        return judged
    if watch.is_over_in(status.seconds * count * price / status.gradients):
        return _noted(judged, "blocks of rows were not drawn again, as the time was over")
    z, log_p, log_weight = redrawn(guide, step, phi, target, host_generator(raw, "redrawn"), count)
    if not np.isfinite(log_weight).any():
        return _noted(judged, "blocks of rows, drawn again, do not add up to the density: their weights are left out")
    again, mendable, _ = _report(found, Drawn(target, z, log_p, log_p - log_weight, np.ones(count, bool)))
    is_better, lacks = mendable and again.verdict in ("good", "corrected"), again.log_evidence - found.elbo.value
    if not (is_better and lacks > APART):
        return judged
    text = f"weighed are draws of which each block of rows was drawn {TIMES} times, given the hyperparameters"
    known = {name: getattr(again, name) for name in (*WEIGHED, "mean_error", "log_sd_error")}
    # What is off by little in each quantity is the guide's distance all the same.
    reasons = again.reasons or (f"errors of rows given their hyperparameters add up to {lacks:.2f} nats",)
    return _noted(judged, text, verdict="corrected", reasons=reasons, advice=(report.CORRECTED,), **known)


def _after_chains(found: _Found, judged: Report, most: int, raw: np.ndarray, watch: Watch) -> Report:
    """The same, but for an answer that short chains find wrong: it is poor. So many draws at `most` are affordable."""
    target, draws = found.solution.target, judged.draws
    if judged.verdict not in ("good", "corrected") or most < CHEAP:
        return judged
    if judged.verdict == "good" and judged.log_weight_sd**2 / 2 < NEAR:
        return judged
    if watch.is_over:
        return _noted(judged, "no short Markov chains from its draws, as the time was over")
    # Gradients of a fit may be of minibatches; what draws of all rows cost is known by `most`.
    chains = min(found.solution.status.gradients // SHARE, AFFORDED * most) // PRICE
    if chains < MIN_CHAINS and target.data_size > DEAR:  # they would cost more than all before
        text = f"no short Markov chains, which would take {PRICE * MIN_CHAINS:,} gradients, each of them dear"
        return _noted(judged, text)
    chains = min(max(chains, MIN_CHAINS), CHAINS)
    answer, rng = draws.unweighed if judged.verdict == "good" else draws, host_generator(raw, "chains")
    off = list[str]()
    for _ in range(WITNESSES):
        moved = errors_by_chains(target, answer, _factor(found, draws), chains, rng, watch)
        # What is far from chance and beyond a limit: chains have not come to their end, so the error itself is larger.
        off, _ = report.error_reasons(moved, beyond=0.0)
        if not off:
            return judged
    reasons = (*(f"as short Markov chains from its draws show, {each}" for each in off), *judged.reasons)
    advice = (*report.to_decenter(target), report.SAMPLER)
    return dataclasses.replace(judged, verdict="poor", reasons=reasons, advice=advice, log_evidence=np.nan)


def _noted(judged: Report, text: str, **changed: Any) -> Report:
    """The same with other values, and what judging did by itself."""
    return dataclasses.replace(judged, notes=(Note("judging", text), *judged.notes), **changed)


def _kept(judged: Report) -> Report:
    """The same, holding on to no more draws than there is room for."""
    return dataclasses.replace(judged, draws=judged.draws.few())


def _report(found: _Found, drawn: Drawn) -> tuple[Report, bool, Errors]:
    """What the draws show, with the verdict, whether averages over the weighted draws are right, and all errors."""
    solution, draws = found.solution, drawn.weighed()
    errors = quantities.errors(solution.target, draws, _factor(found, draws), lambda: drawn.values)
    judged = Report(
        found.elbo,
        draws,
        solution.other_modes,
        log_evidence=draws.log_evidence if draws.tells_evidence else np.nan,
        mean_error=_worst(np.abs(errors.mean), errors.mean_se, errors),
        log_sd_error=_worst(errors.log_sd, errors.log_sd_se, errors),
        tail=found.tail,
        told_apart=quantities.classifier_accuracy(draws),
        widened=found.curved.widened,
        least_eigenvalue=found.curved.least,
        log_weight_sd=draws.log_weight_sd,
        ess=draws.ess / len(draws),
        pareto_k=draws.pareto_k,
        status=solution.status,
        notes=solution.notes,
    )
    # A tail is weighed where there are draws in it.
    mendable = mends(draws, errors) and (judged.tail_is_met or reaches_out(solution.guide, solution.target))
    judged = decided(judged, errors, mendable, (*report.to_decenter(solution.target), report.SAMPLER))
    if judged.verdict == "unknown" and (asked := to_respond(solution.guide, draws, solution.target)):
        judged = dataclasses.replace(judged, advice=(*asked, report.SAMPLER))
    return judged, mendable, errors


def _factor(found: _Found, draws: WeightedDraws) -> np.ndarray | None:
    """Of the covariance whose narrow directions are looked at: of what is bent, by the moments of its draws."""
    if found.curved.factor is not None or found.normal is None:
        return found.curved.factor
    if found.bend is STRAIGHT:
        return found.normal[1]
    own = draws.z[draws.own]
    return Ellipsoid.around(own, np.full(len(own), 1 / len(own))).factor


def mends(draws: WeightedDraws, errors: Errors) -> bool:
    """Whether averages over the weighted draws are right, as far as they reach."""
    known = np.all(np.nan_to_num(np.maximum(errors.mean_se, errors.log_sd_se)) < report.KNOWN)
    return bool(draws.trusted and known and not errors.unreached > quantities.LOG_SD_ERROR)


def _worst(value: np.ndarray, se: np.ndarray, errors: Errors) -> Worst:
    """The greatest, as far as it is known: noise alone makes the greatest of many look great."""
    if not np.isfinite(np.abs(value) - 2 * se).any():
        return report.NOTHING
    at = int(np.nanargmax(np.abs(value) - 2 * se))
    return Worst(float(value[at]), errors.name(at), float(se[at]))


def _corrected_by_linear_response(
    found: _Found, factor: np.ndarray, judged: Report, affordable: int, rng: np.random.Generator
) -> Report:
    """The card of a mean-field fit that its correlations make poor, if the normal that has them can be weighed.

    Draws of the Gaussian with the linear-response covariance then stand in the place of the guide's.
    """
    phi, target = found.solution.phi, found.solution.target
    gaussian = FullRank().of(np.asarray(MeanField().loc(phi), np.float64), factor).astype(phi.dtype)
    normal = normal_of(FullRank(), gaussian)
    nearer = dataclasses.replace(found, tail=_tail(normal, target), curved=Curvature(), normal=normal)
    count = max(n for n in (DRAWS, *IN_DOUBT[:2]) if n <= affordable)
    again, mendable, _ = _report(nearer, draw(FullRank(), gaussian, target, rng, count))
    if again.verdict == "corrected" or (again.verdict == "good" and mendable):
        text = "weighed are draws of the normal with the linear-response covariance: mean field has no correlations"
        known = {name: getattr(again, name) for name in WEIGHED}
        return _noted(judged, text, verdict="corrected", advice=(report.CORRECTED, "guide='full_rank'"), **known)
    return judged


def _tail(
    normal: tuple[np.ndarray, np.ndarray] | None, target: Target, bend: Bend = STRAIGHT, along: np.ndarray | None = None
) -> Worst:
    """What lies along the ridges, or those of the coordinates `along`, where they can be looked at."""
    if normal is None or (along is None and target.dim > TAIL_DIM) or target.data_size > HEAVY:
        return report.NOTHING
    return quantities.tail(target, normal, lambda z: evaluate(target, z)[0], bend, along)
