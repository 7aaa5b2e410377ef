"""Which coordinates fall apart, given which others: blocks of the log density's Hessian, and what these promise.

Given the hyperparameters the rows of a hierarchy do not speak to each other: the Hessian of the log density by the rows
is block diagonal, one block for each row. The blocks are the connected components of its pattern, wherever a model
has its plates. It is met by differences of the gradient that is compiled already, at a draw of a Gaussian fit, where no
entry is zero by chance, and at its mirror image: where the scale of rows is small their parts seem not to interact.

What is a hyperparameter: first the drivers (`target/drivers`); then, while a component is larger than `MAX_BLOCK_DIM`,
the site in it that has the most neighbours, as a mean has that all rows share.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vbppl.target.drivers import drivers_of
from vbppl.target.target import Target

MAX_BLOCK_DIM = 6  # coordinates of a block
STEP = 0.25  # conditional sds between a point and where the gradient is asked
TIED = 1e-3  # of the curvatures of two coordinates, above which they interact; rounding in 32 bits makes 1e-5
LOOKS = 32  # draws of the hyperparameters by which a gain is predicted
MIN_PRECISION = 1e-2  # of the Gaussian's precision, below which none of a block's is taken

Blocks = tuple[tuple[int, ...], ...]
Gradient = Callable[[np.ndarray], np.ndarray]


def blocks_of(target: Target, normal: tuple[np.ndarray, np.ndarray], gradient: Gradient, noise: np.ndarray) -> Blocks:
    """Blocks of at most `MAX_BLOCK_DIM` coordinates that do not interact given all others; none if nothing drives them.

    Args:
      target: the density.
      normal: mean and factor of a Gaussian that was fitted to it.
      gradient: of the log density at points `(points, dim)`.
      noise: standard normals, `(dim,)`, for the draw at which, and at whose mirror image, the Hessian is looked at.
    """
    layout, names = target.layout, drivers_of(target)
    slots = [np.arange(slot.start, slot.stop) for slot in layout.slots]
    # What has a plate is a row, whatever its support; so may be what has more numbers than a block.
    drives = [
        slot.name in names and not slot.plates and len(at) <= MAX_BLOCK_DIM for slot, at in zip(layout.slots, slots)
    ]
    left = [at for at, is_driver in zip(slots, drives) if not is_driver]
    if not any(drives) or not left:
        return ()
    tied = _tied(normal, gradient, noise, np.concatenate(left))
    while left:
        found = _components(tied, np.concatenate(left))
        large = {place for block in found if len(block) > MAX_BLOCK_DIM for place in block}
        if not large:
            return tuple(sorted(found))
        inside = np.concatenate(left)
        most = [tied[np.ix_(at, inside)].sum() / len(at) if large.intersection(at) else -1 for at in left]
        left.pop(int(np.argmax(most)))
    return ()


def _tied(
    normal: tuple[np.ndarray, np.ndarray], gradient: Gradient, noise: np.ndarray, among: np.ndarray
) -> np.ndarray:
    """Which of all coordinates interact, `(dim, dim)`, as far as both are `among` these."""
    loc, factor = normal
    dim, inverse = len(loc), np.linalg.pinv(factor)
    sd = 1 / np.sqrt((inverse**2).sum(axis=0))  # of each coordinate given all others
    ways = STEP * sd[among][:, None] * np.eye(dim)[among]
    hessian, one = np.zeros((dim, dim)), np.zeros((dim, dim), bool)
    for draw in (factor @ noise, -factor @ noise):
        points = loc + draw + np.concatenate([ways, -ways])
        points = points.astype(jnp.result_type(float)).astype(np.float64)  # the steps that are really taken
        slope, away = np.split(gradient(points), 2), np.split(points, 2)
        length = (away[0] - away[1])[np.arange(len(among)), among]
        hessian[among] = (slope[0] - slope[1]) / length[:, None]
        size = np.sqrt(np.maximum(np.abs(np.diagonal(hessian)), MIN_PRECISION / sd**2))
        # What is not finite may be anything.
        one |= ~(np.abs(hessian) <= TIED * size * size[:, None])
    return (one | one.T) & ~np.eye(dim, dtype=bool)


def _components(tied: np.ndarray, among: np.ndarray) -> list[tuple[int, ...]]:
    """The connected components among some coordinates."""
    left, found, inside = {int(place) for place in among}, list[tuple[int, ...]](), among
    while left:
        block, edge = set[int](), {min(left)}
        while edge:
            block |= edge
            edge = {int(near) for place in edge for near in inside[tied[place, inside]]} - block
        found.append(tuple(sorted(block)))
        left -= block
    return found


def predicted_gain(
    blocks: Blocks, normal: tuple[np.ndarray, np.ndarray], gradient: Gradient, noise: np.ndarray
) -> float:
    """What a Gaussian loses in nats by blocks whose mode and curvature move with all else, to second order.

    At draws of the hyperparameters, with `C` the covariance of a block given these, `g` and `H` gradient and negative
    Hessian at its mean: the mean of `g^T H^-1 g / 2 + (tr C H - log det C H - K) / 2`. From `2 LOOKS max(K)` gradients.

    Args:
      blocks: of coordinates.
      normal: mean and factor of the Gaussian.
      gradient: of the log density at points `(points, dim)`.
      noise: standard normals, `(looks, dim)`.
    """
    loc, factor = normal
    rows = np.concatenate(blocks)
    given, width, looks = np.setdiff1d(np.arange(len(loc)), rows), max(map(len, blocks)), len(noise)
    order = np.concatenate([given, rows])
    lower = np.linalg.qr(factor[order].T, mode="r").T  # pyright: ignore[reportAttributeAccessIssue] -- R alone
    inner = np.zeros((len(loc), len(loc)))
    inner[np.ix_(rows, rows)] = (half := lower[len(given) :, len(given) :]) @ half.T
    means = np.zeros((looks, len(loc)))
    means[:, order] = loc[order] + noise[:, : len(given)] @ lower[:, : len(given)].T
    sd, slopes, curves = np.sqrt(np.diagonal(inner)), [], []
    for place in range(width):
        way = np.zeros(len(loc))
        moved = [block[place] for block in blocks if place < len(block)]
        way[moved] = STEP * sd[moved]
        points = np.concatenate([means + way, means - way]).astype(jnp.result_type(float)).astype(np.float64)
        there = np.split(gradient(points), 2)
        slopes.append((there[0] + there[1]) / 2)
        curves.append((there[1] - there[0]) / (2 * STEP))  # a column of H, times the sd of what moved
    gains = np.zeros(looks)
    for block in map(np.array, blocks):
        c = np.linalg.cholesky(inner[np.ix_(block, block)])
        h = np.stack([curves[place][:, block] / sd[block[place]] for place in range(len(block))], axis=-1)
        value, vector = np.linalg.eigh(np.nan_to_num(c.T @ ((h + h.swapaxes(1, 2)) / 2) @ c))
        value = np.maximum(value, MIN_PRECISION)
        step = ((slopes[0][:, block] @ c)[:, None] @ vector)[:, 0]
        gains += (step**2 / value + value - np.log(value) - 1).sum(axis=1) / 2
    return float(np.mean(gains))
