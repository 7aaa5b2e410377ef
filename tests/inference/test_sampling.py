"""The frame in which chains move, against linear algebra; all that is drawn is tested through `vb.refine`."""

from __future__ import annotations

import numpy as np

from vbppl.inference.sampling import PRIOR, Frame


def normal(dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """A mean, the factor of a covariance whose sds differ a hundredfold, and a generator."""
    rng = np.random.default_rng(seed)
    factor = np.diag(np.logspace(-1, 1, dim)) @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return rng.normal(size=dim), np.linalg.cholesky(factor @ np.diag(np.linspace(1, 3, dim)) @ factor.T), rng


def test_a_frame_and_its_inverse_and_the_gradients_in_both():
    loc, factor, rng = normal(4)
    for frame in (Frame(loc, factor), Frame(loc, np.exp(loc))):
        e, slope = rng.normal(size=(2, 5, 4))
        matrix = factor if frame.factor.ndim == 2 else np.diag(frame.factor)
        np.testing.assert_allclose(frame.at(e), loc + e @ matrix.T)
        np.testing.assert_allclose(frame.residual(frame.at(e)), e, atol=1e-12)
        np.testing.assert_allclose(frame.slope(slope), slope @ matrix)
        np.testing.assert_allclose(frame.gradient(frame.slope(slope)), slope, atol=1e-12)


def test_a_few_draws_of_a_normal_with_their_gradients_give_its_covariance():
    dim, draws = 5, 4000  # so many that the draws which speak for the old frame do not count
    loc, factor, rng = normal(dim)
    frame = Frame(np.zeros(dim), np.eye(dim))
    few = loc + rng.normal(size=(draws, dim)) @ factor.T
    slope = -np.linalg.solve(factor @ factor.T, (few - loc).T).T
    found = frame.refined(few, slope).factor
    whitened = np.linalg.solve(factor, found)
    # Without the draws that count for the old frame this were exact; they pull by their share.
    np.testing.assert_allclose(whitened @ whitened.T, np.eye(dim), atol=300 * PRIOR / draws)
    # The covariance of the draws alone is off by chance, by so much:
    assert abs(np.linalg.svd(whitened)[1] - 1).max() < 0.1


def test_with_few_draws_only_the_scales_are_set_anew():
    loc, _, rng = normal(3)
    sd = np.array([0.01, 1.0, 100.0])
    frame = Frame(np.zeros(3), np.eye(3))
    z = loc + rng.normal(size=(11, 3)) * sd
    found = frame.refined(z, -(z - loc) / sd**2)
    assert np.count_nonzero(found.factor - np.diag(np.diagonal(found.factor))) == 0
    ratio = np.diagonal(found.factor) / sd
    assert ratio[1] == np.clip(ratio[1], 0.5, 2) and ratio[0] < 30 and ratio[2] > 1 / 30
    diagonal = Frame(np.zeros(3), np.ones(3)).refined(z, -(z - loc) / sd**2)
    np.testing.assert_allclose(diagonal.factor, np.diagonal(found.factor))
