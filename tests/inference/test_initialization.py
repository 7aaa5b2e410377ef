"""A start has a finite density and gradient, lies in the body of the density, and several lie apart."""

from __future__ import annotations

import cases
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.inference.initialization import starts_of


def starts(model, count=1, seed=0):
    return starts_of(vb.target(model), np.random.default_rng(seed), count)


@vb.model
def island(radius):
    """The density is zero outside a small disc around (1.5, -1.5)."""
    z = vb.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    away = ((z - jnp.array([1.5, -1.5])) ** 2).sum()
    vb.factor("inside", jnp.where(away < radius**2, 0.0, -jnp.inf))


@vb.model
def overflowing():
    """Its gradient is not a number further than 1 from the origin: `exp` of the square overflows."""
    z = vb.sample("z", dist.Normal(0.0, 1.0))
    vb.factor("steep", -jnp.exp(85.0 * z**2) * 1e-30)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", [island(1.0), overflowing(), cases.funnel(), cases.far_datum(np.array(1e4))])
def test_a_start_is_finite_where_much_of_the_box_is_not(model, seed):
    target = vb.target(model)
    (z,) = starts(model, seed=seed)
    assert np.isfinite(target.log_density(z))


def test_a_start_has_climbed():
    target = vb.target(cases.far_datum(np.array(10.0)))
    (z,) = starts(cases.far_datum(np.array(10.0)))
    assert target.log_density(z) > target.log_density(np.array([2.0]))  # the best corner of the box


def test_the_first_start_is_the_highest_and_there_are_as_many_as_asked_for():
    target = vb.target(cases.funnel())
    heights = [float(target.log_density(z)) for z in starts(cases.funnel(), count=4)]
    assert len(heights) == 4
    assert heights[0] == max(heights)


@vb.model
def lower_mode():
    """A mode of 0.4 and one of 0.6 of the mass: fewer than half of the candidates may climb to the lower."""
    modes = dist.Normal(jnp.array([-4.0, 4.0]), 1.0)
    x = vb.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.4, 0.6])), modes))
    vb.sample("y", dist.Normal(x / 4, 1.0))


@pytest.mark.parametrize("seed", range(8))
def test_a_lower_mode_gets_a_start_too(seed):
    signs = {float(np.sign(z[0])) for z in starts(lower_mode(), count=3, seed=seed)}
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize("seed", range(8))
def test_several_starts_lie_on_both_sides_of_a_valley(seed):
    signs = {float(np.sign(z[0])) for z in starts(cases.two_far_modes(), count=3, seed=seed)}
    assert signs == {-1.0, 1.0}


def test_the_same_generator_gives_the_same_starts_and_another_seed_others():
    first, again, other = (starts(cases.funnel(), 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_model_without_a_finite_density_names_the_site_and_the_mend():
    @vb.model
    def hopeless():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        with vb.plate("row", 2):
            vb.sample("y", dist.Normal(x, 1.0), obs=np.array([1.0, np.nan]))

    with pytest.raises(vb.ModelError) as error:
        starts(hopeless())
    first, *_, mend = str(error.value).splitlines()
    assert first == "site 'y': the log density is not finite at any of 32 starting points."
    assert mend == (
        "  To mend it: Look for NaN or values outside the support in the data of this site, or give start={...}."
    )


def test_an_impossible_observation_is_told_by_the_site_that_holds_it():
    @vb.model
    def outside():
        rate = vb.sample("rate", dist.Gamma(1.0, 1.0))
        vb.sample("wait", dist.Exponential(rate), obs=-3.0)

    with pytest.raises(vb.ModelError, match="^site 'wait': the log density is not finite"):
        starts(outside())
