"""Batch-and-match: a full-rank Gaussian whose scores match the target's on a batch of draws.

The fallback where natural-gradient steps on fixed draws find no step that improves the bound: it needs
no bound, only gradients, and averages what it sees with a weight that falls as `1 / t` (Cai, Modi, Pillaud-
Vivien, Margossian, Gower, Blei and Saul 2024, "Batch and Match: Black-Box Variational Inference with a
Score-Based Divergence", equations 5 to 8). Written with factors: with `V = R R^T`,

    U = lam Gam + lam / (1 + lam) g g^T,      V = Sigma + lam C + lam / (1 + lam) (mu - z)(mu - z)^T,
    w, Q = eigh(R^T U R),    B = R Q diag sqrt(2 / (1 + sqrt(1 + 4 w))),    Sigma' = B B^T,
    mu' = mu / (1 + lam) + lam / (1 + lam) (Sigma' g + z),

where `z, g` are the batch's means and `C, Gam` its covariances of draws and gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEPS = 60


def match(
    density: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    loc: np.ndarray,
    factor: np.ndarray,
    noise: Callable[[int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and factor after `STEPS` batches, from `N(loc, factor factor^T)`.

    Args:
      density: log densities `(draws,)` and gradients at points `(draws, dim)`.
      noise: the standard-normal draws of a step, `(draws, dim)`.
    """
    for step in range(STEPS):
        draws = noise(step)
        z = loc + draws @ factor.T
        _, gradient = density(z)
        seen = np.isfinite(gradient).all(axis=1)
        if seen.sum() < 2:
            return loc, factor
        z, gradient = z[seen], gradient[seen]
        weight = len(z) * len(loc) / (step + 1)
        new = _matched(loc, factor, z, gradient, weight)
        if new is None:
            return loc, factor
        loc, factor = new
    return loc, factor


def _matched(
    loc: np.ndarray, factor: np.ndarray, z: np.ndarray, gradient: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """One step; None where rounding has eaten up the positive definiteness."""
    share = weight / (1 + weight)
    middle, slope = z.mean(axis=0), gradient.mean(axis=0)
    spread, scores = (z - middle) / np.sqrt(len(z)), (gradient - slope) / np.sqrt(len(z))
    u = weight * scores.T @ scores + share * np.outer(slope, slope)
    v = factor @ factor.T + weight * spread.T @ spread + share * np.outer(loc - middle, loc - middle)
    try:
        root = np.linalg.cholesky(v)
    except np.linalg.LinAlgError:
        return None
    values, vectors = np.linalg.eigh(root.T @ u @ root)
    values = np.maximum(values, 0.0)
    new = root @ vectors * np.sqrt(2 / (1 + np.sqrt(1 + 4 * values)))
    return loc / (1 + weight) + share * (new @ (new.T @ slope) + middle), new
