"""Closed-form divergences against quadrature of the densities."""

from __future__ import annotations

import numpy as np
import pytest
from quick import jit

import vbppl.distributions as dist
from vbppl.distributions.kl import has_kl, kl_divergence

COVARIANCE = np.array([[2.0, 0.6], [0.6, 1.0]])
PAIRS = [
    (dist.Normal(2.0, 2.0), dist.Normal(-1.0, 1.0)),
    (dist.LogNormal(0.5, 0.7), dist.LogNormal(0.0, 1.0)),
    (dist.Gamma(2.5, 3.0), dist.Gamma(1.5, 0.7)),
    (dist.Beta(2.5, 0.7), dist.Beta(1.0, 2.0)),
    (dist.Dirichlet([2.0, 0.7, 1.5]), dist.Dirichlet([1.0, 1.0, 3.0])),
    (dist.MultivariateNormal([1.0, 0.0], COVARIANCE), dist.MultivariateNormal(0.0, np.diag([1.0, 3.0]))),
]


@jit
def both(q, p, z):
    """The closed form, and at `z` the parts of the integral of `q (log q - log p)`."""
    x, log_det = q.support.forward_and_log_det(z)
    return kl_divergence(q, p), q.log_prob(x), p.log_prob(x), log_det


@pytest.mark.parametrize("q, p", PAIRS, ids=lambda d: type(d).__name__)
def test_the_closed_form_is_the_integral(q, p, x64):
    dims = 2 if q.event_dim else 1
    axis = np.linspace(-30, 30, 201 if q.event_dim else 6001)
    z = np.stack(np.meshgrid(*[axis] * dims), -1).reshape(-1, dims) if q.event_dim else axis
    closed, log_q, log_p, log_det = map(np.asarray, both(q, p, z))
    integral = np.sum(np.exp(log_q + log_det) * (log_q - log_p)) * (axis[1] - axis[0]) ** dims
    assert has_kl(q, p)
    np.testing.assert_allclose(closed, integral, rtol=1e-5)


def test_two_normals_by_hand():
    np.testing.assert_allclose(kl_divergence(dist.Normal(2, 2), dist.Normal(-1, 1)), 5.306853, rtol=1e-6)


def test_wrappers_sum_the_event_and_keep_the_batch():
    q = dist.Normal(2.0, 2.0).expand((4, 3)).to_event(1)
    p = dist.Normal(np.full(3, -1.0), 1.0).to_event(1)
    np.testing.assert_allclose(kl_divergence(q, p), np.full(4, 3 * 5.306853), rtol=1e-6)


def test_a_point_pays_the_log_density_at_it():
    p = dist.Normal(np.zeros(3), 1.0).to_event(1)
    for q in (dist.Delta(np.ones(3), event_dim=1), dist.Delta(1.0).expand((3,)).to_event(1)):
        np.testing.assert_allclose(kl_divergence(q, p), -p.log_prob(np.ones(3)), rtol=1e-6)


def test_what_has_no_closed_form_says_so():
    q, p = dist.Normal(0.0, 1.0), dist.Cauchy(0.0, 1.0)
    assert not has_kl(q, p) and not has_kl(q.expand((3,)), q.expand((3,)).to_event(1))
    with pytest.raises(NotImplementedError, match="no closed form"):
        kl_divergence(q, p)
