"""Short Markov chains from an answer's own draws: what they move was not the posterior's.

Weights show nothing of mass where no draw comes, as where rows go far out given a wide scale, or shrink together given
a narrow one. A chain that leaves the posterior as it is does go there, step by step, and moves no average of draws that
are the posterior's already. So many short chains are started, one at each draw, and what a user reads off is compared
after and before: by how far it has moved it was wrong at least (Wang, Kasprzak and Huggins 2023, "A targeted accuracy
diagnostic for variational approximations"). Of a quantity `x` with mean `mu` and sd `sigma` at the starts,

    mean error = mean (x' - x) / sigma,        log sd error = log (var x' / sigma^2) / 2,

with standard errors by the differences `x' - x` chain by chain, which are small where chains move little. Nothing is
proved by chains that stay: they are a witness for the prosecution alone.

The chains are Hamiltonian (Neal 2011, "MCMC using Hamiltonian dynamics"), in units of the draws' own covariance, with
a step length of its own for each chain and move, so that narrow places are left, and wide ones are crossed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.watch import Watch
from vbppl.posterior import quantities
from vbppl.posterior.quantities import SIGNIFICANT, Errors
from vbppl.posterior.weighted_draws import Ellipsoid, WeightedDraws
from vbppl.target.batched import evaluation
from vbppl.target.target import Target

CHAINS, MIN_CHAINS = 1_024, 128
MOVES, STEPS = 4, 8  # of each chain; leapfrog steps of each move
PRICE = 1 + MOVES * STEPS  # gradients of each chain
OF_FEW = 0.2  # a log sd's standard error where six chains make all of it: of one it is a half, however far out
LONGEST, SHORTEST = 1.8, 0.6  # a step's length, between which it is log-uniform, in units of dim^(-1/4)


def moved(target: Target, z: np.ndarray, around: Ellipsoid, rng: np.random.Generator, watch: Watch) -> np.ndarray:
    """Where chains from `z`, `(chains, dim)`, come, in units of `around`; by whole moves, while there is time."""
    evaluated = evaluation(target)

    def density(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p, gradient = evaluated(around.at(e))
        # Far out rounding makes infinite densities, which no chain would leave again.
        log_p = np.where(log_p < np.inf, log_p, -np.inf)
        # Where there is no slope none is followed: a rule of the place alone, so that every way can be gone back.
        return log_p, np.nan_to_num(gradient @ around.factor, nan=0.0, posinf=0.0, neginf=0.0)

    e = around.residual(z)
    log_p, slope = density(e)
    unit = target.dim**-0.25
    for _ in range(MOVES):
        step = unit * np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), (len(z), 1)))
        momentum = begun = rng.standard_normal(e.shape)
        at, there = e, (log_p, slope)
        for _ in range(STEPS):
            if watch.is_over:
                return around.at(e)
            momentum = momentum + step / 2 * there[1]
            at = at + step * momentum
            there = density(at)
            momentum = momentum + step / 2 * there[1]
        gained = there[0] - log_p + ((begun**2).sum(axis=1) - (momentum**2).sum(axis=1)) / 2
        is_taken = np.log(rng.random(len(z))) < gained  # never where it is not a number
        e = np.where(is_taken[:, None], at, e)
        log_p, slope = np.where(is_taken, there[0], log_p), np.where(is_taken[:, None], there[1], slope)
    return around.at(e)


def errors_by_chains(
    target: Target, draws: WeightedDraws, factor: np.ndarray | None, chains: int, rng: np.random.Generator, watch: Watch
) -> Errors:
    """By how much an answer is wrong at least, by chains from its draws; nothing where that may be chance.

    Args:
      target: what was fitted.
      draws: those of the answer, with the weights that they have in it.
      factor: of its covariance, where it is known: for the directions.
      chains: how many there are.
      rng: for starts and moves.
      watch: where its deadline passes, chains are shorter.
    """
    # Draws are antithetic: in their own order each of few starts would have its mirror image among them.
    order, counting = rng.permutation(len(draws)), draws.counting
    starts = order[dataclasses.replace(draws, log_weight=draws.log_weight[order]).chosen(rng, chains)]
    before = np.asarray(draws.z[starts], np.float64)
    after = moved(target, before, Ellipsoid.around(draws.z[counting], draws.weights[counting]), rng, watch)
    found = quantities.differences(target, before, after, starts, factor)
    mean = np.where(np.abs(found.mean) > SIGNIFICANT * found.mean_se, found.mean, 0.0)
    is_sure = (np.abs(found.log_sd) > SIGNIFICANT * found.log_sd_se) & (found.log_sd_se < OF_FEW)
    log_sd = np.where(is_sure, found.log_sd, 0.0)
    return dataclasses.replace(found, mean=mean, log_sd=log_sd)
