"""Random models against a walk in NumPy, number by number: densities, supports, coordinates, prior draws, fits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from random_models import Spec, Walk, program, specs

import vbppl as vb

# Examples are the same in each run, so that what fails can be run again; the parts differ by their seeds. To shrink a
# model would take minutes of compiling.
HOW = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


def density_and_coordinates(spec: Spec) -> None:
    """A model's density at a random point is that of the walk; there and back is the same point."""
    data = spec.data()
    target = vb.target(program(spec, data))
    z = np.random.default_rng(spec.seed).normal(size=target.dim)
    values = target.constrain(z)
    latent = {slot.name: values[slot.name] for slot in target.layout.slots}
    expected = Walk(spec, data, latent).log_joint()
    # Float64: a few hundred roundings of numbers of the order of the sum.
    np.testing.assert_allclose(target.log_density(z, jacobian=False), expected, rtol=1e-8, atol=1e-8)
    if target.dim:
        np.testing.assert_allclose(target.unconstrain(latent), z, rtol=1e-6, atol=1e-8)


def prior_draws(spec: Spec) -> None:
    """A draw of the prior has a density, and that of all sites at it, discrete ones too, is that of the walk."""
    data = spec.data()
    draw = {name: value[0] for name, value in program(spec, data).sample(1).items()}
    observed = [s.name for s, _ in spec.each() if s.kind == "sample" and s.told != "latent"]
    drawn = {**data, **{name: draw[name] for name in observed}}
    latent = {s.name: draw[s.name] for s, _ in spec.each() if s.kind == "sample" and s.told == "latent"}
    latent |= {name: value for name, value in draw.items() if name.endswith("_unobserved")}
    expected = Walk(spec, drawn, latent).log_joint()
    assert np.isfinite(expected)
    np.testing.assert_allclose(program(spec, drawn).log_joint(latent), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_random_models(x64, part):
    @seed(part)
    @settings(max_examples=50, **HOW)
    @given(specs())
    def holds(spec: Spec) -> None:
        density_and_coordinates(spec)
        if spec.seed % 5 == 0:
            prior_draws(spec)

    holds()


def test_densities_of_a_few_small_random_models(x64):
    @seed(5)
    @settings(max_examples=2, **HOW)
    @given(specs(most=3, scans=1))
    def holds(spec: Spec) -> None:
        density_and_coordinates(spec)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_fits_of_random_models_end_with_a_status(part):
    @seed(100 + part)
    @settings(max_examples=4, **HOW)
    @given(specs())
    def ends(spec: Spec) -> None:
        model = program(spec, spec.data())
        # A latent site whose density is masked has none: there is no posterior to be fitted.
        if any(s.masked and s.told == "latent" for s, _ in spec.each()) or not vb.target(model).dim:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", vb.VbpplWarning)
            posterior = vb.fit(model, seconds=10)
        assert posterior.status.reason and posterior.report.verdict
        assert all(np.isfinite(each).all() for each in posterior.mean().values())

    ends()
