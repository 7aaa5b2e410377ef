"""The whole contract of a guide and of a layer: whatever is added to these lists is held to it.

The two toys show what a family of one's own takes.
"""

from __future__ import annotations

import math
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree
from vbppl.guides.base import Guide, Start, in_dtype_of
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.layers.affine import Affine
from vbppl.guides.layers.base import Layer, Layered
from vbppl.guides.layers.conditional import Conditional
from vbppl.guides.layers.flow import Flow
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.guides.layers.sinh_arcsinh import SinhArcsinh
from vbppl.guides.layers.yeo_johnson import YeoJohnson
from vbppl.guides.low_rank import LowRank
from vbppl.guides.mixture import Mixture
from vbppl.guides.point import MAP
from vbppl.guides.program import ProgramGuide
from vbppl.guides.structured import Structured
from vbppl.inference import bound
from vbppl.target.pullback import Pullback
from vbppl.target.target import Target, density

quiet = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@pytree
class SkewedNormals(Guide):
    """Independent `loc + sd sinh(arcsinh(noise) + skew)`; `phi` is `(3, dim)`: `loc`, `log sd`, `skew`."""

    def init(self, target, start):
        return np.stack([start.loc, np.full_like(start.loc, -2.0), np.zeros_like(start.loc)])

    def transform(self, phi, noise):
        return phi[0] + jnp.exp(phi[1]) * jnp.sinh(jnp.arcsinh(noise) + phi[2])

    def log_prob(self, phi, z, target):
        y = (z - phi[0]) * jnp.exp(-phi[1])
        noise = jnp.sinh(jnp.arcsinh(y) - phi[2])
        normal = -(noise**2 + math.log(2 * math.pi)) / 2
        return jnp.sum(normal - phi[1] + (jnp.log1p(noise**2) - jnp.log1p(y**2)) / 2, axis=-1)


@pytree
class Bent(Layer):
    """`z = e - k (sqrt(1 + e^2) - 1)`: both tails bend down; `psi`, `(dim,)`, is `arctanh k`."""

    def init(self, target, start):
        return np.full_like(start.loc, 0.01)

    def forward_and_log_det(self, psi, e, target):
        k, root = jnp.tanh(psi), jnp.sqrt(1 + e**2)
        return e - k * (root - 1), jnp.sum(jnp.log1p(-k * e / root))

    def inverse_and_log_det(self, psi, z, target):
        k = jnp.tanh(psi)
        e = (z - k + k * jnp.sqrt((z - k) ** 2 + 1 - k**2)) / (1 - k**2)
        return e, -self.forward_and_log_det(psi, e, target)[1]


@pytree
class Coupling:
    """A bijection of FlowJAX's protocol: the last two of four numbers scaled and moved by what the first two say."""

    weights: Any
    shape, cond_shape = (4,), None

    def _moved_by(self, half):
        return jnp.split(self.weights @ jnp.tanh(half), 2)

    def transform_and_log_det(self, e):
        log_scale, more = self._moved_by(e[:2])
        return jnp.concatenate([e[:2], e[2:] * jnp.exp(log_scale) + more]), jnp.sum(log_scale)

    def inverse_and_log_det(self, v):
        log_scale, more = self._moved_by(v[:2])
        return jnp.concatenate([v[:2], (v[2:] - more) * jnp.exp(-log_scale)]), -jnp.sum(log_scale)


FLOW = Flow(Coupling(np.array([[0.3, 0.1], [-0.2, 0.4], [0.5, -0.6], [0.2, 0.3]])))
STRUCTURED = (Conditional((1, 0), (0, 3)), Affine((1, 0, 3, 2)), SinhArcsinh((1, 0, 3)))
NESTED = (Conditional((0,), ()), Affine((0,)), SinhArcsinh((0,)), NewtonStep((0,), ((1,), (2, 3))))
LAYERS = {
    "sinh_arcsinh": SinhArcsinh(),
    "sinh_arcsinh_of_some": STRUCTURED[2],
    "affine": STRUCTURED[1],
    "conditional": STRUCTURED[0],
    "newton_step": NESTED[3],
    "yeo_johnson": YeoJohnson(),
    "bent": Bent(),
    "bijection": FLOW.layers[0],
}
Y = np.array([0.5, -1.0, 2.0])


@vb.model
def groups(y):
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    with vb.plate("row", len(y)):
        theta = vb.sample("theta", dist.Normal(mu, 0.7))
        vb.sample("y", dist.Normal(theta, 0.8), obs=vb.subsample(y))


def encode(net, y):
    return net["slope"] * y, jnp.exp(net["log_sd"]) * jnp.ones_like(y)


@vb.guide
def by_hand(y):
    mu = vb.sample("mu", dist.Normal(vb.param("loc", 0.1), 0.6))
    with vb.plate("row", len(y)):
        vb.sample("theta", dist.Normal(0.5 * mu + 0.4 * vb.subsample(y), 0.6))


GUIDES = {
    "mean_field": MeanField(),
    "full_rank": FullRank(),
    "low_rank": LowRank(2),
    "mixture": Mixture(),
    "mixture_of_two": Mixture(2),
    "structured": Structured("row"),
    "amortized": vb.Amortized("theta", encode, reads="y", params={"slope": 0.4, "log_sd": -0.5}),
    "program": ProgramGuide(by_hand(Y)),
    "skewed_normals": SkewedNormals(),
    "copula": vb.guides.Copula(),
    "copula_mean_field": vb.guides.Copula(MeanField()),
    "layered_mean_field": Layered.of(MeanField(), SinhArcsinh(), Bent()),
    "layered_full_rank": Layered.of(FullRank(), SinhArcsinh()),
    "conditionally_structured": vb.guides.ConditionallyStructured(layers=STRUCTURED),
    "conditional_laplace": vb.guides.ConditionalLaplace(layers=NESTED),
    "flow": FLOW,
}


def correlated(z):
    """A bare density: a normal that leans, with a heavier tail."""
    return -jnp.sum(jnp.log1p((z - 0.3 * jnp.roll(z, 1)) ** 2))


OF_ROWS = {"structured", "amortized", "program"}
# What others in the list have too: a base that is bent on the device (the flow), or on the host (the copulas).
LONG = {"layered_mean_field", "layered_full_rank", "copula_mean_field", "flow_of_flowjax"}
# One of each kind that meets a bare density in the fast suite: guides know of a target what the protocol says.
BARE = {"full_rank", "mixture", "copula", "conditionally_structured"}
NAMES = [*GUIDES, "flow_of_flowjax"]
PAIRS = [(name, "model", name in LONG) for name in NAMES]
PAIRS += [(name, "bare density", name not in BARE) for name in NAMES if name not in OF_ROWS]
PAIRS = [pytest.param((name, kind), marks=[pytest.mark.slow] * long, id=f"{name}-{kind}") for name, kind, long in PAIRS]


@pytest.fixture(params=PAIRS)
def fitted(request):
    """A guide with parameters that are no optimum, and a target."""
    name, kind = request.param
    guide = GUIDES[name] if name in GUIDES else cases.flow_of_flowjax(4)
    target = Target.of(groups(Y)) if kind == "model" else density(correlated, 4)
    start = Start(np.array([0.2, 0.4, -0.3, 0.8], jnp.result_type(float)), np.log([0.5, 0.6, 0.7, 0.8]))
    phi, rng = guide.init(target, start), np.random.default_rng(0)
    phi = jax.tree.map(lambda leaf: np.asarray(leaf + 0.2 * rng.standard_normal(np.shape(leaf)), leaf.dtype), phi)
    return guide, phi, target


def drawn(guide, phi, target, draws=5):
    """Some draws on the host, from the guide's own noise."""
    noise = guide.noise(target).independent(np.random.default_rng(1), draws)
    return guide.draw(phi, in_dtype_of(phi, noise), target)


def test_weights_sum_to_one_and_shapes_are_those_of_the_protocol(fitted, x64):
    guide, phi, target = fitted
    found = drawn(guide, phi, target)
    assert np.shape(found.z) == (len(found.log_weight), target.dim)
    assert np.shape(found.log_q) == np.shape(found.log_weight)
    assert np.exp(np.asarray(found.log_weight)).sum() == pytest.approx(1.0, rel=1e-6)


def test_the_density_of_draws_is_log_prob_and_of_the_points_alone(fitted, x64):
    guide, phi, target = fitted
    found = drawn(guide, phi, target)
    np.testing.assert_allclose(guide.log_prob(phi, np.asarray(found.z), target), found.log_q, rtol=1e-6, atol=1e-6)


def test_the_density_integrates_to_one(fitted, x64):
    """Importance sampling from a wide Student t of each coordinate; four and a half standard errors."""
    guide, phi, target = fitted
    loc, sd = (np.asarray(part, float) for part in guide.frame(phi, target))
    t = np.random.default_rng(2).standard_t(5, (40_000, target.dim))
    log_t = np.sum(stats.t(5, scale=1).logpdf(t) - np.log(1.5 * sd), axis=1)
    weights = np.exp(np.asarray(guide.log_prob(phi, jnp.asarray(loc + 1.5 * sd * t), target), float) - log_t)
    assert abs(weights.mean() - 1) < 4.5 * weights.std() / 200


def test_the_frame_is_mean_and_sd_of_independent_draws(fitted, x64):
    guide, phi, target = fitted
    loc, sd = guide.frame(phi, target)
    z = bound.weighed_draws(guide, phi, target, np.random.default_rng(3), 20_000).z
    assert np.abs((z.mean(axis=0) - loc) / sd).max() < 0.1
    assert np.abs(np.log(z.std(axis=0) / sd)).max() < 0.15


def test_the_bound_in_a_program_on_the_host_and_by_weights_is_one(fitted, x64):
    guide, phi, target = fitted
    rng = np.random.default_rng(4)
    weighed = bound.weighed_draws(guide, phi, target, rng, 20_000).log_weights
    fresh = np.array([bound.fresh_bound(guide, phi, target, rng, 256).mean() for _ in range(8)])
    noise = guide.noise(target).stratified(rng, 2000)(jax.random.key(0))
    inside = np.asarray(jax.jit(guide.bound)(phi, noise, target))
    error = 4.5 * np.hypot(weighed.std() / np.sqrt(20_000), fresh.std() / np.sqrt(7)) + 1e-9
    assert abs(fresh.mean() - weighed.mean()) < error
    assert abs(inside.mean() - weighed.mean()) < error + 4.5 * inside.std() / np.sqrt(len(inside))


@pytest.mark.slow
def test_gradients_flow_and_steps_have_the_shape_of_the_parameters(fitted):
    guide, phi, target = fitted
    noise = guide.noise(target).stratified(np.random.default_rng(5), 4)(jax.random.key(0))
    slope = jax.grad(lambda phi: jnp.mean(guide.bound(phi, noise, target)))(jax.tree.map(jnp.asarray, phi))
    scale = guide.step_scale(phi, jnp.asarray(1.0), jnp.asarray(0.5))
    for leaf, unit, move in zip(*map(jax.tree.leaves, (phi, scale, slope)), strict=True):
        assert np.broadcast_shapes(np.shape(unit), np.shape(leaf)) == np.shape(leaf)
        assert np.isfinite(move).all() and np.all(np.asarray(unit) > 0)
    values, units = guide.monitored(phi)
    assert values.shape == units.shape and np.all(np.asarray(units) > 0)


def test_values_on_the_supports_have_the_density_of_the_points(fitted, x64):
    guide, phi, target = fitted
    values = bound.sample(guide, phi, target, np.random.default_rng(6), 5)
    assert list(values) == list(target.layout.reported)
    z = target.unconstrain(values)
    expected = np.asarray(guide.log_prob(phi, z, target)) - np.asarray(target.log_det(values))
    np.testing.assert_allclose(bound.log_prob_of_values(guide, phi, target, values), expected, rtol=1e-6)


def test_a_point_draws_itself_and_says_that_it_has_no_density():
    target, guide = Target.of(groups(Y)), MAP("unconstrained")
    phi = guide.init(target, Start(np.zeros(4, np.float32)))
    values = bound.sample(guide, phi, target, np.random.default_rng(0), 3)
    np.testing.assert_array_equal(values["mu"], np.full(3, phi[0]))
    assert bound.elbo(guide, phi, target, np.zeros(2, np.uint32)).se == 0
    with pytest.raises(TypeError, match="a point and has no density"):
        bound.log_prob_of_values(guide, phi, target, values)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_bijection_whose_log_det_is_that_of_its_jacobian(name, x64):
    layer, target, rng = LAYERS[name], Target.of(groups(Y)), np.random.default_rng(0)
    psi = layer.init(target, Start(np.array([0.2, 0.4, -0.3, 0.8])))
    psi = jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(np.shape(leaf)), psi)
    e = jnp.asarray(rng.standard_normal(4))

    @jit
    def there_and_back(psi, e, target):
        z, log_det = layer.forward_and_log_det(psi, e, target)
        jacobian = jax.jacobian(lambda e: layer.forward_and_log_det(psi, e, target)[0])(e)
        return log_det, jacobian, *layer.inverse_and_log_det(psi, z, target)

    log_det, jacobian, back, back_det = there_and_back(psi, e, target)
    assert float(log_det) == pytest.approx(np.linalg.slogdet(jacobian)[1], rel=1e-9)
    np.testing.assert_allclose(back, e, rtol=1e-9, atol=1e-12)
    assert float(back_det) == pytest.approx(-float(log_det), rel=1e-9)


def test_a_guide_through_a_layer_and_the_target_through_it_have_one_bound(x64):
    target, layer, base = Target.of(groups(Y)), SinhArcsinh(), FullRank()
    start, rng = Start(np.array([0.2, 0.4, -0.3, 0.8])), np.random.default_rng(0)
    guide = Layered.of(base, layer)
    phi = jax.tree.map(lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape), guide.init(target, start))
    through = Pullback(target, layer, phi["layers"][0])
    for seed in range(2):
        one = bound.weighed_draws(guide, phi, target, np.random.default_rng(seed), 50)
        other = bound.weighed_draws(base, phi["base"], through, np.random.default_rng(seed), 50)
        np.testing.assert_allclose(one.log_weights, other.log_weights, rtol=1e-9, atol=1e-9)
        raw = np.array([0, seed], np.uint32)
        assert bound.elbo(guide, phi, target, raw).value == pytest.approx(
            bound.elbo(base, phi["base"], through, raw).value, abs=1e-9
        )


@vb.model
def skewed():
    """A log-gamma, whose skewness a normal lacks; the evidence is 1."""
    x = vb.sample("x", dist.Normal(0.0, 1e3))
    vb.factor("density", 2 * x - jnp.exp(x) + math.log(1e3) + (x / 1e3) ** 2 / 2 + math.log(2 * math.pi) / 2)
    vb.deterministic("y", jnp.exp(x))


@quiet
@pytest.mark.parametrize("guide", [SkewedNormals(), Layered.of(MeanField(), Bent())], ids=["guide", "layer"])
def test_a_toy_is_fitted_judged_and_predicted_with_like_the_others(guide):
    normal = vb.fit(skewed(), "mean_field")
    posterior = vb.fit(skewed(), guide)
    assert posterior.status.converged, posterior.status
    assert normal.elbo.value + 0.02 < posterior.elbo.value < 0.002  # Gamma(2) is 1
    assert posterior.check().verdict == "good"
    assert posterior.predict(n=7)["y"].shape == (7,)
    assert posterior.mean()["x"] == pytest.approx(0.4228, abs=0.05)  # the digamma function at 2
    draws = posterior.sample(5)
    assert np.asarray(posterior.log_prob(draws)).shape == (5,)
