"""Where a mixture of Gaussians lacks a component, by what fixed draws of it have shown.

A component may be *split* along the direction in which `f = log p - log q` has the greatest third or fourth moment,
with whitened draws `e` and `h = L^T grad f` by Stein's lemma

    E[f He3(v.e)] = E[(v.h) ((v.e)^2 - 1)],    E[f He4(v.e)] = E[(v.h) ((v.e)^3 - 3 v.e)],

which symmetric power iteration maximises over `v`; or into two of other widths. Where draws weigh more than they
should, `(w - 1)_+` with `w = p / (q Z)`, the *residual* has moments of its own, whole and by parts (variational
boosting: Miller, Foti and Adams 2017). And a density may be symmetric: *reflections* of a component.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vbppl.core.numerics.mixtures import Components, Evaluated, log_sum

TURNS, AXES = 10, 4  # of the power iteration, and how many axes it begins at
APART, LEFT = 0.8, 1 - 0.8**2  # means of two halves, in sds; the variance that is left to each
WIDTHS = (1.5, 0.6)
PARTS = 3  # of a residual
LEVEL = 3.0  # nats: how much lower than a component's mean its reflection may lie
NEAR = 2.0  # sds between a reflection and a component that is there already


class Candidate(NamedTuple):
    """A mixture with components that are new, its last ones.

    Attributes:
      what: in words.
      at: the mixture.
      old: the numbers of the components that it took over, its first ones.
    """

    what: str
    at: Components
    old: np.ndarray


def log_evidence_of(seen: Evaluated) -> float:
    """By the weights of the draws, nats."""
    return float(log_sum(np.add(*_terms(seen)).ravel()))


def excess(seen: Evaluated) -> tuple[np.ndarray, float]:
    """`(w - 1)_+` of each draw, times its share of the mixture, `(k, draws)`; their sum is the total variation."""
    (f, log_share), log_evidence = _terms(seen), log_evidence_of(seen)
    over = np.maximum(np.exp(np.minimum(f - log_evidence, 50.0)) - 1, 0) * np.exp(log_share)
    return over, float(over.sum())


def _terms(seen: Evaluated) -> tuple[np.ndarray, np.ndarray]:
    """Of each draw `log p - log q`, and its share of the mixture in logs."""
    log_share = np.broadcast_to(seen.at.log_weights[:, None] - np.log(seen.f.shape[1]), seen.f.shape)
    return np.where(np.isfinite(seen.f), seen.f, -np.inf), log_share


def candidates(seen: Evaluated, log_density: Callable[[np.ndarray], np.ndarray]) -> list[Candidate]:
    """Mixtures that may be better, whose new components still have to climb."""
    spread = seen.at.weights * np.var(np.where(np.isfinite(seen.f), seen.f, 0.0), axis=1)
    worst = np.argsort(-spread)[:2]
    found = [each for k in worst.tolist() for each in _splits(seen, k)]
    return [*found, *_residuals(seen), *_reflections(seen, int(np.argmax(seen.at.weights)), log_density)]


def directions(e: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
    """Unit vectors of greatest third and of greatest fourth moment of f, from noise and whitened gradients."""
    weigh = (lambda t: t**2 - 1, lambda t: t**3 - 3 * t), (lambda t: 2 * t, lambda t: 3 * t**2 - 3)
    found = []
    for polynomial, slope in zip(*weigh):

        def moment(v: np.ndarray, polynomial: Callable = polynomial) -> float:
            return float(np.mean((h @ v) * polynomial(e @ v)))

        # From the axes with the greatest moments of their own.
        each = np.mean(h * polynomial(e), axis=0)
        ends = []
        for axis in np.argsort(-np.abs(each))[:AXES]:
            v = np.eye(e.shape[1])[axis]
            for _ in range(TURNS):
                t, s = e @ v, h @ v
                turned = np.mean(h * polynomial(t)[:, None] + e * (s * slope(t))[:, None], axis=0)
                size = np.linalg.norm(turned)
                v = turned / size if size > 0 else v
            ends.append(v)
        found.append(max(ends, key=lambda v: abs(moment(v))))
    return found


def _splits(seen: Evaluated, k: int) -> list[Candidate]:
    """Component `k` in two, along a direction or by width."""
    at, old = seen.at, np.delete(np.arange(len(seen.at)), k)
    loc, factor = at.loc[k], at.factor[k]
    sound = np.isfinite(seen.whitened[k]).all(axis=1)
    halves = [(f"component {k} by width", [loc, loc], [factor * wide for wide in WIDTHS])]
    for name, v in zip(("third", "fourth"), directions(seen.noise[k][sound], seen.whitened[k][sound])):
        shift = APART * factor @ v
        narrow = factor @ (np.eye(at.dim) + (np.sqrt(LEFT) - 1) * np.outer(v, v))
        halves.append((f"component {k} along its {name} moment", [loc - shift, loc + shift], [narrow, narrow]))
    half = at.log_weights[k] - np.log(2)
    return [
        Candidate(
            what,
            Components.of(
                np.append(at.log_weights[old], [half, half]), [*at.loc[old], *locs], [*at.factor[old], *factors]
            ),
            old,
        )
        for what, locs, factors in halves
    ]


def _residuals(seen: Evaluated) -> list[Candidate]:
    """A further component where draws weigh too much, by all of them and by parts that lie together."""
    over, total = excess(seen)
    z, over = seen.z.reshape(-1, seen.at.dim), over.ravel()
    if not total > 0:
        return []
    weight, every = float(np.clip(total, 0.01, 0.5)), np.ones(len(z), bool)
    # The shape that is local: that of the component which is likeliest there.
    owner = np.argmax(seen.at.log_weights + seen.log_each.reshape(len(z), -1), axis=1)
    parts, left = [("all that weighs too much", every)], over.copy()
    for number in range(PARTS):
        seed = int(np.argmax(left))
        if not left[seed] > 0:
            break
        inverse = np.linalg.inv(seen.at.factor[owner[seed]])
        away = np.sum(((z - z[seed]) @ inverse.T) ** 2, axis=1)
        order = np.argsort(away)
        mine = order[: int(np.searchsorted(np.cumsum(over[order]), over.sum() / (PARTS + 1))) + 2]
        part = np.zeros(len(z), bool)
        part[mine] = True
        parts.append((f"part {number} of what weighs too much", part))
        left[part] = 0
    return [
        Candidate(
            what, seen.at.joined(_moments(seen, z, np.where(part, over, 0), owner), weight), np.arange(len(seen.at))
        )
        for what, part in parts
    ]


def _moments(seen: Evaluated, z: np.ndarray, over: np.ndarray, owner: np.ndarray) -> Components:
    """A normal with the moments of weighted draws, shrunk towards the local component as far as these are few."""
    share, dim = over / over.sum(), z.shape[1]
    loc, effective = share @ z, 1 / np.sum(share**2)
    masses = np.bincount(owner, share, minlength=len(seen.at))
    local = seen.at.factor[int(np.argmax(masses))]
    # A factor of the sum without the sum, whose least eigenvalues rounding may make negative.
    rows = np.concatenate([np.sqrt(effective * share)[:, None] * (z - loc), np.sqrt(dim + 1) * local.T])
    lower = np.asarray(np.linalg.qr(rows / np.sqrt(effective + dim + 1), mode="r")).T
    return Components.of(np.zeros(1), [loc], [lower * np.where(np.diagonal(lower) < 0, -1.0, 1.0)])


def _reflections(seen: Evaluated, k: int, log_density: Callable[[np.ndarray], np.ndarray]) -> list[Candidate]:
    """Component `k` on the other side of the origin, along each axis and all of them, where it is as likely."""
    at, signs = seen.at, 1 - 2 * np.concatenate([np.eye(seen.at.dim), np.ones((1, seen.at.dim))])
    loc = signs * at.loc[k]
    gap = np.einsum("kij,nkj->nki", np.linalg.inv(at.factor), loc[:, None] - at.loc)
    new = np.linalg.norm(gap, axis=2).min(axis=1) > NEAR
    if not new.any():
        return []
    level = log_density(np.concatenate([at.loc[k][None], loc[new]]))
    found = []
    for place, sign, height in zip(loc[new], signs[new], level[1:]):
        if height > level[0] - LEVEL:
            mirrored = Components.of(np.zeros(1), [place], [sign[:, None] * at.factor[k]])
            weight = float(np.clip(at.weights[k] / 2, 0.01, 0.5))
            found.append(Candidate("a reflection", at.joined(mirrored, weight), np.arange(len(at))))
    return found[:PARTS]
