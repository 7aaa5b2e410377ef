"""The optimality gap bounds what is known to be missing, and is small where nothing is."""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
import pytest

import vbppl as vb
from vbppl.core.numerics import natural_gradient

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

LINEAR = cases.linear_regression(*cases.quadratic_data())


def moved(posterior, phi, elbo):
    """The posterior with other parameters and another bound."""
    solution = dataclasses.replace(posterior.solution, phi=phi)
    return vb.Posterior(solution, dataclasses.replace(posterior.report, elbo=elbo))


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_fit_at_its_optimum_has_next_to_no_gap(guide):
    gap = vb.fit(cases.logistic_regression(*cases.logistic_data()), guide).check(gap=True).gap
    assert 0 <= gap.estimate < 0.02
    assert gap.bound < 0.05


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_a_fit_moved_off_its_optimum_by_a_known_divergence_has_it_for_a_gap(guide, shift):
    """For a Gaussian density the bound falls by `d^T H d / 2`, here with the posterior's exact precision `H`."""
    best = vb.fit(LINEAR, guide)
    x, _ = cases.quadratic_data()
    move = shift * np.array([0.1, -0.1, 0.05])
    lost = move @ (x.T @ x / 0.25 + np.eye(3)) @ move / 2
    phi = np.array(best.phi)
    phi[0] += move
    elbo = best.elbo._replace(value=best.elbo.value - lost)
    gap = moved(best, phi, elbo).check(gap=True).gap
    assert gap.estimate == pytest.approx(lost, abs=0.02)
    assert lost <= gap.bound < lost + 0.1


def test_the_card_shows_a_gap_that_was_asked_for_and_no_other():
    posterior = vb.fit(LINEAR)
    assert "optimality gap" not in str(posterior.check())
    assert "optimality gap: " in str(posterior.check(gap=True))


def test_the_gap_of_another_family_is_refused():
    with pytest.raises(vb.ModelError, match="the optimality gap of a Laplace guide is not known"):
        vb.fit(LINEAR, vb.Laplace()).check(gap=True)


def test_a_search_that_does_not_end_gives_no_bound(monkeypatch):

    best = vb.fit(LINEAR, "full_rank")
    phi = np.array(best.phi)
    phi[0] += 1.0
    monkeypatch.setattr(natural_gradient, "STEPS", 0)
    gap = moved(best, phi, best.elbo).check(gap=True).gap
    assert np.isnan(gap.bound) and "not available" in str(gap)
