"""Standard-normal draws made on the host: independent, or with exact moments.

Averages over moment-exact draws have much smaller errors than over independent ones, and nothing
is compiled to make them. A set has mean 0 and, where there are at least two draws a dimension,
second moment exactly I; such sets are antithetic (`[E; -E]`), so odd moments vanish.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from vbppl.core.keys import host_generator


def normal_draws(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """Independent draws, `(draws, dim)`, float64."""
    return rng.standard_normal((draws, dim))


@functools.lru_cache(maxsize=16)
def _quantiles(n: int) -> np.ndarray:
    """`Phi^-1((i - 1/2) / n)`, stretched to mean square 1 and mean fourth power 3, `(n,)`.

    The middles of the strata alone have too light tails: for 32 of them the mean of `exp(e)` is 1.5% too
    small, and this is an error that no other set of draws would show. Stretched, it is 0.25%.
    """
    upper = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n - n // 2, n)])
    values = np.concatenate([-upper[::-1], np.zeros(n % 2), upper])
    low, high = 0.0, 1.0 if n >= 8 else 0.0  # fewer values cannot have a fourth power of 3
    # By bisection: the more of its cube is added to a value, the heavier the tails.
    for _ in range(50):
        middle = (low + high) / 2
        square = (values + middle * values**3) ** 2
        low, high = (middle, high) if np.mean(square**2) < 3 * np.mean(square) ** 2 else (low, middle)
    values = values + low * values**3
    return values / np.sqrt(np.mean(values**2)) if n > 1 else np.ones(1)


def latin_hypercube(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """Each coordinate a random permutation of the normal quantiles, `(draws, dim)`.

    Every marginal has mean 0 and variance 1 exactly (McKay, Beckman and Conover 1979).
    """
    quantiles = np.broadcast_to(_quantiles(draws)[:, None], (draws, dim))
    return rng.permuted(quantiles, axis=0)


def whitened_draws(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """Antithetic draws with mean 0 and, if `draws >= 2 dim`, second moment exactly I: `(draws, dim)`.

    Starts from a Latin hypercube that is symmetric about 0, so that every marginal stays close to
    normal. With fewer draws than `2 dim` the second moment cannot be I; each marginal variance is 1.
    """
    if draws % 2:
        raise ValueError(f"antithetic draws come in pairs: {draws} is odd.")
    quantiles = np.broadcast_to(_quantiles(draws)[draws // 2 :, None], (draws // 2, dim))
    half = rng.permuted(quantiles, axis=0) * rng.choice([-1.0, 1.0], size=(draws // 2, dim))
    # Of `[E; -E]` the mean is zero, whatever E is, and the second moment is that of E: so E alone is made orthogonal.
    if draws >= 2 * dim and dim > 1:
        half = _orthogonal(half) * np.sqrt(len(half))
    return np.concatenate([half, -half])


def _orthogonal(tall: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of `tall`.

    By Cholesky's factor of their products, twice (Yamamoto et al. 2015), which is several times quicker than by
    reflections; by these where the columns may be nearly dependent.
    """
    if len(tall) < 2 * tall.shape[1]:
        return np.linalg.qr(tall)[0]
    for _ in range(2):
        tall = tall @ np.linalg.inv(np.linalg.cholesky(tall.T @ tall)).T
    return tall


def fresh_draws(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """As `whitened_draws`, but never the same set twice, `(draws, dim)`: for errors taken between sets.

    In one dimension whitened draws are the quantiles, whatever the generator; here they are independent pairs.
    """
    if draws == 1:
        return normal_draws(rng, draws, dim)
    if dim != 1:
        return whitened_draws(rng, draws, dim)
    half = antithetic_draws(rng, draws, 1)
    return half / np.sqrt(np.mean(half**2))


def antithetic_draws(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """Independent pairs `[E; -E]`, `(draws, dim)`: each draw is exactly normal, whatever their number; one is `E`."""
    half = normal_draws(rng, (draws + 1) // 2, dim)
    return np.concatenate([half, -half])[:draws]


@dataclasses.dataclass(frozen=True)
class FixedDraws:
    """Sets of standard-normal draws, each a function of the fit's key, of its size and its number alone.

    `kind` is "auto" (whitened where there are at least two draws a dimension, else a Latin hypercube) or
    "latin_hypercube".
    """

    kind: str
    dim: int
    raw_keys: Sequence[np.ndarray]

    def __call__(self, fits: np.ndarray, draws: int, number: int = 0) -> np.ndarray:
        """Set `number` of `draws` draws for each of `fits`, `(fits, draws, dim)`."""
        keys = {int(fit): tuple(int(word) for word in self.raw_keys[fit]) for fit in fits}
        sets = {key: self._set(key, draws, number) for key in set(keys.values())}
        if len(sets) <= 1:
            shared = next(iter(sets.values()), np.zeros((draws, self.dim)))
            return np.broadcast_to(shared, (len(fits), draws, self.dim))
        return np.stack([sets[keys[int(fit)]] for fit in fits])

    def joined(self, fits: np.ndarray, draws: int) -> np.ndarray:
        """Sets 1 and 2 of half as many draws, as one; in one dimension, where they would be equal, a new one."""
        if self.dim == 1:
            return self(fits, draws)
        return np.concatenate([self(fits, draws // 2, 1), self(fits, draws // 2, 2)], axis=1)

    def _set(self, key: tuple[int, ...], draws: int, number: int) -> np.ndarray:
        # The purpose holds size and number: a set is the same whoever asks for it, and whenever.
        rng = host_generator(np.array(key, np.uint32), f"draws {draws} {number}")
        if self.kind == "auto" and draws >= 2 * self.dim:
            return whitened_draws(rng, draws, self.dim)
        return latin_hypercube(rng, draws, self.dim)
