"""The report card of a fit: the numbers, the verdict, and how both are shown."""

from __future__ import annotations

import dataclasses
import html

import numpy as np

from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Status

WIDENED = 1.25  # by what factor an sd must be too small to be named


@dataclasses.dataclass(frozen=True)
class Gap:
    """A bound on how many nats the best member of the guide's family lies above the fit.

    Attributes:
      bound: in nats; a 95% upper bound where the log density is concave, else for this basin. Not a number where
        a search for it did not end.
      estimate: the middle of it.
    """

    bound: float
    estimate: float

    def __str__(self) -> str:
        if not np.isfinite(self.bound):
            return "optimality gap: not available, since a further fit did not come to its end"
        return f"optimality gap: {self.estimate:.2g} nats, below {self.bound:.2g} (95%, in this basin)"


@dataclasses.dataclass(frozen=True)
class Report:
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
      tail: the log of how much wider than the guide the density is along the ridge of the worst coordinate,
        out to ten sds, and which; not a number where it was not looked at.
      widened: for a mean-field guide the coordinates whose sds correlations would widen most, and by what
        factor, the widest first (linear response from the average curvature).
      least_eigenvalue: of that curvature, in units of the guide's sds; at or below zero the bound has no
        strict maximum. Not a number where it was not looked at.
      rivals: other modes met by restarts: the nats by which their bound is lower, and how many sds away.
      status: why the fit ended.
      choices: what the fit chose by itself, and why.
      gap: a bound on what the guide's family could still gain, where it was asked for.
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
    tail: tuple[float, str]
    widened: tuple[tuple[float, str], ...]
    least_eigenvalue: float
    other_modes: tuple[tuple[float, float], ...]
    status: Status
    choices: tuple[str, ...] = ()
    gap: Gap | None = None

    @classmethod
    def unjudged(cls, status: Status) -> Report:
        """The card of a fit that was interrupted before it could be judged: it knows nothing, so it is poor."""
        nothing = (np.nan, "not looked at")
        numbers = (Estimate(np.nan, np.nan), np.nan, np.nan, np.nan, np.nan)
        reasons = ("the fit was interrupted before it was judged",)
        advice = ("vb.fit(model, start=posterior)",)
        return cls("poor", reasons, advice, *numbers, nothing, nothing, nothing, (), np.nan, status.other_modes, status)

    def lines(self) -> list[str]:
        """The card as lines of text."""
        evidence = f"{self.log_evidence:.3f} by PSIS" if np.isfinite(self.log_evidence) else "PSIS cannot say"
        lines = [
            f"verdict: {self.verdict}" + "".join(f"\n  - {reason}" for reason in self.reasons),
            *(f"  try: {step}" for step in self.advice),
            f"ELBO {self.elbo} nats, so log evidence >= {self.elbo.value - 2 * self.elbo.se:.3f} ({evidence})",
            f"log p - log q: sd {self.log_weight_sd:.2f} nats, ESS {self.ess:.0%} of the draws, "
            f"Pareto k {self.pareto_k:.2f}",
        ]
        if np.isfinite(self.mean_shift[0]):
            lines.append(
                f"weighing would move a mean by {self.mean_shift[0]:.2f} sd ({self.mean_shift[1]}), "
                f"a log sd by {self.log_sd_shift[0]:.2f} ({self.log_sd_shift[1]})"
            )
        if np.isfinite(self.tail[0]):
            lines.append(
                f"out to ten sds the density is {np.exp(self.tail[0]):.2f} times as wide at most ({self.tail[1]})"
            )
        if np.isfinite(self.least_eigenvalue):
            wide = ", ".join(f"{name} {ratio:.2f}" for ratio, name in self.widened if ratio > WIDENED)
            what = f"the sds of {wide} times" if wide else f"no sd by more than {WIDENED - 1:.0%}"
            lines.append(f"linear response would widen {what}; least curvature {self.least_eigenvalue:.2g}")
        lines.append(f"stopped: {self.status}")
        if self.status.starts > 1:
            lines.append(f"restarts: {self.status.starts}, their bounds within {self.status.spread:.2g} nats")
        if self.gap is not None:
            lines.append(str(self.gap))
        if self.status.seconds:
            lines.append(f"took {self.status.seconds:.2g} s, {self.status.compiling:.2g} s of them compiling")
        return [*lines, *self.choices]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = {"good": "#1a7f37", "corrected": "#9a6700", "poor": "#cf222e"}[self.verdict]
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        advice = "".join(f"<li>try: {html.escape(step)}</li>" for step in self.advice)
        rest = [line for line in self.lines() if not line.startswith(("verdict:", "  try:"))]
        return (
            f"<p><b style='color:{colour}'>{self.verdict}</b></p><ul>{reasons}{advice}</ul>"
            f"<p>{'<br>'.join(html.escape(line) for line in rest)}</p>"
        )
