"""Where a fit begins: a point with a finite density, moved a little way uphill.

Candidates are drawn in shrinking boxes around the origin of unconstrained space, climb together
for a few sign-based steps (Riedmiller and Braun 1993, "Rprop": scale-free, no step size to choose), and
the highest finite point wins. The climb is short on purpose: the mode of a hierarchical density
may lie at infinity, and a fit wants its body, not its mode.
"""

from __future__ import annotations

import numpy as np

from vbppl.errors import ModelError
from vbppl.evaluation import BLOCK, evaluate
from vbppl.target import Target

RADII = (2.0, 1.0, 0.1)
CLIMB = 16


def find_starts(target: Target, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Points `(count, dim)` with a finite log density and gradient: the highest, then others far from it.

    Starts that lie apart are the ones that may end in different modes. There may be fewer than `count`, but at
    least one.

    Raises:
      ModelError: no candidate has one; the message names the guilty site.
    """
    radius = np.repeat(RADII, -(-BLOCK // len(RADII)))[:BLOCK, None]
    z = radius * rng.uniform(-1, 1, (BLOCK, target.dim))
    step = np.full_like(z, 0.1)
    best, best_log_p, previous = z.copy(), np.full(BLOCK, -np.inf), np.zeros_like(z)
    for _ in range(CLIMB):
        log_p, gradient = evaluate(target, z)
        finite = np.isfinite(log_p) & np.isfinite(gradient).all(1)
        better = finite & (log_p > best_log_p)
        best[better], best_log_p[better] = z[better], log_p[better]
        # Where the density is not finite, go half the way back to the best point, or to the origin.
        z = np.where(finite[:, None], z, (z + np.where(np.isfinite(best_log_p)[:, None], best, 0.0)) / 2)
        sign = np.sign(np.where(finite[:, None], gradient, 0.0))
        step = np.clip(step * np.choose((sign * previous + 1).astype(int), [0.5, 1.0, 1.2]), 1e-6, 0.5)
        z, previous = z + step * sign, sign
    if not np.isfinite(best_log_p).any():
        raise _no_start(target, z[-1])
    return best[_apart(best, best_log_p, count)]


def _apart(points: np.ndarray, heights: np.ndarray, count: int) -> list[int]:
    """The highest point, then again and again the one of the higher half that lies farthest from those taken."""
    finite = np.isfinite(heights)
    pool = np.flatnonzero(heights >= np.median(heights[finite]))
    scaled = points / np.maximum(points[pool].std(axis=0), 1e-300)
    taken = [int(np.argmax(heights))]
    while len(taken) < min(count, len(pool)):
        distances = ((scaled[pool, None] - scaled[taken]) ** 2).sum(axis=-1).min(axis=1)
        taken.append(int(pool[np.argmax(distances)]))
    return taken


def _no_start(target: Target, z: np.ndarray) -> ModelError:
    culprits = target.guilty_sites(z[None])
    where = {name: np.asarray(value) for name, value in target.constrain(z).items()}
    shown = "\n".join(f"{name} = {np.array2string(value, threshold=6, precision=4)}" for name, value in where.items())
    return ModelError(
        f"the log density is not finite at any of {BLOCK} starting points.",
        site=", ".join(culprits) or None,
        details=f"for instance at\n{shown}",
        mend="Look for NaN or values outside the support in the data of this site, or give start={...}.",
    )
