"""Judging a guide against a density: the report card.

Draws from the guide are weighed by `w = p / q`, and three questions are asked of them, because none
alone is enough. How much do the `log w` vary? (At the exact posterior not at all.) Does weighing
move a mean or a standard deviation? And can the weights themselves be trusted (effective sample
size, Pareto k)? Pareto k alone gives false alarms exactly where a fit is nearly perfect and the
weights almost constant. What the draws cannot see, a mode that the guide never visits, the
restarts of the fit may.
"""

from __future__ import annotations

import dataclasses
import html
from typing import NamedTuple

import numpy as np

from vbppl import psis
from vbppl.aliases import PyTree
from vbppl.evaluation import HEAVY
from vbppl.guides.base import Guide
from vbppl.keys import host_generator
from vbppl.records import Status
from vbppl.target import Target

SETS = 8
DRAWS, WORK = 4_000, 4e8  # draws; draws times numbers in the data

LOG_WEIGHT_SD = 0.7  # nats
MEAN_SHIFT, LOG_SD_SHIFT = 0.2, 0.25
LEAST_ESS, CORRECTING_ESS = 0.05, 0.1
MANY_DIMS, MEASURED = 30, 400  # dims; effective draws
DRAW_NOISE = 0.2  # sds


class Estimate(NamedTuple):
    """A value with its Monte Carlo standard error, both in nats."""

    value: float
    se: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.se:.3f}"


def elbo(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray) -> Estimate:
    """The evidence lower bound at all rows, from fresh draws.

    Independent sets of draws; within a set the draws are moment-exact where the guide can, so the
    standard error is taken between the sets, never within one.
    """
    draws = 32 if target.data_size > HEAVY else int(np.clip(4 * target.dim, 256, 1024))
    rng = host_generator(raw_key, "elbo")
    means = np.array([guide.fresh_bound(phi, target, rng, draws).mean() for _ in range(SETS)])
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(SETS)))


@dataclasses.dataclass(frozen=True)
class ReportCard:
    """How good a fit is, and why.

    Attributes:
      verdict: "good", "corrected" (the weighted draws of `posterior.resample` are right, the guide's own
        are not quite) or "poor".
      reasons: why not good, in words.
      advice: what to try next.
      elbo: of the guide, in nats.
      log_weight_sd: the standard deviation of `log p - log q` over draws from `q`, in nats.
      ess: effective sample size of the weights, as a fraction of the draws.
      pareto_k: the shape of the weights' tail; below 0.7 their averages settle down.
      log_evidence: by smoothed importance sampling, in nats; not a number where `pareto_k` forbids it.
      mean_shift: by how many sds weighing moves the mean of the worst coordinate, and which.
      log_sd_shift: how much it changes the log sd of the worst coordinate, and which.
      rivals: other modes met by restarts: the nats by which their bound is lower, and how many sds away.
      status: why the fit ended.
      choices: what the fit chose by itself, and why.
    """

    verdict: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    elbo: Estimate
    log_weight_sd: float
    ess: float
    pareto_k: float
    log_evidence: float
    mean_shift: tuple[float, str]
    log_sd_shift: tuple[float, str]
    rivals: tuple[tuple[float, float], ...]
    status: Status
    choices: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The card as lines of text."""
        evidence = f"{self.log_evidence:.3f} by PSIS" if np.isfinite(self.log_evidence) else "PSIS cannot say"
        return [
            f"verdict: {self.verdict}" + "".join(f"\n  - {reason}" for reason in self.reasons),
            *(f"  try: {step}" for step in self.advice),
            f"ELBO {self.elbo} nats, so log evidence >= {self.elbo.value - 2 * self.elbo.se:.3f} ({evidence})",
            f"log p - log q: sd {self.log_weight_sd:.2f} nats, ESS {self.ess:.0%} of the draws, "
            f"Pareto k {self.pareto_k:.2f}",
            f"weighing would move a mean by {self.mean_shift[0]:.2f} sd ({self.mean_shift[1]}), "
            f"a log sd by {self.log_sd_shift[0]:.2f} ({self.log_sd_shift[1]})",
            f"stopped: {self.status}",
            *self.choices,
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "<pre>" + html.escape(str(self)) + "</pre>"


def judge(
    guide: Guide, phi: PyTree, target: Target, bound: Estimate, status: Status, raw_key: np.ndarray
) -> ReportCard:
    """The report card of a fit, from fresh draws of the guide."""
    # The tail shape of few draws is a noisy thing: take as many as the size of the data allows.
    draws = int(np.clip(WORK / max(target.data_size + 10 * target.dim, 1), 256, DRAWS))
    log_weights, z = guide.weighed_draws(phi, target, host_generator(raw_key, "judge"), draws)
    finite = np.isfinite(log_weights)
    log_weights, z = log_weights[finite], z[finite]
    smoothed = psis.smooth(log_weights)
    mean_shift, log_sd_shift = _shifts(np.exp(smoothed.log_weights), z, target.layout.coordinates)
    lost = 1 - float(finite.mean())
    card = ReportCard(
        "good",
        (),
        (),
        bound,
        float(log_weights.std()) if len(z) else np.nan,
        smoothed.ess / draws,
        smoothed.shape,
        smoothed.log_mean + float(np.log1p(-lost)) if smoothed.usable else np.nan,
        mean_shift,
        log_sd_shift,
        status.rivals,
        status,
    )
    return _with_verdict(card, target.dim, draws, lost)


def _shifts(weights: np.ndarray, z: np.ndarray, names: tuple[str, ...]) -> tuple[tuple[float, str], tuple[float, str]]:
    """How far weighing moves the means (in sds) and log sds of the coordinates: the worst of each."""
    if not names or not len(z):
        return (0.0, "none"), (0.0, "none")
    mean, sd = z.mean(axis=0), z.std(axis=0)
    weighed = weights @ z
    weighed_sd = np.sqrt(weights @ (z - weighed) ** 2)
    with np.errstate(divide="ignore"):
        means, log_sds = np.abs(weighed - mean) / sd, np.abs(np.log(weighed_sd / sd))
    worst, widest = int(np.argmax(means)), int(np.argmax(log_sds))
    return (float(means[worst]), names[worst]), (float(log_sds[widest]), names[widest])


def _with_verdict(card: ReportCard, dim: int, draws: int, lost: float) -> ReportCard:
    reasons = _shape_reasons(card, dim, draws, lost)
    correctable = card.pareto_k < 0.7 and card.ess >= CORRECTING_ESS and not lost
    advice = ["posterior.resample(n): draws weighed by importance, which are right here"] if correctable else []
    fatal = list(_fatal_reasons(card))
    if (reasons and not correctable) or fatal:
        verdict = "poor"
        advice = [
            "vb.decenter(model), where the scale of a site is latent",
            "a sampler, such as BlackJAX's NUTS on vb.target(model).log_density",
        ]
    else:
        verdict = "corrected" if reasons else "good"
    advice = advice if reasons or fatal else []
    return dataclasses.replace(card, verdict=verdict, reasons=tuple(reasons + fatal), advice=tuple(advice))


def _shape_reasons(card: ReportCard, dim: int, draws: int, lost: float) -> list[str]:
    reasons = []
    (mean, mean_name), (log_sd, log_sd_name) = card.mean_shift, card.log_sd_shift
    if lost:
        reasons.append(f"{lost:.1%} of the guide's draws have no finite density")
    if mean > MEAN_SHIFT:
        reasons.append(f"in unconstrained space the mean of {mean_name} is off by about {mean:.2f} sd")
    if log_sd > LOG_SD_SHIFT:
        reasons.append(f"in unconstrained space the sd of {log_sd_name} is off by about {np.expm1(log_sd):.0%}")
    if card.ess < LEAST_ESS:
        reasons.append(f"the effective sample size is {card.ess:.1%} of the draws")
    # The sd of log w grows with sqrt(dim) by itself. With many dims it decides only where the shifts,
    # which are known to one over the root of the effective number of draws, cannot.
    measured = dim > MANY_DIMS and card.ess * draws >= MEASURED
    if card.log_weight_sd > LOG_WEIGHT_SD * max(1.0, np.sqrt(dim / MANY_DIMS)) and not measured:
        reasons.append(f"log p - log q varies by {card.log_weight_sd:.2f} nats over the guide's draws")
    return reasons


def _fatal_reasons(card: ReportCard) -> list[str]:
    reasons = []
    if card.status.draw_noise > DRAW_NOISE:
        reasons.append(f"another set of fixed draws would move the answer by {card.status.draw_noise:.2f} sd")
    if not card.status.converged and card.status.reason != "steps":
        reasons.append(f"the fit did not converge: {card.status.text}")
    for lower, away in card.rivals:
        reasons.append(f"a restart found another mode, {away:.0f} sd away, whose bound is {lower:.1f} nats lower")
    return reasons
