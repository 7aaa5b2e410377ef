"""The deterministic fit ends where no nats are left, asks for more draws while they matter, and says why it ended."""

from __future__ import annotations

import math
import re
import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import vbppl as vb
import vbppl.distributions as dist
from vbppl.inference.deterministic import restarts

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

LOGISTIC = cases.logistic_regression(*cases.logistic_data())
POISSON = cases.poisson_regression(np.linspace(-1, 1, 40), cases.COUNTS)


@vb.model
def skewed(shape):
    """The log of a gamma variable, correlated with a normal."""
    u = vb.sample("u", dist.Normal(0.0, 10.0))
    v = vb.sample("v", dist.Normal(u, 1.0))
    vb.factor("gamma", shape * v - jnp.exp(v) + u**2 / 200)


@vb.model
def flat(dim):
    vb.sample("x", dist.Normal(jnp.zeros(dim), 1.0).to_event(1))


def test_full_rank_on_fewer_than_two_draws_a_dimension_is_refused_with_the_reason():
    with pytest.raises(vb.ModelError) as error:
        vb.fit(flat(5), "full_rank", method=vb.Deterministic(draws=8))
    assert str(error.value) == (
        "a full-rank guide of 5 dimensions cannot be fitted on 8 fixed draws: with fewer draws than dimensions the "
        "bound has no maximum, and below 10 no exact moments.\n"
        "  To mend it: Give at least 10 draws, or leave draws=None."
    )


def test_full_rank_in_more_dimensions_than_fit_in_memory_is_refused_before_anything_is_computed(compilations):
    before = compilations()
    with pytest.raises(vb.ModelError) as error:
        vb.fit(vb.density(lambda z: -jnp.sum(z**2), 10**6), "full_rank")
    assert re.fullmatch(
        r"a full-rank guide of 1,000,000 dimensions takes about 192,000 GB while it is fitted, and there are [\d,]+.\n"
        r"  To mend it: Fit guide='low_rank' or guide='mean_field'.",
        str(error.value),
    )
    assert compilations() == before


def test_full_rank_on_two_draws_a_dimension_is_exact_for_a_gaussian():
    posterior = vb.fit(cases.correlated_pair(), "full_rank", method=vb.Deterministic(draws=4))
    assert posterior.status.converged
    np.testing.assert_allclose(posterior.covariance("z"), [[1.0, 0.9], [0.9, 1.0]], atol=1e-4)


@pytest.mark.parametrize("draws", [0, 1, 7, -2])
def test_an_odd_or_small_number_of_draws_is_refused(draws):
    message = f"draws come in antithetic pairs: an even number from 2 on, not {draws}."
    with pytest.raises(ValueError) as error:
        vb.Deterministic(draws=draws)
    assert str(error.value) == message


def test_the_draws_asked_for_are_the_draws_used():
    posterior = vb.fit(LOGISTIC, method=vb.Deterministic(draws=16))
    assert "; 16 fixed draws (" in posterior.status.text


def test_draws_grow_while_they_matter_and_not_where_they_do_not():
    exact, rough = vb.fit(cases.normal_normal(cases.PAIRS)), vb.fit(cases.funnel(), "mean_field")
    assert "; 32 fixed draws" in exact.status.text
    assert "; 2048 fixed draws" in rough.status.text


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_more_draws_bring_the_answer_nearer_to_that_of_very_many(guide):
    loc, sd = cases.flat_moments(vb.fit(skewed(1.5), guide, method=vb.Deterministic(draws=2048)))

    def error(draws, seed):
        """The worst mean, in sds, or log sd."""
        fitted = cases.flat_moments(vb.fit(skewed(1.5), guide, seed=seed, method=vb.Deterministic(draws=draws)))
        return max(np.abs((fitted[0] - loc) / sd).max(), np.abs(np.log(fitted[1] / sd)).max())

    errors = [np.mean([error(draws, seed) for seed in range(4)]) for draws in (16, 256)]
    assert errors[1] < errors[0] / 2


def test_four_draws_a_dimension_are_too_few_and_told_so_and_the_usual_number_is_not():
    """Logs of Gamma(1/2) variables, 44 of them: their best normal is a product, whose bound is a formula.

    On four draws a dimension the bound that is climbed lies a nat above it, where no normal's does, and that of what
    was found a nat below.
    """
    target = vb.density(lambda z: jnp.sum(0.5 * z - jnp.exp(z)), 44)

    def negated(at):
        return np.exp(at[0] + np.exp(2 * at[1]) / 2) - 0.5 * at[0] - at[1] - np.log(2 * np.pi * np.e) / 2

    best = -44 * optimize.minimize(negated, [0.0, 0.0]).fun
    few, usual = (vb.fit(target, "full_rank", method=method) for method in (vb.Deterministic(draws=4 * 44), "auto"))
    assert few.history[-1] > best + 0.7 and few.elbo.value + 3 * few.elbo.se < best - 0.5
    assert few.check().reasons[0].startswith("another set of fixed draws would move the answer by")
    assert abs(usual.elbo.value - best) < 0.2 + 3 * usual.elbo.se
    assert "another set of fixed draws" not in " ".join(usual.check().reasons)


def test_the_reported_draw_noise_is_the_scatter_over_seeds():
    """Within a factor of 3: a root mean square over 4 sets, of the worst of the coordinates."""
    ends = [vb.fit(POISSON, "mean_field", seed=seed) for seed in range(12)]
    moments = np.array([np.concatenate([p.phi[0] / np.exp(ends[0].phi[1]), p.phi[1]]) for p in ends])
    scatter = moments.std(axis=0).max()
    told = np.median([p.status.draw_noise for p in ends])
    assert scatter / 3 < told < 3 * np.sqrt(2) * scatter


def test_what_all_sets_of_one_size_have_in_common_shows_too():
    """In one dimension the draws are the quantiles, for every seed; the log of a gamma has a known best Gaussian."""

    @vb.model
    def steep():
        vb.sample("x", dist.Gamma(0.3, 1.0))

    posterior = vb.fit(steep(), "mean_field")
    error = abs(posterior.phi[0, 0] - (np.log(0.3) - 0.5 / 0.3)) * np.sqrt(0.3)
    assert posterior.status.draw_noise > error / 6 > 1e-3
    exact = 0.3 * (np.log(0.3) - 0.5 / 0.3) - 0.3 - math.lgamma(0.3) + 0.5 * (1 + np.log(2 * np.pi / 0.3))
    assert posterior.elbo.value == pytest.approx(exact, abs=4 * posterior.elbo.se)


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_the_bound_of_the_last_step_is_the_elbo_up_to_the_draws(guide):
    posterior = vb.fit(LOGISTIC, guide)
    assert posterior.history[-1] == pytest.approx(posterior.elbo.value, abs=0.05)
    assert len(posterior.history) == posterior.status.steps


def test_a_gradient_is_counted_for_each_draw():
    posterior = vb.fit(flat(3), "mean_field", start={"x": np.zeros(3)})
    assert posterior.status.gradients % 32 == 0
    assert posterior.status.gradients >= 32 * posterior.status.steps


def test_scales_a_million_apart_cost_no_more_than_equal_ones():
    @vb.model
    def scaled(scales):
        vb.sample("x", dist.Normal(scales, scales).to_event(1))

    equal, apart = vb.fit(scaled(jnp.ones(5))), vb.fit(scaled(jnp.logspace(-3, 3, 5)))
    np.testing.assert_allclose(cases.flat_moments(apart)[1], np.logspace(-3, 3, 5), rtol=1e-3)
    np.testing.assert_allclose(cases.flat_moments(apart)[0], np.logspace(-3, 3, 5), rtol=1e-3)
    # A start is at most 2 from the origin: the widest coordinate grows e^2 a step, from 0.1 to 1000.
    assert apart.status.steps < 6 * equal.status.steps


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_density_that_is_minus_infinity_in_half_the_space_ends_and_is_not_called_converged(guide):
    @vb.model
    def half():
        x = vb.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        vb.factor("half", jnp.where(x.sum() > 0, 0.0, -jnp.inf))

    posterior = vb.fit(half(), guide)
    assert not posterior.status.converged
    assert posterior.check().verdict == "poor"


@pytest.mark.parametrize("guide", ["full_rank", pytest.param("mean_field", marks=pytest.mark.slow)])
def test_an_improper_posterior_ends_and_is_refused_by_its_site(guide):
    @vb.model
    def improper():
        vb.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        vb.sample("y", dist.Normal(0.0, 1.0))

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(vb.ModelError, match="site 'x': nothing in the model says where x lies"):
            vb.fit(improper(), guide)
        with pytest.raises(vb.ModelError, match="site 'x': nothing in the model says where x lies.*\n  data set: 0"):
            vb.fit_many([improper()], guide=guide)


@pytest.mark.parametrize(
    "log_density", [lambda z: -jnp.exp(z).sum(), lambda z: -0.5 * z.sum() ** 2], ids=["exponential", "ridge"]
)
@pytest.mark.slow
def test_a_density_without_a_total_mass_ends_and_is_poor(log_density):
    with pytest.warns(UserWarning, match="is poor|not converged"):
        assert vb.fit(vb.density(log_density, 3)).check().verdict == "poor"


def test_a_density_that_leaves_a_coordinate_free_is_refused_by_its_site():
    with pytest.raises(vb.ModelError, match=r"site 'z': nothing in the model says where z\[2\] lies"):
        vb.fit(vb.density(lambda z: 2 * z[0] - 0.5 * z[1] ** 2, 3))


def test_a_density_that_its_gaussian_cannot_bound_ends_and_is_poor():
    @vb.model
    def unbounded():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.factor("steeper", x**2)

    posterior = vb.fit(unbounded())
    assert not posterior.status.converged
    assert posterior.check().verdict == "poor"


def test_a_flat_prior_with_data_is_a_proper_posterior():
    y = np.array([1.0, 2.0, 4.5])

    @vb.model
    def located(y):
        x = vb.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(x, 1.0), obs=y)

    posterior = vb.fit(located(y))
    assert posterior.check().verdict == "good"
    assert posterior.mean()["x"] == pytest.approx(2.5, abs=1e-4)
    assert posterior.sd()["x"] == pytest.approx(3**-0.5, rel=1e-3)


def test_forty_dimensions_are_fitted_by_full_rank_exactly():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(40, 40)) / 6
    covariance = (root @ root.T + 0.1 * np.eye(40)).astype(np.float32)

    @vb.model
    def wide(covariance):
        vb.sample("z", dist.MultivariateNormal(jnp.zeros(40), covariance))

    posterior = vb.fit(wide(covariance), "full_rank")
    assert posterior.status.converged
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(posterior.covariance("z") / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=2e-3)


def test_an_interrupt_gives_the_state_reached_and_says_so():
    def stop_at(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    posterior = vb.fit(LOGISTIC, callback=stop_at)
    assert posterior.status.reason == "interrupted" and not posterior.status.converged
    assert posterior.status.steps == 5
    assert posterior.check().verdict == "poor"


def test_the_answer_does_not_depend_on_a_sites_order():
    @vb.model
    def swapped(x, y):
        b = vb.sample("b", dist.Normal(0.0, 1.0))
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)

    one, other = vb.fit(POISSON), vb.fit(swapped(np.linspace(-1, 1, 40), cases.COUNTS))
    for name in ("a", "b"):
        assert one.mean()[name] == pytest.approx(float(other.mean()[name]), abs=0.01 * float(one.sd()[name]))


@pytest.mark.slow
def test_three_hundred_dimensions_take_seconds():
    posterior = vb.fit(flat(300), "full_rank")
    assert posterior.check().verdict == "good"
    assert posterior.status.gradients < 60_000


def test_double_precision_follows_the_flag():
    assert vb.fit(LOGISTIC).phi.dtype == np.float32
    with jax.enable_x64(True):
        assert vb.fit(LOGISTIC).phi.dtype == np.float64


@vb.model
def gammas(shape, dim):
    """The logs of independent gamma variables."""
    v = vb.sample("v", dist.ImproperUniform(dist.constraints.real, (), (dim,)))
    vb.factor("gamma", jnp.sum(shape * v - jnp.exp(v)))


def test_equal_independent_coordinates_are_fitted_alike_in_many_dims():
    """By mean field `sd = 1 / sqrt(shape)` and `loc + sd^2 / 2 = log shape`; whitened draws tell coordinates apart."""
    loc, log_sd = vb.fit(gammas(4.0, 80), "mean_field", method=vb.Deterministic(draws=512)).phi
    assert np.ptp(loc) < 1e-3 and np.ptp(log_sd) < 1e-3
    np.testing.assert_allclose(np.exp(log_sd), 0.5, rtol=0.01)
    np.testing.assert_allclose(loc + 1 / 8, np.log(4.0), atol=0.01)


def test_in_very_many_dims_there_is_one_start_and_it_is_said(monkeypatch):
    monkeypatch.setattr(restarts, "ONE_START_DIM", 20)
    posterior = vb.fit(flat(30), "mean_field")
    assert "more than 20 dims get one start" in str(posterior.check().details)
    np.testing.assert_allclose(posterior.phi, 0.0, atol=1e-3)


@pytest.mark.slow
def test_mean_field_takes_memory_for_its_dims_only():
    """A square matrix of 20,000 dims would be 3.2 GB."""
    import tracemalloc

    @vb.model
    def wide(y):
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=y)

    y = np.linspace(-2, 2, 20_000)
    tracemalloc.start()
    phi = vb.fit(wide(y), "mean_field").phi
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(phi[0], y / 2, atol=0.01)
    np.testing.assert_allclose(np.exp(phi[1]), 0.5**0.5, rtol=0.01)
    assert peak < 1.6e9
