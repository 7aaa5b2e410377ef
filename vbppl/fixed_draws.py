"""The deterministic fit: the bound on fixed, moment-exact draws, maximised to the end.

With the noise `e_n` fixed, the bound of a Gaussian guide

    J(loc, L) = mean log p(loc + L e_n) + log |det L| + const

is an ordinary smooth function, and can be maximised until it is (Giordano, Ingram and Broderick
2023, "Black Box Variational Inference with a Deterministic Objective", eq. 3). Nothing is left to
choose: the fit ends when an estimate of the nats still to gain is negligible.

Mean field goes first, by L-BFGS (`lbfgs.py`); full rank starts where it ends, by natural-gradient
steps (`stein.py`). At the end the fit asks how much its draws matter: other sets of draws would
move the optimum by their own Newton steps. Where that is more than `DRAW_NOISE` sds, there are
four times as many draws from then on.

Everything outside the model's own density is linear algebra in float64 on the host, around the
one compiled evaluation `target.evaluate`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vbppl import lbfgs, stein
from vbppl.draws import latin_hypercube, normal_draws, whitened_draws
from vbppl.errors import ModelError
from vbppl.evaluation import evaluate
from vbppl.guides.gaussian import START_SD, FullRank, Gaussian
from vbppl.keys import host_generator
from vbppl.records import Fitted, Progress, Status
from vbppl.target import Target

DRAW_NOISE = 0.01
FEWEST, MOST = 32, 2048
WHITENED_DIM = 64
STEPS = 300
SETS = 4
ROUGHLY = 1e-3  # nats to gain that are well spent on more draws first


@dataclasses.dataclass(frozen=True)
class Deterministic:
    """Fixed moment-exact draws of all rows, maximised to the end.

    Attributes:
      draws: how many to begin with, an even number; None for enough. They grow while they matter.
      kind: "auto" (whitened where there are enough of them, else a Latin hypercube), "latin_hypercube", or
        "independent", which is there to be compared with. Full rank needs "auto".
    """

    draws: int | None = None
    kind: str = "auto"

    def __post_init__(self) -> None:
        if self.draws is not None and (self.draws < 2 or self.draws % 2):
            raise ValueError(f"draws come in antithetic pairs: an even number from 2 on, not {self.draws}.")
        if self.kind not in ("auto", "latin_hypercube", "independent"):
            raise ValueError(f"kind must be 'auto', 'latin_hypercube' or 'independent', not {self.kind!r}.")


def run(
    target: Target,
    guide: Gaussian,
    starts: np.ndarray,
    method: Deterministic,
    raw_key: np.ndarray,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Fitted:
    """Maximise the bound of `guide`, mean field or full rank, from the best of `starts`, `(starts, dim)`."""
    full = isinstance(guide, FullRank)
    if full and method.draws is not None and method.draws < 2 * target.dim:
        raise ModelError(
            f"a full-rank guide of {target.dim} dimensions cannot be fitted on {method.draws} fixed draws: "
            f"with fewer draws than dimensions the bound has no maximum, and below {2 * target.dim} no exact moments.",
            mend=f"Give at least {2 * target.dim} draws, or leave draws=None.",
        )
    if full and method.kind != "auto":
        raise ModelError(
            f"a full-rank guide needs draws with exact second moments, and {method.kind!r} draws have none.",
            mend="Leave kind='auto', or fit a mean-field guide.",
        )
    fit = _Fit(target, method, host_generator(raw_key, "draws"), watch)
    try:
        fit.mean_field(fit.best_start(starts))
        if full:
            fit.full_rank()
    except KeyboardInterrupt:
        fit.reason = "interrupted"
    return fit.fitted(guide)


class _Fit:
    """One fit on the way: where it stands, and what it has cost."""

    def __init__(
        self, target: Target, method: Deterministic, rng: np.random.Generator, watch: Callable[[Progress], None]
    ):
        self.target, self.method, self.rng, self.watch = target, method, rng, watch
        self.dtype = jnp.result_type(float)
        self.tolerance = max(1e-12, float(jnp.finfo(self.dtype).eps))  # nats still to gain
        self.phi = np.zeros((2, target.dim))  # of the mean-field guide until full rank begins
        self.reason, self.decrement, self.draw_noise, self.draws = "capped", np.inf, np.inf, 0
        self.rivals: tuple[tuple[float, float], ...] = ()
        self.bounds: list[float] = []
        self.gradients, self.began = 0, time.perf_counter()

    def best_start(self, starts: np.ndarray) -> np.ndarray:
        """Go most of the way to the mean-field optimum from each start; returns the best, `(2 dim,)`.

        Starts that end far from the best are remembered as rivals: other modes.
        """
        dim = self.target.dim
        self.draws = self.method.draws or max(FEWEST, 2 * dim if dim <= WHITENED_DIM else 0)
        bound = self._bound_on(self._noise(self.draws))
        ends = []
        for loc in starts.astype(np.float64):
            x = np.concatenate([loc, np.full(dim, np.log(START_SD))])
            ends.append(self._minimise(bound, x, ROUGHLY if len(starts) > 1 else self.tolerance))
        best = min(ends, key=lambda at: at.value if np.isfinite(at.value) else np.inf)
        for at in ends:
            scale = np.exp(np.maximum(at.x[dim:], best.x[dim:]))
            away = np.abs(at.x - best.x)[:dim] / scale
            self.rivals += ((at.value - best.value, float(away.max(initial=0.0))),) if at is not best else ()
        return best.x

    def mean_field(self, x: np.ndarray) -> None:
        """Maximise over `loc` and `log sd`, from `x`, `(2 dim,)`, with more draws while they matter."""
        dim = self.target.dim
        while True:
            at = self._minimise(self._bound_on(self._noise(self.draws)), x, self.tolerance)
            x, log_sd, self.phi = at.x, at.x[dim:], at.x.reshape(2, dim)
            self.decrement, self.reason = at.decrement, self._verdict(at)
            # Sets of twice as many draws: what sets of one size have in common would not show between them.
            moves = [at.newton(self._bound_on(self._noise(2 * self.draws))(x)[1], _metric(x)) for _ in range(SETS)]
            scale = np.concatenate([np.exp(-log_sd), np.ones(dim)])
            self.draw_noise = float(np.sqrt(np.mean(np.square(np.array(moves) * scale), axis=0)).max(initial=0.0))
            if not self._more_draws():
                return

    def full_rank(self) -> None:
        """Maximise over `loc` and any factor, from the mean-field optimum on."""
        dim = self.target.dim
        self.draws = self.method.draws or max(FEWEST, 2 * dim)
        noise, tolerance = whitened_draws(self.rng, self.draws, dim), ROUGHLY
        loc, factor = self.phi[0], np.diag(np.exp(self.phi[1]))
        while True:
            at = stein.ascend(self._density, loc, factor, noise, self._rounding, tolerance, self._note_full)
            loc, factor, self.decrement, self.reason = at.loc, at.factor, at.decrement, at.reason
            self.phi = FullRank().of(loc, factor)
            # Steps that gain nothing are the optimum's sign only where little is left to gain.
            if self.reason == "rounding" and at.decrement > max(ROUGHLY, self._rounding(at.bound)):
                self.reason = "stuck"
            if tolerance == self.tolerance:
                return
            sets = [whitened_draws(self.rng, 2 * self.draws, dim) for _ in range(SETS)]
            self.draw_noise = stein.draw_noise(self._density, at, sets)
            if self._more_draws():
                noise = whitened_draws(self.rng, self.draws, dim)
            else:
                tolerance = self.tolerance

    def fitted(self, guide: Gaussian) -> Fitted:
        """What the fit leaves behind."""
        phi = self.phi
        if isinstance(guide, FullRank) and len(phi) == 2:  # interrupted before full rank began
            phi = guide.of(phi[0], np.diag(np.exp(phi[1])))
        converged = self.reason in ("converged", "rounding")
        said = {
            "converged": f"at the optimum ({self.decrement:.0e} nats to gain)",
            "rounding": f"at the optimum to rounding ({self.decrement:.0e} nats to gain)",
            "capped": f"out of steps with {self.decrement:.2g} nats to gain: not converged",
            "stuck": f"no step improves the bound, yet {self.decrement:.2g} nats seem to be left: not converged",
            "interrupted": "interrupted: not converged",
        }[self.reason]
        noise = 0.0
        if self.reason != "interrupted":
            # Draws at which the density is not finite would move the answer by who knows how much.
            noise = np.inf if np.isnan(self.draw_noise) else self.draw_noise
            said += f"; {self.draws} fixed draws (others would move the answer by {noise:.2g} sd)"
        counts = (len(self.bounds), self.gradients)
        status = Status(self.reason, converged, said, *counts, rivals=self.rivals, draw_noise=noise)
        return Fitted({"guide": phi.astype(self.dtype), "model": self.target.params}, np.array(self.bounds), status)

    def _minimise(self, function: lbfgs.ValueAndGradient, x: np.ndarray, tolerance: float) -> lbfgs.Minimum:
        return lbfgs.minimise(function, x, _metric, self._rounding, tolerance, STEPS, _longest, self._note)

    def _more_draws(self) -> bool:
        if self.draw_noise <= DRAW_NOISE or self.draws >= MOST or self.method.draws or self.reason == "stuck":
            return False
        self.draws = min(4 * self.draws, MOST)
        return True

    def _noise(self, draws: int) -> np.ndarray:
        dim = self.target.dim
        if self.method.kind == "independent":
            return normal_draws(self.rng, draws, dim)
        if self.method.kind == "auto" and draws >= 2 * dim:
            return whitened_draws(self.rng, draws, dim)
        return latin_hypercube(self.rng, draws, dim)

    def _density(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.gradients += len(z)
        log_p, gradient = evaluate(self.target, z)
        return log_p.astype(np.float64), gradient.astype(np.float64)

    def _bound_on(self, noise: np.ndarray) -> lbfgs.ValueAndGradient:
        """The mean-field bound, negated, as a function of `(loc, log sd)`, up to a constant."""

        def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
            loc, log_sd = np.split(x, 2)
            spread = np.exp(log_sd) * noise
            log_p, gradient = self._density(loc + spread)
            slope = np.concatenate([gradient.mean(axis=0), (gradient * spread).mean(axis=0) + 1])
            return float(-log_p.mean() - log_sd.sum()), -slope

        return value_and_gradient

    def _rounding(self, value: float) -> float:
        """By how much two equal bounds of this size may differ, in nats: 16 units in the last place."""
        return 16 * float(jnp.finfo(self.dtype).eps) * max(abs(value), 1.0)

    def _verdict(self, at: lbfgs.Minimum) -> str:
        if not np.isfinite(at.value):
            return "stuck"
        if at.decrement <= self.tolerance:
            return "converged"
        if at.stuck:
            return "rounding" if at.decrement <= self._rounding(at.value) else "stuck"
        return "capped"

    def _note(self, at: lbfgs.Minimum) -> None:
        self._tell(-at.value, at.x.reshape(2, -1))

    def _note_full(self, at: stein.Ascent) -> None:
        self._tell(at.bound, FullRank().of(at.loc, at.factor))

    def _tell(self, bound: float, phi: np.ndarray) -> None:
        self.phi = phi
        bound += self.target.dim / 2 * (1 + np.log(2 * np.pi))
        self.bounds.append(bound)
        params = {"guide": phi.astype(self.dtype), "model": self.target.params}
        self.watch(Progress(len(self.bounds), bound, time.perf_counter() - self.began, params))


def _metric(x: np.ndarray) -> np.ndarray:
    """The inverse Hessian of the bound at a Gaussian density's optimum: `(sd^2, 1/2)`."""
    _, log_sd = np.split(x, 2)
    return np.concatenate([np.exp(2 * log_sd), np.full_like(log_sd, 0.5)])


def _longest(x: np.ndarray, direction: np.ndarray) -> float:
    """No standard deviation grows or shrinks by more than e^2 in one step."""
    return float(2 / max(np.abs(np.split(direction, 2)[1]).max(initial=0.0), 1e-300))
