"""Where a fit begins: a point with a finite density, moved a little way uphill.

Candidates are drawn in boxes of several sizes around the origin of unconstrained space, climb together
for a few sign-based steps (Riedmiller and Braun 1993, "Rprop": scale-free, no step size to choose), and
the highest finite points win. The climb is short on purpose: the mode of a hierarchical density
may lie at infinity, and a fit wants its body, not its mode.

A mode far outside of the boxes would be met by none of them. So some candidates more begin far out and climb further;
one of them is a start too where it ends as high as the others, and elsewhere. Where they still travel at the end, as
towards a prior at a million, they climb on with steps that double.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.numerics import lbfgs
from vbppl.target.batched import BLOCK, BatchedDensity, evaluation
from vbppl.target.density import nonfinite_sites
from vbppl.target.target import Target, parameterisations_of

RADII = (10.0, 5.0, 2.0, 0.1)  # of scales and logits most candidates that meet a narrow mode begin 3 to 10 away
CLIMB = 16
FIRST_STEP, MAX_STEP = 0.1, 0.5
ONE_START_DIM = 4096  # dims above which there is one start, of few candidates
ASCENT = 200  # steps of L-BFGS to a mode
SHAKES = 3
LOWER = 10.0  # nats
ELSEWHERE = 5.0  # from the highest, in some coordinate
GROWTH = 1.2  # of a step that leads on
# Of the candidates far out: boxes, points of each, steps, the longest step; the growth of steps that still travel.
FAR_RADII, FAR_EACH, FAR_CLIMB, FAR_LONGEST, FAR_GROWTH = (100.0, 30.0), 8, 32, 10.0, 2.0


Evaluated: TypeAlias = tuple[np.ndarray, np.ndarray]


class InitializationError(ModelError):
    """No candidate has a finite log density and gradient."""


def find_starts(
    density: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    dim: int,
    rngs: Sequence[np.random.Generator],
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """For each search `count` points of finite log density and gradient: the highest, then others far from it.

    Starts that lie apart are the ones that may end in different modes.

    Args:
      density: `(searches, points, dim)` to log densities `(searches, points)` and gradients.
      dim: of a point.
      rngs: for each search where its candidates come from.
      count: how many points are wanted of each.

    Returns:
      points `(searches, count, dim)`, and which searches have any, `(searches,)`; where a search has fewer than `count`
      points, its highest stands more than once. Where a search has none, some candidate. One point more where several
      are asked for and a far one is worth it.
    """
    # In very many dims the points of a box are all alike.
    number, several = BLOCK if dim <= ONE_START_DIM else BLOCK // 4, count > 1
    radius = np.repeat(RADII, number // len(RADII))[:, None]
    z, longest = np.stack([radius * rng.uniform(-1, 1, (number, dim)) for rng in rngs]), np.full((number, 1), MAX_STEP)
    if several:  # the far ones climb beside the others, and then on by themselves
        radius = np.repeat(FAR_RADII, FAR_EACH)[:, None]
        far = np.stack([radius * rng.uniform(-1, 1, (len(radius), dim)) for rng in rngs])
        z, longest = np.concatenate([z, far], axis=1), np.concatenate([longest, np.full_like(radius, FAR_LONGEST)])
    both = _uphill(density, _Climb.from_points(z), density(z), CLIMB, longest=longest)
    best, heights = both.best[:, :number], both.best_log_p[:, :number]
    found = np.any(np.isfinite(heights), axis=1)
    points = np.stack([some[_apart(some, high, count)] for some, high in zip(best, heights)])
    if not several:
        return points, found
    climb = both.after(number)
    climb = _uphill(density, climb, density(climb.z), FAR_CLIMB - CLIMB, longest=FAR_LONGEST)
    if np.any((climb.step >= FAR_LONGEST) & np.isfinite(climb.best_log_p)[..., None]):
        on = _Climb.from_points(climb.best)._replace(step=climb.step)
        climb = _uphill(density, on, density(on.z), FAR_CLIMB, FAR_GROWTH, np.inf)
    far, high = climb.best, climb.best_log_p
    # Those that ended where the highest lies, or much lower, are nothing new.
    elsewhere = np.abs(far - points[:, :1]).max(axis=2, initial=0.0) > ELSEWHERE
    high = np.where(elsewhere & (high >= heights.max(axis=1, keepdims=True) - LOWER - dim), high, -np.inf)
    if np.isfinite(high).any():
        at, worth = high.argmax(axis=1), np.any(np.isfinite(high), axis=1)
        chosen = np.where(worth[:, None], far[np.arange(len(far)), at], points[:, 0])
        points = np.concatenate([points, chosen[:, None]], axis=1)
    return points, found


class _Climb(NamedTuple):
    """Candidates on their way up, `(searches, points, dim)`, with the highest points that they have come by.

    Attributes:
      z: where they are.
      step: how far they go next, along each coordinate.
      best: the highest points, `(searches, points, dim)`.
      best_log_p: the log densities there, `(searches, points)`.
      previous: the signs of the last step, `(searches, points, dim)`.
    """

    z: np.ndarray
    step: np.ndarray
    best: np.ndarray
    best_log_p: np.ndarray
    previous: np.ndarray

    @classmethod
    def from_points(cls, z: np.ndarray) -> _Climb:
        """Before the first step."""
        return cls(z, np.full_like(z, FIRST_STEP), z, np.full(z.shape[:2], -np.inf), np.zeros_like(z))

    def after(self, count: int) -> _Climb:
        """Without the first `count` candidates of each search."""
        return _Climb(*(part[:, count:] for part in self))


def _uphill(
    density: Callable[[np.ndarray], Evaluated],
    climb: _Climb,
    evaluated: Evaluated,
    steps: int,
    growth: float = GROWTH,
    longest: float | np.ndarray = MAX_STEP,
) -> _Climb:
    """The candidates after so many more steps, none of which is longer than `longest`, `(points, 1)` or one number.

    `evaluated` is the density where they are.
    """
    # Signs alone: gradients of a bad start may be of any size, and their sizes say nothing of the way.
    (z, step, best, best_log_p, previous), factors = climb, np.array([0.5, 1.0, growth])
    for step_left in reversed(range(steps)):
        log_p, gradient = evaluated
        finite = np.isfinite(log_p) & np.isfinite(gradient).all(axis=2)
        better = finite & (log_p > best_log_p)
        best, best_log_p = np.where(better[..., None], z, best), np.where(better, log_p, best_log_p)
        # Where the density is not finite, go half the way back to the best point, or to the origin.
        z = np.where(finite[..., None], z, (z + np.where(np.isfinite(best_log_p)[..., None], best, 0.0)) / 2)
        sign = np.sign(np.where(finite[..., None], gradient, 0.0))
        step = np.minimum(np.maximum(step * factors[(sign * previous + 1).astype(int)], 1e-6), longest)
        z, previous = z + step * sign, sign
        evaluated = density(z) if step_left else evaluated
    return _Climb(z, step, best, best_log_p, previous)


def climbed(target: Target, z: np.ndarray) -> tuple[np.ndarray, float]:
    """The highest point, `(dim,)`, that candidates `z`, `(points, dim)`, come by, and its log density."""
    evaluated = evaluation(target)

    def density(z: np.ndarray) -> Evaluated:
        log_p, gradient = evaluated(z[0])
        return log_p[None], gradient[None]

    climb = _uphill(density, _Climb.from_points(z[None]), density(z[None]), CLIMB)
    return climb.best[0, climb.best_log_p.argmax()], float(climb.best_log_p.max())


def starts_of(
    target: Target, rng: np.random.Generator, count: int, density: BatchedDensity | None = None
) -> np.ndarray:
    """Such points for one target, `(count, dim)`; `density` is that of the target, which then counts them.

    Raises:
      InitializationError: no candidate has a finite density and gradient; the message names the site.
    """
    density, form = density or BatchedDensity([target]), parameterisations_of(target)[None]
    one = functools.partial(density, fits=np.zeros(1, int), parameterisations=form)
    points, found = find_starts(one, target.dim, [rng], count)
    if not found[0]:
        raise no_initialization(target, points[0, 0])
    return points[0]


def mode_above(target: Target, z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mode in unconstrained space above `z`, `(dim,)`: where the search for a point begins, whichever is wanted.

    On its support a density may grow without bound towards the edge (a Dirichlet with concentrations below one). The
    mode inside is then a local one, and found from nearby only.
    """
    best, height = _climbed(target, z.astype(np.float64))
    for shake in rng.standard_normal((SHAKES, z.size)):
        # A start between two modes may end on the saddle between them: see whether it was one.
        other, its_height = _climbed(target, best + 0.5 * shake)
        best, height = (other, its_height) if its_height > height else (best, height)
    return best.astype(z.dtype)


def _climbed(target: Target, z: np.ndarray) -> tuple[np.ndarray, float]:
    eps, evaluated = float(np.finfo(jnp.result_type(float)).eps), evaluation(target)

    def negated(z: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p, gradient = evaluated(z)
        return -log_p, -gradient

    def rounding(value: np.ndarray) -> np.ndarray:
        return 16 * eps * np.maximum(np.abs(value), 1.0)

    at = lbfgs.minimise(negated, z[None], lbfgs.unscaled, rounding, eps, ASCENT, lbfgs.no_longer_than(1.0))
    return at.x[0], -float(at.value[0])


def _apart(points: np.ndarray, heights: np.ndarray, count: int) -> list[int]:
    """The highest point, then again and again the one that lies farthest from those taken.

    Out of the higher half, and of all that are not much lower: one mode may hold less than half of the candidates.
    """
    taken, finite = [int(np.argmax(heights))], np.isfinite(heights)
    if count > 1 and finite.any():
        pool = np.flatnonzero(heights >= min(np.median(heights[finite]), heights.max() - LOWER))
        scaled = points / np.maximum(points[pool].std(axis=0), 1e-300)
        while len(taken) < min(count, len(pool)):
            distances = ((scaled[pool, None] - scaled[taken]) ** 2).sum(axis=-1).min(axis=1)
            taken.append(int(pool[np.argmax(distances)]))
    return taken + taken[:1] * (count - len(taken))


def no_initialization(target: Target, z: np.ndarray, which: str = "") -> InitializationError:
    """What to tell where no candidate has a finite density, as at `z`, `(dim,)`; `which` of several data sets."""
    culprits = nonfinite_sites(target, z[None])
    where = {name: np.asarray(value) for name, value in target.constrain(z).items()}
    shown = "\n".join(f"{name} = {np.array2string(value, threshold=6, precision=4)}" for name, value in where.items())
    return InitializationError(
        f"{which}the log density is not finite at any of {BLOCK} starting points.",
        site=", ".join(culprits) or None,
        details=f"for instance at\n{shown}",
        mend="Look for NaN or values outside the support in the data of this site, or give start={...}.",
    )
