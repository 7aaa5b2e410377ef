"""Fits against their references: how far off each is, and whether its verdict says so."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

import vbppl as vb
from benchmarks.posteriors.catalogue import Entry
from vbppl.core.tables import label
from vbppl.target.axes import coordinate_names

DRAWS = 20_000  # of the guide: its means are then known to 0.007 of its sds
RESAMPLED = 4_000
LOST = 0.01  # of the draws, to overflow on the way through the supports
SILENT = 1.0  # sds: a mean that is off by more needs a verdict other than good
CLOSE, CLOSE_LOG_SD = 0.2, 0.25  # a fit all of whose errors are less needs no other verdict than good
NEAR = 0.1  # nats from the limit
RIGHT, RIGHT_LOG_SD = 0.1, 0.15  # an answer all of whose scalars are within these of the truth is right


@dataclasses.dataclass(frozen=True)
class Errors:
    """The worst mean error in reference sds and the worst |log sd| error, each with its scalar."""

    mean: float
    mean_name: str
    log_sd: float
    log_sd_name: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """One fit against its reference.

    Attributes:
      guide: the family that was fitted, and the sites that are non-centred in it.
      gaussian: is the guide one Gaussian?
      impossible: it is, and no Gaussian can be right in the coordinates that were fitted.
      free: errors in the model's own unconstrained space.
      supports: errors on the supports.
      resampled: errors in unconstrained space of `posterior.resample`, where the verdict is "corrected".
      answer: errors on the supports of what the posterior says by itself, weighted where it is corrected.
      right: these are within 0.1 sd and 0.15 log sd, but for two standard errors of the reference.
      gap: the bound minus the limit of its family in its coordinates, nats; NaN where no limit is known.
      se: the bound's standard error.
      seconds: CPU seconds over all threads, with compiling.
      nuts: those of NumPyro's NUTS, 1,000 + 1,000 in one chain; NaN if it was not run.
    """

    name: str
    dim: int
    seed: int
    guide: str
    gaussian: bool
    impossible: bool
    verdict: str
    reasons: tuple[str, ...]
    free: Errors
    supports: Errors
    resampled: Errors | None
    answer: Errors
    right: bool
    gap: float
    se: float
    gradients: int
    seconds: float
    nuts: float = float("nan")

    @property
    def silent(self) -> bool:
        """A wrong answer that calls itself good."""
        wrong = self.impossible or not max(self.free.mean, self.supports.mean) <= SILENT
        return self.verdict == "good" and wrong

    @property
    def false_alarm(self) -> bool:
        """A right answer that does not."""
        return self.verdict != "good" and self.free.mean < CLOSE and self.free.log_sd < CLOSE_LOG_SD

    @property
    def unmended(self) -> bool:
        """A verdict that promises right draws by `resample`, which are not."""
        again = self.resampled
        return again is not None and not (again.mean < CLOSE and again.log_sd < CLOSE_LOG_SD)

    @property
    def near(self) -> bool:
        """Is the bound what it can be, as far as is known? A guide richer than one Gaussian may exceed the limit."""
        off = abs(self.gap) if self.gaussian else -self.gap
        return not off >= NEAR + 2 * self.se


def measure(
    entry: Entry, reference: Mapping[str, Any], model: vb.Model, guide: str = "auto", seed: int = 0
) -> Measured:
    """Fit `model` and compare it with its reference."""
    target, began = vb.target(model), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)  # the verdict says the same
        posterior = vb.fit(model, guide, seed=seed)
    seconds, card = time.process_time() - began, posterior.check()
    draws = posterior.uncorrected().sample(DRAWS, seed=seed + 1)
    answer = scalars(posterior.sample(DRAWS, seed=seed + 1))
    resampled = None
    if card.verdict == "corrected":
        resampled = _free_errors(entry, reference, target, _resample(posterior, seed))
    noncentred = _noncentred(posterior.target)
    gaussian = isinstance(posterior.guide, (vb.MeanField, vb.FullRank))
    return Measured(
        entry.name,
        target.dim,
        seed,
        type(posterior.guide).__name__ + (f", {', '.join(noncentred)} non-centred" if noncentred else ""),
        gaussian,
        entry.hard and gaussian and not noncentred,
        card.verdict,
        card.reasons,
        _free_errors(entry, reference, target, draws),
        errors(entry, reference["constrained"], scalars(draws)),
        resampled,
        errors(entry, reference["constrained"], answer),
        is_right(entry, reference["constrained"], answer),
        posterior.elbo.value - _limit(reference.get("limits"), posterior, noncentred),
        posterior.elbo.se,
        posterior.status.gradients,
        seconds,
    )


@dataclasses.dataclass(frozen=True)
class Response:
    """Worst |log sd| errors of a mean-field fit on the supports: its own, and by linear response (NaN if none)."""

    own: Errors
    linear_response: float
    linear_response_name: str


def measure_response(entry: Entry, reference: Mapping[str, Any], model: vb.Model) -> Response:
    """Fit mean field and ask for its linear response."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        posterior = vb.fit(model, "mean_field")
    own = errors(entry, reference["constrained"], scalars(posterior.uncorrected().sample(DRAWS, seed=1)))
    response = posterior.linear_response()
    if not response.available:
        return Response(own, float("nan"), response.reason)
    known, sds = reference["constrained"], dict(zip(response.names, response.sd))
    light = [(n, sd) for n, sd in zip(known["names"], known["sd"]) if not is_heavy(entry, n) and sd > 0]
    if not light:
        return Response(own, float("nan"), "no scalar has a variance")
    off = {name: abs(float(np.log(sds[name] / sd))) for name, sd in light}
    worst = max(off, key=off.__getitem__)
    return Response(own, off[worst], worst)


def errors(entry: Entry, known: Mapping[str, list], scalars: Mapping[str, np.ndarray]) -> Errors:
    """The worst errors of draws `(n,)` of each scalar against what is known of it."""
    means, log_sds = _by_scalar(entry, known, scalars)
    mean, log_sd = max(means, key=means.__getitem__), max(log_sds, key=log_sds.__getitem__)
    return Errors(float(means[mean]), mean, float(log_sds[log_sd]), log_sd)


def is_right(entry: Entry, known: Mapping[str, list], scalars: Mapping[str, np.ndarray]) -> bool:
    """Is every scalar within the limits, but for two standard errors of the reference?"""
    means, log_sds = _by_scalar(entry, known, scalars)
    at = {name: place for place, name in enumerate(known["names"])}
    own = {name: 2 / np.sqrt(known["ess"][at[name]]) for name in means}
    wide = {n: own[n] if is_heavy(entry, n) else 2 * known["sd_mcse"][at[n]] / known["sd"][at[n]] for n in means}
    return all(means[name] <= RIGHT + own[name] and log_sds[name] <= RIGHT_LOG_SD + wide[name] for name in means)


def is_heavy(entry: Entry, scalar: str) -> bool:
    """Has the site of this scalar no usable variance?"""
    return scalar.partition("[")[0] in entry.heavy


def _by_scalar(
    entry: Entry, known: Mapping[str, list], scalars: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, float]]:
    """|error| of the mean in sds and |log sd error| of each scalar; of median and interval where it is heavy."""
    means, log_sds = {}, {}
    for at, name in enumerate(known["names"]):
        x = np.asarray(scalars[name], np.float64)
        finite = np.isfinite(x)
        if finite.mean() < 1 - LOST:
            means[name] = log_sds[name] = np.inf
        elif is_heavy(entry, name):
            low, median, high = np.quantile(x[finite], [0.158655, 0.5, 0.841345])
            means[name] = abs(median - known["median"][at]) / known["spread"][at]
            log_sds[name] = abs(np.log((high - low) / 2 / known["spread"][at]))
        elif known["sd"][at] > 0:
            means[name] = abs(x[finite].mean() - known["mean"][at]) / known["sd"][at]
            log_sds[name] = abs(np.log(x[finite].std() / known["sd"][at]))
    return means, log_sds


def _free_errors(entry: Entry, reference: Mapping[str, Any], target: vb.Target, draws: Mapping[str, Any]) -> Errors:
    z = np.asarray(target.unconstrain({slot.name: draws[slot.name] for slot in target.layout.slots}))
    return errors(entry, reference["unconstrained"], dict(zip(coordinate_names(target), z.T)))


def _noncentred(target: vb.Target) -> tuple[str, ...]:
    return tuple(name for name, seen in target.parameterisations.items() if not seen.weight)


def _limit(limits: Mapping[str, Any] | None, posterior: vb.Posterior, noncentred: tuple[str, ...]) -> float:
    """Of the bound in the family and the coordinates of a fit; NaN where none is known."""
    if limits is None:
        return float("nan")
    here = limits.get(",".join(noncentred)) or max(limits.values(), key=lambda both: both["full_rank"]["elbo"])
    return here["mean_field" if isinstance(posterior.guide, vb.MeanField) else "full_rank"]["elbo"]


def _resample(posterior: vb.Posterior, seed: int) -> Mapping[str, Any]:
    try:
        return posterior.resample(RESAMPLED, seed=seed)
    except ValueError:  # it refuses; then the guide's own draws are all there is
        return posterior.sample(RESAMPLED, seed=seed)


def scalars(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for name, value in values.items():
        value = np.asarray(value)
        for index in np.ndindex(value.shape[1:]):
            found[label(name, index)] = value[(slice(None), *index)]
    return found


HEAD = (
    "| posterior | dim | guide | verdict | mean error, sd | log sd error | on supports | resampled | "
    "answer | mean field's log sd | linear response's | ELBO - limit | gradients | CPU-s | NUTS, CPU-s |\n"
    "|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def row(fits: list[Measured], response: Response | None) -> str:
    """A line of the table: the worst of several seeds, and the median of what they cost."""
    worst = max(fits, key=lambda fit: fit.free.mean)
    widest = max(fits, key=lambda fit: fit.free.log_sd)
    outer = max(fits, key=lambda fit: max(fit.supports.mean, fit.supports.log_sd))
    outside = max(fits, key=lambda fit: max(fit.answer.mean / RIGHT, fit.answer.log_sd / RIGHT_LOG_SD))
    mark = "" if all(fit.right for fit in fits) else " **off**"
    gap = max(fits, key=lambda fit: abs(fit.gap))
    verdicts = [fit.verdict for fit in fits]
    counted = ", ".join(f"{v} {verdicts.count(v)}" if len(fits) > 1 else v for v in dict.fromkeys(verdicts))
    again = [fit.resampled for fit in fits if fit.resampled]
    cells = [
        fits[0].name + ("".join(" **SILENT**" for fit in fits[:1] if any(f.silent for f in fits))),
        str(fits[0].dim),
        "; ".join(dict.fromkeys(fit.guide for fit in fits)),
        counted,
        f"{worst.free.mean:.2f} {worst.free.mean_name}",
        f"{widest.free.log_sd:.2f} {widest.free.log_sd_name}",
        f"{outer.supports.mean:.2f}, {outer.supports.log_sd:.2f}",
        f"{max(e.mean for e in again):.2f}, {max(e.log_sd for e in again):.2f}" if again else "",
        f"{outside.answer.mean:.2f}, {outside.answer.log_sd:.2f}{mark}",
        f"{response.own.log_sd:.2f}" if response else "",
        f"{response.linear_response:.2f} {response.linear_response_name}" if response else "",
        "" if np.isnan(gap.gap) else f"{gap.gap:+.3f} ± {gap.se:.3f}",
        f"{int(np.median([fit.gradients for fit in fits])):,}",
        f"{np.median([fit.seconds for fit in fits]):.1f}",
        "" if np.isnan(fits[0].nuts) else f"{fits[0].nuts:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def closing(fits: list[Measured]) -> str:
    """The counts that the table is there for."""
    silent = [f"{fit.name} (seed {fit.seed})" for fit in fits if fit.silent]
    alarms = [f"{fit.name} (seed {fit.seed}: {fit.verdict})" for fit in fits if fit.false_alarm]
    unmended = [f"{fit.name} (seed {fit.seed})" for fit in fits if fit.unmended]
    off = [f"{fit.name} (seed {fit.seed}: {fit.verdict})" for fit in fits if not fit.right]
    why = [f"- {fit.name} (seed {fit.seed}): {'; '.join(fit.reasons)}" for fit in fits if fit.reasons]
    return "\n".join(
        [
            *why,
            "",
            f"{len(fits)} fits. Silent failures (good, but a mean is off by over {SILENT:g} sd, or no Gaussian can "
            f"be right): {_counted(silent)}.",
            f"False alarms (means within {CLOSE} sd, log sds within {CLOSE_LOG_SD}, not good): {_counted(alarms)}.",
            f"Corrected, but resampled draws are further off than that: {_counted(unmended)}.",
            f"Answers within {RIGHT} sd and {RIGHT_LOG_SD} log sd: {len(fits) - len(off)}; not: {_counted(off)}.",
            f"Bounds within {NEAR} nat of the limit: {sum(fit.near for fit in fits)}; "
            f"not: {', '.join(f'{fit.name} {fit.gap:+.2f}' for fit in fits if not fit.near) or 'none'}.",
            f"Median gradients {int(np.median([fit.gradients for fit in fits])):,}, "
            f"CPU-s {np.median([fit.seconds for fit in fits]):.1f}.",
        ]
    )


def _counted(names: list[str]) -> str:
    return f"{len(names)}" + (f": {', '.join(names)}" if names else "")
