"""A plan follows from types, shapes and numbers: it compiles nothing, and refuses what does not go together."""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
import optax
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.plan import check_call, plan
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.low_rank import LowRank
from vbppl.guides.structured import Structured
from vbppl.inference.deterministic import fixed_draws, low_rank, mode_based
from vbppl.inference.stochastic import svi
from vbppl.target.target import Target

X, Y = cases.logistic_data()
LOGISTIC = cases.logistic_regression(X, Y)
FAR = cases.far_datum(np.array(10.0))


@vb.model
def learnt(y):
    w = vb.param("w", 1.0)
    x = vb.sample("x", dist.Normal(w, 1.0))
    vb.sample("y", dist.Normal(x, 1.0), obs=y)


@vb.model
def rows(y):
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(z, 1.0), obs=vb.subsample(y))


@vb.model
def wide(y):
    vb.sample("x", dist.Normal(np.zeros(600), 1.0).to_event(1))


CASES = {
    "auto": (LOGISTIC, {}, FullRank, fixed_draws.solve_richest),
    "one dimension": (FAR, {}, MeanField, fixed_draws.solve_mean_field),
    "mean field": (LOGISTIC, {"guide": "mean_field"}, MeanField, fixed_draws.solve_mean_field),
    "full rank": (LOGISTIC, {"guide": vb.FullRank()}, FullRank, fixed_draws.solve_full_rank),
    "low rank": (LOGISTIC, {"guide": vb.LowRank(2)}, LowRank, low_rank.solve_low_rank),
    "many dimensions": (wide(None), {}, LowRank, low_rank.solve_low_rank),
    "Laplace": (LOGISTIC, {"guide": vb.Laplace()}, vb.Laplace, mode_based.solve_laplace),
    "Pathfinder": (LOGISTIC, {"guide": vb.Pathfinder()}, vb.Pathfinder, mode_based.solve_pathfinder),
    "by request": (LOGISTIC, {"method": vb.Stochastic()}, FullRank, svi.solve),
    "a point": (LOGISTIC, {"guide": vb.MAP()}, vb.MAP, svi.solve),
    "params": (learnt(1.0), {}, MeanField, svi.solve),
    "minibatches": (rows(np.zeros(20)), {"batch_size": 5}, Structured, svi.solve),
}


@pytest.mark.parametrize("name", CASES)
def test_guide_and_solver_follow_from_what_is_asked_for(name):
    model, asked, guide, solver = CASES[name]
    found = plan(Target.of(model), **asked)
    assert type(found.guide) is guide
    assert found.solve is solver


@pytest.mark.parametrize("name", CASES)
def test_a_plan_compiles_nothing_and_runs_no_model(name, compilations, monkeypatch):
    model, asked, _, _ = CASES[name]
    target, before, runs = Target.of(model), compilations(), []
    monkeypatch.setattr(vb.Model, "trace", lambda *args, **kwargs: runs.append(args))
    plan(target, **asked)
    assert compilations() == before
    assert not runs


def test_a_plan_is_a_frozen_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan(Target.of(FAR)).guide = FullRank()


@pytest.mark.parametrize(
    "asked, error, said",
    [
        ({"guide": "meanfield"}, ValueError, "guide must be one of 'auto'"),
        ({"method": "svi"}, ValueError, "method must be"),
        ({"start": 0.0}, TypeError, "start must be a posterior"),
        ({"batch_size": 5.0}, TypeError, "batch_size"),
        ({"batch_size": True}, TypeError, "batch_size"),
        ({"batch_size": {"row": "5"}}, TypeError, "batch_size"),
        ({"batch_size": {"rows": 5}}, vb.ModelError, "batch_size names 'rows'"),
        ({"guide": "full_rank", "method": vb.Deterministic(draws=4)}, vb.ModelError, "cannot be fitted on 4"),
        ({"guide": vb.LowRank(4), "method": vb.Deterministic(draws=4)}, vb.ModelError, "rank 4 cannot be fitted"),
        ({"guide": vb.Laplace(), "method": vb.Stochastic()}, vb.ModelError, "climbs to the mode"),
        ({"guide": vb.MAP(), "method": vb.Deterministic()}, vb.ModelError, "the deterministic method cannot fit"),
        ({"batch_size": 5, "method": vb.Deterministic()}, vb.ModelError, "cannot fit"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_computed(asked, error, said, compilations):
    target = Target.of(rows(np.zeros(20)))
    before = compilations()
    with pytest.raises(error, match=said):
        plan(target, **asked)
    assert compilations() == before


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: vb.Stochastic(steps="1000"), "steps"),
        (lambda: vb.Stochastic(steps=1e3), "steps"),
        (lambda: vb.Stochastic(draws=2.5), "draws"),
        (lambda: vb.Stochastic(draws=True), "draws"),
        (lambda: vb.Stochastic(every=0), "every"),
        (lambda: vb.Stochastic(optimizer=optax.adam), "optimizer"),
        (lambda: vb.Deterministic(draws=31), "draws"),
        (lambda: vb.Deterministic(draws=32.0), "draws"),
        (lambda: check_call(0, None, None, "auto"), "seconds"),
        (lambda: check_call("10", None, None, "auto"), "seconds"),
        (lambda: check_call(None, "yes", None, "auto"), "progress"),
        (lambda: check_call(None, None, 3, "auto"), "callback"),
        (lambda: check_call(None, None, None, "single"), "precision"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_numbers_of_numpy_are_numbers():
    assert plan(Target.of(rows(np.zeros(20))), batch_size=np.int64(5)).minibatches.plates == (("row", 20, 5),)
    assert vb.Stochastic(steps=np.int64(100)).steps == 100
