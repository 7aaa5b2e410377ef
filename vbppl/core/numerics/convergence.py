"""When a stochastic fit may stop: tests of a trace of iterates, in posterior sds.

A trace is an array `(rows, numbers)`: the iterates of a stretch of steps, thinned, each number in units of its
posterior sd (log sds in units of 1). Nothing here knows what the bound is, so an additive constant
of the log density cannot matter, and nothing is compared as a relative change. Three questions:

1. Does it drift? Two horizons are compared: the step from the first half to the second, and within the
   second half from its first quarter to the last. A step is believed where it exceeds its noise;
   the two then tell how far it is still to go, because what approaches its goal slows down.
2. Has it forgotten where it began? Split R-hat <= 1.1 (Gelman and others 2013, "Bayesian Data Analysis",
   section 11.4).
3. How exact is its average? The Monte Carlo standard error, from the effective sample size (Geyer 1992,
   "Practical Markov Chain Monte Carlo", section 3.3), is to be below 0.02 sd (Dhaka and others 2020,
   "Robust, Accurate Stochastic Optimization for Variational Inference").
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

R_HAT = 1.1
MCSE = 0.02  # sds
TO_GO = 0.02  # sds
FALSE_ALARM = 0.01  # the chance that a trace without drift is said to drift
FEW = 25  # effective rows: found by simulating traces of every correlation
FLOOR = 0.02  # sds: iterates that differ by less agree, whatever their R-hat


@dataclasses.dataclass(frozen=True)
class Convergence:
    """What a trace says, each number of its worst column.

    Attributes:
      drift: the step between the halves of the trace in its standard errors.
      to_go: how far it is still to go if it drifts, in sds; 0 where no drift is believed.
      r_hat: split R-hat.
      mcse: the standard error of the trace's average, in sds.
    """

    drift: float
    to_go: float
    r_hat: float
    mcse: float

    @property
    def drifts(self) -> bool:
        """Is there still a way to go?"""
        return not self.to_go <= TO_GO

    @property
    def converged(self) -> bool:
        """Is the trace stationary, and its average exact enough?"""
        return not self.drifts and self.r_hat <= R_HAT and self.mcse <= MCSE


def assess(trace: np.ndarray) -> Convergence:
    """Ask the three questions of a trace, `(rows, numbers)` in sds, of at least eight rows."""
    if not trace.shape[1]:
        return Convergence(0.0, 0.0, 1.0, 0.0)
    trace = np.asarray(trace, np.float64)
    drift, to_go = drifts(trace)
    worst = [np.max(numbers) for numbers in (np.abs(drift), to_go, split_r_hat(trace, FLOOR), mcse(trace))]
    return Convergence(*map(float, worst))


def drifts(trace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each column the step between the halves in standard errors, and how far it is still to go, in sds.

    With steps `long` between the halves and `short` between the last quarters a straight line has
    `long = 2 short`. What approaches a goal exponentially, by a factor `keep` in each quarter, has

        long / short = (1 + keep)^2 / (2 keep^2),    to go from the last quarter on = short keep / (1 - keep).
    """
    rows = len(trace)
    first, second, third, fourth = (trace[rows * i // 4 : rows * (i + 1) // 4] for i in range(4))
    long = (third.mean(0) + fourth.mean(0) - first.mean(0) - second.mean(0)) / 2
    short = fourth.mean(0) - third.mean(0)
    # The noise of half an average has twice the variance, and there are two. What is left of a slow trace without
    # its trend looks less noisy than it is; `FEW` makes good for that.
    left = _without_trend(trace)
    noise = 2 * mcse(left) * np.sqrt(1 + FEW / effective_size(left))
    z = long / np.maximum(noise, 1e-12)
    believed = math.sqrt(2 * math.log(2 * trace.shape[1] / FALSE_ALARM))
    # The step that the data still allow, as far as noise goes; a step back is noise.
    steps = np.maximum(np.abs(short) * (np.sign(short) == np.sign(long)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(2 * np.abs(long) / steps)  # (1 + keep) / keep
        keep = 1 / np.maximum(ratio - 1, 1e-12)
        to_go = np.where(steps > 0, np.where(keep < 1, steps * keep / (1 - keep), np.inf), 0.0)
    return z, np.where(np.abs(z) > believed, to_go, 0.0)


def split_r_hat(trace: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Split R-hat of each column; `floor` is a standard deviation that is taken to be there besides."""
    half = len(trace) // 2
    chains = np.stack([trace[:half], trace[-half:]])
    within = chains.var(axis=1, ddof=1).mean(axis=0) + floor**2
    between = chains.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt((half - 1) / half + between / within)
    return np.where(between == 0, np.minimum(np.nan_to_num(found, nan=1.0), 1.0), found)


def mcse(trace: np.ndarray) -> np.ndarray:
    """The Monte Carlo standard error of each column's average."""
    return trace.std(axis=0) / np.sqrt(effective_size(trace))


def effective_size(trace: np.ndarray) -> np.ndarray:
    """For how many independent rows each column counts: Geyer's initial monotone sequence."""
    rows = len(trace)
    centred = trace - trace.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(centred, 2 * rows, axis=0)) ** 2
    covariances = np.fft.irfft(spectrum, axis=0)[:rows] / rows
    variance = np.maximum(covariances[0], np.finfo(np.float64).tiny)
    pairs = (covariances[: rows // 2 * 2 : 2] + covariances[1 : rows // 2 * 2 : 2]) / variance
    pairs = np.where(np.cumprod(pairs > 0, axis=0), pairs, 0.0)
    time = 2 * np.minimum.accumulate(pairs, axis=0).sum(axis=0) - 1
    # An estimate above the number of rows, from negative correlations, is not believed.
    return rows / np.maximum(time, 1.0)


def _without_trend(trace: np.ndarray) -> np.ndarray:
    """What a straight line leaves of each column."""
    line = np.linspace(-1.0, 1.0, len(trace))[:, None]
    return trace - line * (line * (trace - trace.mean(0))).sum(0) / (line**2).sum()
