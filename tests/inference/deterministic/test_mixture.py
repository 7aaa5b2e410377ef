"""Mixtures on densities of known evidence and moments: by name, and where `auto` comes to them by itself."""

from __future__ import annotations

import dataclasses

import cases
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.core.numerics.mixtures import Components
from vbppl.core.numerics.new_components import candidates
from vbppl.core.watch import Watch
from vbppl.fitting.remedies import components
from vbppl.guides.gaussian import FullRank
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic import fixed_draws
from vbppl.inference.deterministic.beyond import mixture
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.solution import Mode, Searched
from vbppl.posterior.judge import judge

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


def log_normal(z, loc, sd):
    return jnp.sum(-(((z - loc) / sd) ** 2) / 2 - jnp.log(sd) - jnp.log(2 * jnp.pi) / 2)


def halves(dim, loc, sd, shares=(0.5, 0.5)):
    """Two normals in `dim` dims, the second at `loc` in every coordinate and of `sd`."""

    def log_density(z):
        parts = [jnp.log(shares[0]) + log_normal(z, 0.0, 1.0), jnp.log(shares[1]) + log_normal(z, loc, sd)]
        return jnp.logaddexp(*parts)

    return vb.density(log_density, dim)


def banana(z):
    return log_normal(z[0], 0.0, 1.0) + log_normal(z[1], z[0] ** 2 - 1, 1.0)


def values(posterior):
    (name,) = posterior.mean()
    return np.ravel(posterior.mean()[name]), np.ravel(posterior.sd()[name])


@pytest.mark.parametrize("dim", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_two_scales_of_which_a_gaussian_fits_either_are_both_held(dim):
    """Evidence 1; variance (1 + 0.09) / 2."""
    posterior = vb.fit(halves(dim, 0.0, 0.3))
    mean, sd = values(posterior)
    assert posterior.report.verdict == "good" and posterior.elbo.value == pytest.approx(0.0, abs=0.02)
    assert np.abs(mean).max() < 0.1 and np.abs(np.log(sd / np.sqrt(1.09 / 2))).max() < 0.06
    np.testing.assert_allclose(np.exp(posterior.phi["log_weights"]), 0.5, atol=0.03)
    assert any(
        note.topic == "guide" and note.text.startswith("a mixture of 2 normals") for note in posterior.report.notes
    )


def test_a_narrow_mode_is_weighed_by_its_evidence_and_not_by_its_height():
    """In ten dims a mode of sd 0.05 is 28 nats higher, and holds a tenth; that which holds the rest is not dropped."""
    target = halves(10, 3.0, 0.05, (0.9, 0.1))
    problem = Problem([target], Deterministic(), np.zeros((1, 0)), np.zeros((1, 2, 10)), [raw_key(0)])
    (before,) = fixed_draws.solve_full_rank(problem)
    narrow = Mode(2.2, 3.0, np.stack([np.full(10, 3.0), np.full(10, np.log(0.05))]))
    for kept, mode in ((0.0, narrow), (3.0, Mode(-2.2, 60.0, np.zeros((2, 10))))):
        phi = FullRank().of(np.full(10, kept), np.eye(10) * (0.05 if kept else 1.0)).astype(np.float32)
        one = dataclasses.replace(before, guide=FullRank(), phi=phi, other_modes=Searched((mode,), 3, 0.0))
        after = mixture.Ascent(problem, one).climbed(Watch())
        assert np.exp(after.phi["log_weights"]) == pytest.approx([0.1, 0.9] if kept else [0.9, 0.1], abs=0.01)
        assert after.bounds[-1] == pytest.approx(0.0, abs=0.01) and after.other_modes.held == (mode,)


def test_a_mode_of_two_scales_that_is_not_the_best_one_is_held_in_both():
    """Weights .6 at 6, .2 of either scale at -6; evidence 1. In ten dims draws of one scale never meet the other."""

    def log_density(z):
        parts = [(0.6, 6.0, 1.0), (0.2, -6.0, 1.0), (0.2, -6.0, 0.3)]
        return logsumexp(jnp.array([jnp.log(weight) + log_normal(z, loc, sd) for weight, loc, sd in parts]))

    posterior = vb.fit(vb.density(log_density, 10))
    np.testing.assert_allclose(np.sort(np.exp(posterior.phi["log_weights"])), [0.2, 0.2, 0.6], atol=0.02)
    assert posterior.elbo.value == pytest.approx(0.0, abs=0.01) and posterior.report.verdict == "corrected"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_banana_by_as_many_as_pay(seed, monkeypatch):
    """Evidence 1; means 0, variances 1 and 1 + 2. One turn has several components where each pays beside the others."""
    turns, is_better = [], mixture.Ascent.is_better
    monkeypatch.setattr(mixture.Ascent, "is_better", lambda *given: turns.append(is_better(*given)) or turns[-1])
    posterior = vb.fit(vb.density(banana, 2), vb.guides.Mixture(), seed=seed)
    mean, sd = values(posterior)
    assert -0.02 < posterior.elbo.value + 2 * posterior.elbo.se and posterior.elbo.value < 0.01
    assert posterior.report.verdict in ("good", "corrected")
    assert np.abs(mean / sd).max() < 0.1 and np.abs(np.log(sd / np.sqrt([1.0, 3.0]))).max() < 0.12
    assert 1 <= sum(turns) < len(posterior.phi["log_weights"]) - 1


def test_so_many_components_as_were_asked_for():
    one, three = (vb.fit(vb.density(banana, 2), vb.guides.Mixture(count)) for count in (1, 3))
    assert len(one.phi["log_weights"]) == 1 and len(three.phi["log_weights"]) == 3
    full = vb.fit(vb.density(banana, 2), "full_rank")
    assert one.elbo.value == pytest.approx(full.elbo.value, abs=0.02)
    assert three.elbo.value > one.elbo.value + 0.1


def test_a_normal_stays_one_component():
    posterior = vb.fit(vb.density(lambda z: log_normal(z, 1.0, 2.0), 3), vb.guides.Mixture())
    assert len(posterior.phi["log_weights"]) == 1 and posterior.report.verdict == "good"
    assert "at the optimum" in posterior.status.text


@pytest.mark.slow
def test_beyond_a_cliff_no_bound_is_finite_and_weighted_draws_are_right():
    """A normal cut in half by a density of zero, which its support does not say."""

    @vb.model
    def cut():
        x = vb.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        vb.factor("right", jnp.where(x[0] > 0, 0.0, -jnp.inf))

    posterior = vb.fit(cut())
    card = posterior.check()
    assert card.verdict == "corrected" and np.isneginf(card.elbo.value)
    assert card.log_evidence == pytest.approx(np.log(0.5), abs=0.05)
    assert posterior.mean()["x"] == pytest.approx(np.array([np.sqrt(2 / np.pi), 0.0]), abs=0.1)
    assert posterior.sd()["x"] == pytest.approx(np.array([np.sqrt(1 - 2 / np.pi), 1.0]), abs=0.1)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_number_of_components_that_is_none_is_refused(count):
    with pytest.raises((TypeError, ValueError), match="^components must be "):
        vb.guides.Mixture(count)


def test_a_rejected_component_is_not_proposed_again(monkeypatch):
    """Each costs as much as the first: two in a row are the end."""
    asked, best_of = [], mixture.Ascent.best_of

    def recorded(self, where, excluded, least):
        asked.append(set(excluded))
        found = yield from best_of(self, where, excluded, least)
        return found

    monkeypatch.setattr(mixture.Ascent, "best_of", recorded)
    monkeypatch.setattr(mixture.Ascent, "is_better", lambda *_: False)
    vb.fit(vb.density(banana, 2), vb.guides.Mixture())
    assert len(asked) == 2 and asked[0] == set() and len(asked[1]) == 1


def reported(target, guide="auto"):
    posterior = vb.fit(target, guide)
    return posterior.solution, posterior.report


def test_where_margins_are_what_is_wrong_their_share_says_so():
    """Independent log-gammas are all skewness; a banana and two scales are none."""
    skewed = reported(vb.density(lambda z: jnp.sum(z - jnp.exp(z)), 4), "full_rank")
    bent = reported(vb.density(banana, 2), "full_rank")
    assert components.margin_share(*skewed) > 0.9
    assert components.margin_share(*bent) < 0.3


def test_a_posterior_like_a_gaussian_is_asked_for_no_mixture():
    solution, report = reported(cases.logistic_regression(*cases.logistic_data()))
    assert report.verdict == "good" and components.margin_share(solution, report) >= components.SHARE


def test_what_is_cut_short_hands_back_a_mixture():
    target = halves(2, 6.0, 0.5)
    problem = Problem([target], Deterministic(), np.zeros((1, 0)), None, [raw_key(0)])
    (before,) = fixed_draws.solve_full_rank(problem)
    seen, ascent = [], mixture.Ascent(problem, before)

    def stop(now):
        seen.append(now.step)
        if len(seen) == 1:
            raise KeyboardInterrupt

    after = ascent.climbed(Watch(stop))
    assert after.status.reason == "interrupted" and not after.status.converged
    assert len(after.phi["log_weights"]) == 2 and len(after.other_modes.held) == 1
    alone = mixture.told(before.other_modes, ascent.first, "")  # a mode that no component holds is still to be told
    assert alone.found == before.other_modes.found and alone.held == ()
    assert "log_weights" in after.phi and after.status.gradients > before.status.gradients
    whole = ascent.climbed(Watch())
    assert whole.status.converged and len(whole.other_modes.held) == 1 and whole.other_modes.found == ()
    nats, error = ascent.gained(whole)
    assert nats == pytest.approx(np.log(2), abs=0.02) and error < 0.02
    assert judge(dataclasses.replace(whole), raw_key(0)).verdict == "corrected"


def test_what_rises_on_few_fixed_draws_and_falls_on_others_is_left_out():
    """A normal is its own best guide, and two components on 16 draws of eight dims seem better than it."""
    target = vb.density(lambda z: log_normal(z, 0.0, 1.0), 8)
    problem = Problem([target], Deterministic(draws=16), np.zeros((1, 0)), None, [raw_key(0)])
    (before,) = fixed_draws.solve_full_rank(problem)
    ascent = mixture.Ascent(problem, before)
    first = ascent.evaluated(ascent.first)
    beside = Components.of(np.zeros(1), ascent.first.loc + 0.5, 0.8 * ascent.first.factor)
    start = ascent.evaluated(ascent.first.joined(beside, 0.5))
    *_, (seen, *_) = ascent.ascended(mixture.Where(start, ()))
    assert seen.bound > max(0.005, first.bound + 0.005)  # above the evidence, where no bound lies
    rng, at = np.random.default_rng(0), seen.at
    k = rng.choice(2, 40_000, p=at.weights)
    z = at.loc[k] + np.einsum("nij,nj->ni", at.factor[k], rng.standard_normal((40_000, 8)))
    each = [stats.multivariate_normal(loc, factor @ factor.T).logpdf(z) for loc, factor in zip(at.loc, at.factor)]
    log_w = stats.norm.logpdf(z).sum(axis=1) - special.logsumexp(np.array(each), axis=0, b=at.weights[:, None])
    assert log_w.mean() < -0.001
    assert ascent.gain(at, ascent.first).value == pytest.approx(log_w.mean(), abs=4 * log_w.std() / 200 + 0.001)
    assert not ascent.is_better(at, ascent.first, mixture.LESS, [0, 1])
    # In other places components still meet the draws that they had.
    assert (
        np.abs(ascent.gain(at.take([1, 0]), at, names=[1, 0])).max() < 1e-12 < abs(ascent.gain(at.take([1, 0]), at)[0])
    )


def at_first():
    """An ascent on a banana, that begins with one normal."""
    problem = Problem([vb.density(banana, 2)], Deterministic(), np.zeros((1, 0)), None, [raw_key(0)])
    (before,) = fixed_draws.solve_full_rank(problem)
    ascent = mixture.Ascent(problem, before)
    return ascent, mixture.Where(ascent.evaluated(ascent.first), ())


def test_two_candidates_together_promise_the_bound_of_their_mixture_and_join_where_each_pays():
    ascent, where = at_first()
    asked = [
        one for one in candidates(where.seen, lambda z: ascent.log_p(z[None])[0][0]) if one.what.startswith("part")
    ]
    one, other = (ascent.tried(where, place, each) for place, each in enumerate(asked[:2]))
    spent, both = ascent.density.gradients[0], one.beside(other, where.seen)
    z, at = both.seen.z, both.at
    log_p = stats.norm.logpdf(z[..., 0]) + stats.norm.logpdf(z[..., 1], z[..., 0] ** 2 - 1)
    each = [stats.multivariate_normal(loc, factor @ factor.T).logpdf(z) for loc, factor in zip(at.loc, at.factor)]
    log_q = special.logsumexp(np.array(each), axis=0, b=at.weights[:, None, None])
    assert len(at) == 3 and both.promise == pytest.approx(at.weights @ (log_p - log_q).mean(axis=1), abs=1e-4)
    gain = both.promise - one.promise
    assert gain > 0.01 and spent == ascent.density.gradients[0]
    assert len(ascent.joined(where, [one, other], 0.9 * gain).at) == 3
    assert ascent.joined(where, [one, other], 1.1 * gain) is one


def test_each_of_several_further_components_has_to_pay(monkeypatch):
    ascent, _ = at_first()
    monkeypatch.setattr(ascent, "gain", lambda *_, **names: Estimate(0.0075, 0.0001))
    assert ascent.is_better(range(3), range(1), mixture.LESS, [])
    assert not ascent.is_better(range(4), range(1), mixture.LESS, [])


@pytest.mark.parametrize(
    ("fitted", "others", "most", "least"),
    [(0.03, 0.0, 12, "LESS"), (0.01, 0.03, 12, "LESS"), (0.01, 0.01, 12, "GAIN"), (0.03, 0.03, 2, "GAIN")],
)
def test_what_a_mixture_lacks_is_asked_of_draws_that_it_was_not_fitted_to(monkeypatch, fitted, others, most, least):
    """Those that it was fitted to saw .017 of the .030 nats that three components of a banana lacked, and no need."""
    ascent, (seen, *_) = at_first()
    monkeypatch.setattr(mixture, "COMPONENTS", most)
    monkeypatch.setattr(mixture, "lacking", lambda each: fitted if each is seen else others)
    assert ascent.worth(seen) == getattr(mixture, least)


@pytest.mark.slow
def test_where_twelve_components_would_not_be_enough_no_more_are_tried():
    """Two humps in each of 24 coordinates: of one, a split takes a nat of which the normal lacks some eight."""

    def humps(x):
        return jnp.sum(jnp.logaddexp(-0.5 * ((x - 1.5) / 0.6) ** 2, -0.5 * ((x + 1.5) / 0.6) ** 2))

    posterior = vb.fit(vb.density(humps, 24), vb.guides.Mixture())
    (said,) = [str(note) for note in posterior.check().notes if "are lacking, more than" in str(note)]
    lacks = 24 * np.log(2 * 0.6 * np.sqrt(2 * np.pi)) - posterior.elbo.value
    assert mixture.FAR < int(said.split()[1]) < lacks + 0.5  # draws see less than it lacks, never more
    assert len(mixture.components_of(posterior.solution)) < mixture.COMPONENTS
    assert posterior.report.verdict == "poor"
