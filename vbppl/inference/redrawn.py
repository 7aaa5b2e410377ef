"""Draws of a conditional Laplace guide whose blocks are drawn several times each: weights without their own error.

A Gaussian block is the more wrong, the wider its hyperparameters let it be, and the errors of many blocks add up. Given
the hyperparameters `p` blocks do not meet, `p(p, x) = c(p) prod_b f_b(x_b)`. So with `M` draws of each block,

    W = p(p, x_1) / q(p, x_1) prod_b mean_m w_bm,    w_bm = [f_b(x_bm) / q_b(x_bm)] / [f_b(x_b1) / q_b(x_b1)],

whose mean is the evidence, and which weighs a point properly each of whose blocks is chosen among its draws by `w_bm`
(nested importance sampling: Naesseth, Lindsten and Schon 2015, "Nested Sequential Monte Carlo Methods").

What each block contributes is told for all at once, since the gradient by one depends on no other:

    log f_b(x_bm) - log f_b(x_b1) = int_0^1 g_b(x_1 + t (x_m - x_1))^T (x_m - x_1)_b dt,

by the rule of Gauss and Legendre. All blocks together are the difference of two log densities, which are asked for
besides: where that is not met, a point has no weight.
"""

from __future__ import annotations

import numpy as np

from vbppl.core.numerics.draws import fresh_draws
from vbppl.core.types import PyTree
from vbppl.guides.base import in_dtype_of
from vbppl.guides.layers.base import Layered
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

TIMES, NODES = 8, 3  # draws of each block, and points of the rule between two
PRICE = TIMES + (TIMES - 1) * NODES + 1  # evaluations of the density for each point, but for the guide's own
MET = 0.1  # nats, to which the rule must come


def redrawn(
    guide: Layered, step: NewtonStep, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """So many points, `(draws, dim)`, their log densities, and the logs of their weights, `(draws,)` each.

    The guide's last layer is the `step`.
    """
    noise = np.stack([fresh_draws(rng, draws, target.dim) for _ in range(TIMES)])
    noise[1:, :, list(step.given)] = noise[0, :, list(step.given)].T
    noise = np.asarray(in_dtype_of(phi, noise), np.float64)
    z, log_det = guide.bend(phi, in_dtype_of(phi, noise.reshape(-1, target.dim)), target)
    z, log_det = np.asarray(z, np.float64).reshape(noise.shape), np.asarray(log_det, np.float64)[:draws]

    log_p = evaluate(target, z[0])[0]
    ratio, is_met = np.zeros(noise.shape), np.isfinite(log_p)
    for m in range(1, TIMES):
        for node, weight in zip(*np.polynomial.legendre.leggauss(NODES)):
            way = z[m] - z[0]
            ratio[m] += weight / 2 * evaluate(target, z[0] + (node + 1) / 2 * way)[1] * way
        is_met &= np.abs(ratio[m].sum(axis=1) - (evaluate(target, z[m])[0] - log_p)) < MET  # never without a number
    ratio += (noise**2 - noise[0] ** 2) / 2
    by_block = np.stack([ratio[:, :, list(block)].sum(axis=2) for block in step.blocks], axis=2)
    log_weight = log_p + log_det + (noise[0] ** 2).sum(axis=1) / 2 + target.dim / 2 * np.log(2 * np.pi)
    log_weight += (np.logaddexp.reduce(by_block, axis=0) - np.log(TIMES)).sum(axis=1)

    chosen, points = np.argmax(by_block + rng.gumbel(size=by_block.shape), axis=0), z[0].copy()
    for number, block in enumerate(step.blocks):
        points[:, list(block)] = z[chosen[:, number], np.arange(draws)][:, list(block)]
    return points, evaluate(target, points)[0], np.where(is_met, log_weight, -np.inf)
