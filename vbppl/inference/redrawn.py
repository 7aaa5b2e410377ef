"""Draws of a conditional Laplace guide whose blocks are drawn several times each: weights without their own error.

A Gaussian block is the more wrong, the wider its hyperparameters let it be, and the errors of many blocks add up. Given
the hyperparameters `p` blocks do not meet, `p(p, x) = c(p) prod_b f_b(x_b)`. So with `M` draws of each block,

    W = p(p, x_1) / q(p, x_1) prod_b mean_m w_bm,    w_bm = [f_b(x_bm) / q_b(x_bm)] / [f_b(x_b1) / q_b(x_b1)],

whose mean is the evidence, and which weighs a point properly each of whose blocks is chosen among its draws by `w_bm`
(nested importance sampling: Naesseth, Lindsten and Schon 2015, "Nested Sequential Monte Carlo Methods").

What each block contributes is told for all at once, since the gradient by one depends on no other:

    log f_b(x_bm) - log f_b(x_b1) = int_0^1 g_b(x_1 + t (x_m - x_1))^T (x_m - x_1)_b dt,

by the rule of Gauss and Legendre. All blocks together are the difference of two log densities, which are asked for
besides, at each draw and at the point whose blocks are chosen from several: the first shows where the rule does not
come to the integral, the second where blocks do meet, which the pattern of one Hessian need not show. A point at which
either is not met has no weight; since that is a bias, none has where these are more than one in fifty.
"""

from __future__ import annotations

import numpy as np

from vbppl.core.numerics.draws import fresh_draws
from vbppl.core.types import PyTree
from vbppl.guides.base import in_dtype_of
from vbppl.guides.layers.base import Layered
from vbppl.guides.layers.conditional import alike
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.target.batched import evaluation
from vbppl.target.target import Target

TIMES, NODES = 8, 3  # draws of each block, and points of the rule between two
PRICE = TIMES + (TIMES - 1) * NODES + 1  # evaluations of the density for each point, but for the guide's own
MET, LOST = 0.1, 0.02  # nats, to which both must come; the share of points at which they may not


def redrawn(
    guide: Layered, step: NewtonStep, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """So many points, `(draws, dim)`, their log densities, and the logs of their weights, `(draws,)` each.

    The guide's last layer is the `step`.
    """
    evaluated, given, number = evaluation(target), list(step.given), alike(step.blocks)
    first, blocks = fresh_draws(rng, draws, target.dim), (draws, len(step.blocks))

    def at(noise: np.ndarray) -> list[np.ndarray]:
        noise = in_dtype_of(phi, noise)
        return [np.asarray(part, np.float64) for part in (*guide.bend(phi, noise, target), noise**2 / 2)]

    def by_block(x: np.ndarray) -> np.ndarray:
        return np.add.reduceat(x[:, step.rows], np.searchsorted(number, np.arange(blocks[1])), axis=1)

    z, log_det, half = at(first)
    log_p = evaluated(z)[0]
    log_weight = log_p + log_det + half.sum(axis=1) + target.dim / 2 * np.log(2 * np.pi)
    is_met, points, gained, total, best = np.isfinite(log_p), z.copy(), 0.0, np.zeros(blocks), rng.gumbel(size=blocks)
    for _ in range(TIMES - 1):
        noise = fresh_draws(rng, draws, target.dim)
        noise[:, given] = first[:, given]
        there, _, its_half = at(noise)
        way, gain = there - z, np.zeros(z.shape)
        for node, weight in zip(*np.polynomial.legendre.leggauss(NODES)):
            gain += weight / 2 * evaluated(z + (node + 1) / 2 * way)[1] * way
        is_met &= np.abs(log_p + gain.sum(axis=1) - evaluated(there)[0]) < MET  # never without a number
        total = np.logaddexp(total, log_w := by_block(gain + its_half - half))
        # The greatest of log weights and Gumbel's noise is one of them, as often as it weighs.
        is_next = (score := log_w + rng.gumbel(size=blocks)) > best
        best, gained = np.maximum(best, score), np.where(is_next, by_block(gain), gained)
        points[:, step.rows] = np.where(is_next[:, number], there[:, step.rows], points[:, step.rows])
    log_weight += (total - np.log(TIMES)).sum(axis=1)
    is_met &= np.abs(log_p + np.sum(gained, axis=1) - (known := evaluated(points)[0])) < MET
    return points, known, np.where(is_met & (is_met.mean() >= 1 - LOST), log_weight, -np.inf)
