"""An anchor takes noise out of the steps of a minibatch fit, and nothing else."""

from __future__ import annotations

import itertools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.inference.stochastic.control_variates import ControlVariate, anchor_at, can_anchor, no_anchor
from vbppl.inference.stochastic.minibatch import minibatches_of
from vbppl.inference.stochastic.objectives import ClosedForm, Inputs, StickingTheLanding
from vbppl.target.target import Target

X, Y = cases.logistic_data()
PHI = np.array([[0.9, 1.7, 2.2], [-1.5, -1.4, -1.3]])


def gradients(target, inner, state, sets, guide=MeanField(), phi=PHI):  # noqa: B008 -- a frozen pytree
    """Bounds and their gradients in phi at sets of rows, on the same noise: `(sets,)` and `(sets, *phi.shape)`."""
    noise = np.random.default_rng(0).standard_normal((4, target.dim))
    objective = ControlVariate(inner)

    def bound(phi, rows):
        showing = target.replace(rows={"row": rows})
        return objective(guide, Inputs(phi, showing, noise, 0, state))[0]

    return jax.jit(jax.vmap(jax.value_and_grad(bound), (None, 0)))(phi, sets)


@pytest.mark.parametrize("inner", [ClosedForm(), StickingTheLanding()], ids=lambda i: type(i).__name__)
def test_over_all_sets_of_rows_the_bound_and_its_gradient_are_those_of_all_rows(inner, x64):
    """Wherever the anchor is; the reference is the same objective without one, at all rows."""
    target = Target.of(cases.logistic_regression(X[:8], Y[:8]))
    state = anchor_at(MeanField(), PHI + 1.0, target)
    values, slopes = gradients(target, inner, state, np.array(list(itertools.combinations(range(8), 3))))
    full, full_slope = gradients(target, inner, no_anchor(3), np.arange(8)[None])
    assert values.mean() == pytest.approx(float(full[0]), rel=1e-10)
    np.testing.assert_allclose(slopes.mean(0), full_slope[0], rtol=1e-9, atol=1e-9)
    assert values.std() > 0.01


def test_near_the_anchor_a_batch_is_much_less_noisy(x64):
    target = Target.of(cases.logistic_regression(X, Y))
    sets = np.stack([np.random.default_rng(i).choice(200, 20, replace=False) for i in range(200)])
    state = anchor_at(MeanField(), PHI + 0.02, target)
    noisy, quiet = (gradients(target, ClosedForm(), s, sets)[1].std(0)[0] for s in (no_anchor(3), state))
    assert np.all(quiet < noisy / 4), noisy / quiet


def test_for_a_density_without_curvature_no_noise_is_left(x64):
    @vb.model
    def linear(y):
        beta = vb.sample("beta", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.factor("tilt", beta * vb.subsample(y))

    target = Target.of(linear(np.linspace(-1.0, 2.0, 10)))
    phi, sets = np.array([[0.3], [-1.0]]), np.array([[0, 1], [4, 9], [7, 2]])
    values, slopes = gradients(target, ClosedForm(), anchor_at(MeanField(), phi + 5, target), sets, phi=phi)
    np.testing.assert_allclose(values, values[0], rtol=1e-12)
    np.testing.assert_allclose(slopes, slopes[:1].repeat(3, 0), rtol=1e-12)


def test_a_place_without_a_finite_density_is_no_anchor():
    @vb.model
    def rooted(y):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.factor("root", jnp.log(x) * vb.subsample(y))

    target = Target.of(rooted(np.ones(4)))
    places = (np.array([[x], [0.0], [0.0]], np.float32) for x in (1.0, -1.0))
    good, bad = (anchor_at(FullRank(), phi, target) for phi in places)
    assert (good["share"], bad["share"]) == (1.0, 0.0)


def test_what_gains_nothing_is_not_anchored():
    @vb.model
    def local(y):
        with vb.plate("row", len(y)):
            z = vb.sample("z", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(z, 1.0), obs=vb.subsample(y))

    @vb.model
    def learnt(y):
        z, sd = vb.sample("z", dist.Normal(0.0, 1.0)), vb.param("sd", 1.0, dist.constraints.positive)
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(z, sd), obs=vb.subsample(y))

    for model, batch_size, expected in [
        (local(np.ones(9)), 3, False),
        (learnt(np.ones(9)), 3, False),
        (cases.logistic_regression(X, Y), None, False),
        (cases.logistic_regression(X, Y), 20, True),
    ]:
        target = Target.of(model)
        assert can_anchor(target, MeanField(), minibatches_of(target, batch_size)) is expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_a_fit_of_so_many_steps_renews_its_anchor_within_them():
    """Of 50,000 rows in batches of 256: without an anchor the means are .25 sd off; the reference is of all rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50_000, 5)).astype(np.float32)
    y = rng.random(50_000) < 1 / (1 + np.exp(-x @ np.array([1.0, -1.0, 0.5, 0.0, 2.0])))
    model = cases.logistic_regression(x, y.astype(np.int32))
    loc, sd = cases.flat_moments(vb.fit(model, "mean_field"))
    found = vb.fit(model, "mean_field", batch_size=256, method=vb.Stochastic(steps=4000, draws=4))
    assert np.abs((cases.flat_moments(found)[0] - loc) / sd).max() < 0.06
