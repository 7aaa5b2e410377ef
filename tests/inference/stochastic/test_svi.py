"""The stochastic fit keeps its promises: steps that fail, starts, stops, repeatability, minibatches, known optima."""

from __future__ import annotations

import dataclasses
import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optima import EVIDENCE12, LOC7_MF, LOGISTIC, OPTIMA, SD7_MF, SHIFTED

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree
from vbppl.core.watch import Watch
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Start
from vbppl.inference.stochastic import step, svi
from vbppl.inference.stochastic.early_stopping import Ending, StopRule
from vbppl.inference.stochastic.objectives import ClosedForm, Objective
from vbppl.inference.stochastic.problem import prepare
from vbppl.inference.stochastic.schedule import Phase
from vbppl.target.target import Target

FAR = cases.far_datum(np.array(10.0))
PAIRS = cases.normal_normal(cases.PAIRS)
quiet = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


def test_steps_that_are_not_finite_are_skipped_counted_and_blamed_on_their_site():
    with pytest.warns(
        vb.VbpplWarning, match=r"steps were not finite and skipped \(first at step [\d,]+ in site root\)"
    ):
        posterior = vb.fit(cases.rooted(np.array(1.5)), "mean_field", method=vb.Stochastic(steps=700, draws=1))
    status, bad = posterior.status, ~np.isfinite(posterior.history)
    assert np.isfinite(posterior.phi).all()
    assert 0 < status.skipped == bad.sum() < 350
    assert status.steps == 700
    assert status.first_skipped == np.argmax(bad)
    assert status.nonfinite_sites == ("root",)


@quiet
def test_a_skipped_step_changes_nothing():
    """The step after a skipped one is made from the very parameters before it."""
    seen = []
    method = vb.Stochastic(steps=200, every=1, draws=1)
    start = {"x": np.array(1.0)}
    posterior = vb.fit(
        cases.rooted(np.array(1.5)), "mean_field", method=method, start=start, seed=3, callback=seen.append
    )
    phis = np.array([progress.params["guide"] for progress in seen])
    moved = np.any(phis[1:] != phis[:-1], axis=(1, 2))
    np.testing.assert_array_equal(moved, np.isfinite(posterior.history[1:]))
    assert posterior.status.skipped > 0


@quiet
def test_care_gives_the_same_steps():
    """A chunk made again with care takes the steps that the bare one took, until the first that fails."""
    phis = []
    for every in (1, 200):
        method = vb.Stochastic(steps=200, every=every, draws=1)
        posterior = vb.fit(cases.rooted(np.array(1.5)), "mean_field", method=method, start={"x": np.array(1.0)}, seed=3)
        phis.append((posterior.phi, posterior.history))
    np.testing.assert_allclose(phis[0][0], phis[1][0], rtol=1e-4)
    np.testing.assert_allclose(phis[0][1], phis[1][1], rtol=1e-3)


@vb.model
def hopeless(y):
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.factor("wall", jnp.where(x < 1e9, -jnp.inf, 0.0))
    vb.sample("y", dist.Normal(x, 1.0), obs=y)


def test_a_hopeless_model_is_refused_by_the_name_of_its_site():
    with pytest.raises(vb.ModelError, match="the log density is not finite at any of .* starting points") as error:
        vb.fit(hopeless(np.array(0.0)), method=vb.Stochastic(draws=1))
    assert "wall" in str(error.value)


def test_a_fit_all_of_whose_steps_fail_is_not_called_converged():
    """It stands still, and what stands still agrees with itself."""

    @vb.model
    def needle():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.factor("eye", jnp.where(x == 1.0, 0.0, -jnp.inf))

    with pytest.warns(vb.VbpplWarning, match="more than half of the last steps were not finite: not converged"):
        posterior = vb.fit(needle(), method=vb.Stochastic(draws=1), start={"x": np.array(1.0)})
    assert (posterior.status.reason, posterior.status.converged) == ("stuck", False)


@quiet
def test_a_start_where_the_density_is_not_finite_is_moved():
    posterior = vb.fit(cases.rooted(np.array(1.5)), "mean_field", method=vb.Stochastic(steps=300, draws=1), seed=1)
    assert posterior.phi[0] > 0.5


@pytest.mark.parametrize("chunks", [1, 3])
def test_ctrl_c_returns_what_there_is(chunks):
    seen = []

    def stop(progress):
        seen.append(progress)
        if len(seen) == chunks:
            raise KeyboardInterrupt

    with pytest.warns(vb.VbpplWarning, match="interrupted: not converged"):
        posterior = vb.fit(PAIRS, method=vb.Stochastic(every=50, draws=1), callback=stop)
    status = posterior.status
    assert (status.reason, status.converged, status.steps) == ("interrupted", False, 50 * chunks)
    assert len(posterior.history) == 50 * chunks
    np.testing.assert_array_equal(posterior.phi, seen[-1].params["guide"])
    assert np.isfinite(posterior.elbo.value)


@quiet
@pytest.mark.parametrize("steps", [1, 49, 1000, 1234])
def test_exactly_so_many_steps_are_taken_as_asked_for(steps):
    seen = []
    posterior = vb.fit(PAIRS, method=vb.Stochastic(steps=steps, draws=3, every=500), callback=seen.append)
    assert posterior.status.steps == seen[-1].step == len(posterior.history) == steps
    assert posterior.status.gradients == 3 * steps
    assert np.isfinite(posterior.history).all()


@quiet
def test_how_often_one_looks_changes_no_bit_of_the_answer():
    answers = [vb.fit(PAIRS, method=vb.Stochastic(steps=300, draws=2, every=every)) for every in (1000, 7)]
    np.testing.assert_array_equal(answers[0].phi, answers[1].phi)
    np.testing.assert_array_equal(answers[0].history, answers[1].history)


@pytest.mark.slow
@quiet
def test_random_numbers_made_a_few_steps_at_a_time_are_the_same(monkeypatch):
    whole = vb.fit(PAIRS, method=vb.Stochastic(steps=100, draws=2))
    monkeypatch.setattr(step, "AHEAD", 40)
    jax.clear_caches()
    parts = vb.fit(PAIRS, method=vb.Stochastic(steps=100, draws=2))
    np.testing.assert_allclose(parts.history, whole.history, rtol=1e-5)
    np.testing.assert_allclose(parts.phi, whole.phi, atol=1e-5)


@quiet
@pytest.mark.parametrize(("steps", "every"), [(137, 1000), (137, 23), (1234, 1000)])
def test_groups_of_a_fixed_length_for_accelerators_make_the_same_steps(steps, every, monkeypatch):
    method = vb.Stochastic(steps=steps, every=every, draws=2)
    host = vb.fit(PAIRS, "mean_field", method=method)
    monkeypatch.setattr(step, "on_accelerator", lambda: True)
    groups = vb.fit(PAIRS, "mean_field", method=method)
    np.testing.assert_allclose(groups.history, host.history, rtol=1e-4)
    np.testing.assert_allclose(groups.phi, host.phi, rtol=1e-4, atol=1e-5)


@quiet
def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = (vb.fit(PAIRS, method=vb.Stochastic(steps=100, draws=1), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.phi, again.phi)
    np.testing.assert_array_equal(first.history, again.history)
    assert first.elbo == again.elbo
    assert not np.array_equal(first.history, other.history)


OPTIMIZERS = {
    "adam": optax.adam(1e-2),
    "momentum": optax.sgd(1e-3, momentum=0.9),
    "clip": optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(3e-2, 3000))),
}


@quiet
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "clip")) for name in OPTIMIZERS]
)
def test_any_optax_transformation_can_drive_the_fit(name):
    method = vb.Stochastic(optimizer=OPTIMIZERS[name], steps=3000, draws=4)
    loc, sd = cases.flat_moments(vb.fit(PAIRS, "mean_field", method=method))
    np.testing.assert_allclose(loc, [0.049793, 0.475155], atol=0.1 * 0.2)
    np.testing.assert_allclose(sd, [0.203700, 0.249222], rtol=0.1)


def test_wrong_settings_are_refused():
    with pytest.raises(TypeError, match=r"optimizer must be an Optax transformation such as optax\.adam\(1e-2\)"):
        vb.Stochastic(optimizer="adam", draws=1)
    with pytest.raises(ValueError, match="draws must be at least 1, not 0"):
        vb.Stochastic(draws=0)
    with pytest.raises(ValueError, match="every must lie between 1 and 1000, not 2000"):
        vb.Stochastic(every=2000, draws=1)


@pytest.mark.parametrize("guide", ["full_rank", pytest.param("mean_field", marks=pytest.mark.slow)])
def test_sticking_the_landing_ends_at_the_exact_posterior(guide, x64):
    posterior = vb.fit(FAR, guide, method=vb.Stochastic(sticking_the_landing=True, average=False, draws=1))
    assert posterior.mean()["x"] == pytest.approx(8.0, abs=1e-5)
    assert posterior.sd()["x"] == pytest.approx(np.sqrt(0.2), abs=1e-5)
    assert posterior.elbo.value == pytest.approx(EVIDENCE12, abs=1e-5)
    assert posterior.history[-100:].std() < 1e-4  # no variance is left, so that there is nothing to average


@pytest.mark.slow
def test_an_additive_constant_changes_neither_the_steps_nor_the_stop(x64):
    plain, shifted = (vb.fit(model, "mean_field", method=vb.Stochastic(draws=16)) for model in (LOGISTIC, SHIFTED))
    np.testing.assert_allclose(shifted.phi, plain.phi, atol=1e-6)
    np.testing.assert_allclose(shifted.history - 1e6, plain.history, atol=1e-6)
    assert shifted.status.steps == plain.status.steps
    assert shifted.status.reason == plain.status.reason == "settled"


@pytest.mark.slow
def test_32_and_64_bits_give_the_same_answer(x64):
    wide = vb.fit(LOGISTIC, "mean_field", method=vb.Stochastic(draws=16))
    with jax.enable_x64(False):
        narrow = vb.fit(LOGISTIC, "mean_field", method=vb.Stochastic(draws=16))
    assert (wide.phi.dtype.itemsize, narrow.phi.dtype.itemsize) == (8, 4)
    # Their random numbers differ as well: both are within the tolerance of the optimum, so twice of each other.
    assert np.abs((wide.phi[0] - narrow.phi[0]) / np.exp(wide.phi[1])).max() < 0.04
    np.testing.assert_allclose(wide.phi[1], narrow.phi[1], atol=0.06)


def problem(steps=60, every=20, **settings):
    """A small problem for mean field, from the origin."""
    method = vb.Stochastic(steps=steps, every=every, draws=1)
    start = Start(np.zeros(2, np.float32))
    made = prepare(Target.of(PAIRS), vb.MeanField(), method, Minibatches(), start, np.zeros(2, np.uint32))
    return dataclasses.replace(made, **settings)


def solve(watch=Watch(), **settings):
    return svi.solve(problem(**settings), watch)[0]


def test_the_position_is_donated():
    run, first = svi._set_up(problem())
    position = jax.device_put(first.position)
    step.run_chunk(run.setup, position, np.int32(1), Phase(0, 10, 10, 5).as_data(), careful=False)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(position.carry))


def test_a_state_is_a_value_from_which_a_fit_goes_on_again_and_again():
    """The states before are whole: the loop's own memory is another."""
    run, first = svi._set_up(problem())
    states = list(svi.advance(run, first, svi.NoCheckpoint()))
    assert [len(state.bounds) for state in states] == [20, 40, 60]
    again = [list(svi.advance(run, states[0], svi.NoCheckpoint()))[-1] for _ in range(2)]
    for other in again:
        np.testing.assert_array_equal(other.bounds, states[-1].bounds)
        np.testing.assert_array_equal(other.position.carry.params["guide"], states[-1].position.carry.params["guide"])


def test_a_deadline_gives_back_the_last_whole_state_and_watching_moves_nothing():
    class Late(Watch):
        is_over = True

    cut, whole = solve(Late()), solve()
    assert (cut.status.reason, cut.status.converged, cut.status.steps) == ("deadline", False, 20)
    assert cut.status.was_cut_short and not whole.status.was_cut_short
    np.testing.assert_array_equal(cut.bounds, whole.bounds[:20])


def test_a_solution_is_filled_truly():
    found = solve()
    assert found.guide == vb.MeanField() or type(found.guide) is vb.MeanField
    assert found.status.seconds > found.status.compiling >= 0
    assert (found.status.steps, found.status.gradients) == (60, 60)
    assert found.other_modes.why == "stochastic steps start from one place"
    assert found.target.log_density(found.phi[0]) == Target.of(PAIRS).log_density(found.phi[0])


@pytree
class Remembering(Objective):
    """The bound, and how often and for which steps it was asked: the state counts, and sums the steps' numbers."""

    def __call__(self, guide, inputs):
        state = {"count": inputs.state["count"] + 1, "sum": inputs.state["sum"] + inputs.count}
        return ClosedForm()(guide, inputs)[0], state


@pytree
class Warming(Objective):
    """The bound times the step's number."""

    def __call__(self, guide, inputs):
        return inputs.count * ClosedForm()(guide, inputs)[0], ()


@dataclasses.dataclass(frozen=True)
class Patient(StopRule):
    """Ends the fit at the third chunk and gives back the params of the first."""

    seen: list = dataclasses.field(default_factory=list)

    def check(self, memory, progress):
        self.seen.append(progress)
        return memory, Ending("patience", True, "the rule had enough") if len(self.seen) == 3 else None

    def choose(self, memory, params, state, ending):
        return self.seen[0].params, state, ending


def test_an_objective_may_carry_a_state_from_step_to_step():
    rule, state = Patient(), {"count": np.int32(0), "sum": np.int32(0)}
    found = solve(objective=Remembering(), objective_state=state, stop_rules=(rule,))
    assert [int(progress.objective_state["count"]) for progress in rule.seen] == [20, 40, 60]
    assert int(rule.seen[-1].objective_state["sum"]) == sum(range(60))
    np.testing.assert_array_equal(found.bounds, solve().bounds)


def test_an_objective_may_depend_on_the_steps_number():
    """At step 0 the slope is zero: nothing moves, so that step 1 sees the first parameters."""
    warm = solve(steps=2, every=1, objective=Warming(), stop_rules=(first := Patient(),))
    np.testing.assert_array_equal(first.seen[0].params["guide"], problem().phi)
    assert warm.bounds[0] == 0 != warm.bounds[1]
    assert not np.array_equal(first.seen[1].params["guide"], problem().phi)


def test_a_stop_rule_may_end_the_fit_and_choose_what_it_gives_back():
    rule = Patient()
    found = solve(steps=1000, stop_rules=(rule,))
    assert [progress.step for progress in rule.seen] == [20, 40, 60]
    assert (found.status.reason, found.status.converged, found.status.steps) == ("patience", True, 60)
    assert "the rule had enough; 60 steps" in str(found.status)
    np.testing.assert_array_equal(found.phi, rule.seen[0].params["guide"])
    assert not np.array_equal(found.phi, rule.seen[2].params["guide"])


@pytest.mark.parametrize("guide", ["mean_field"])
def test_minibatches_reach_the_optimum_of_all_rows(guide):
    posterior = vb.fit(LOGISTIC, guide, batch_size=20)
    loc, sd = cases.flat_moments(posterior)
    assert np.abs((loc - LOC7_MF) / SD7_MF).max() < 0.05
    np.testing.assert_allclose(sd, SD7_MF, rtol=0.05)


@pytest.mark.slow
@quiet
def test_the_models_own_subsample_size_is_obeyed():
    @vb.model
    def shown_in_part(x, y):
        beta = vb.sample("beta", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        with vb.plate("row", len(y), subsample_size=20):
            x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
            vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    method = vb.Stochastic(steps=200, draws=1)
    own = vb.fit(shown_in_part(*cases.logistic_data()), "mean_field", method=method)
    asked = vb.fit(LOGISTIC, "mean_field", batch_size=20, method=method)
    np.testing.assert_allclose(own.phi, asked.phi, atol=1e-4)


STOCHASTIC = [name for name in OPTIMA if name[0] in "1234567" and "auto" not in name and not name.startswith("13")]


def distances(name, seed):
    """How far a stochastic fit is from the optimum: in nats, in sds, in relative scale."""
    optimum = OPTIMA[name]
    posterior = vb.fit(optimum.model, optimum.guide, seed=seed, method=vb.Stochastic(draws=16))
    loc, sd = cases.flat_moments(posterior)
    assert posterior.status.converged, posterior.status
    return (
        abs(posterior.elbo.value - optimum.elbo),
        float(np.max(np.abs(loc - optimum.loc) / optimum.sd)),
        float(np.max(np.abs(sd / optimum.sd - 1))),
    )


def check(name, seed):
    elbo, loc, sd = distances(name, seed)
    assert elbo < 0.01 and loc < 0.02 and sd < 0.03, f"off by {elbo:.2g} nats, {loc:.2g} sds, {sd:.2%} of a scale"


@quiet
@pytest.mark.parametrize(
    "name", ["2 normal-normal, full rank", "5 correlation 0.9, mean field", "7 logistic regression, mean field"]
)
def test_stochastic_steps_reach_the_known_optimum(name):
    check(name, 0)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_steps_reach_the_known_optimum_from_every_seed(name, seed):
    check(name, seed)


if __name__ == "__main__":  # how close: python tests/test_engine.py
    warnings.simplefilter("ignore")
    for name in STOCHASTIC:
        nats, sds, scale = np.max([distances(name, seed) for seed in range(10)], axis=0)
        print(f"{name}: worst of 10 seeds {nats:.4f} nats, {sds:.4f} sds, {scale:.2%} of a scale", flush=True)
