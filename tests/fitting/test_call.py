"""The call that a posterior keeps makes the same posterior again, to the bit."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.call import call_of

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@vb.model
def line(x, y=None):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(slope * vb.subsample(x), 0.5), obs=None if y is None else vb.subsample(y))


X, Y = np.linspace(-1.0, 1.0, 6), np.array([-0.7, -0.3, 0.1, 0.2, 0.4, 0.9])
MODEL = line(X, Y)


def again(posterior, **given):
    """What the lines make that a posterior keeps, with what they cannot say."""
    names = {"vb": vb, "model": MODEL, **given}
    exec("\n".join(posterior.calls), names)
    return names["posterior"]


STEPS = vb.Stochastic(steps=20, draws=2, optimizer=optax.sgd(0.01))
CASES = {
    "seed": ({"seed": 2**40 + 3}, "seed=1099511627779", {}),
    "key": ({"guide": "mean_field", "seed": jax.random.key(7)}, 'guide="mean_field", seed=7', {}),
    "guide": ({"guide": vb.LowRank(rank=1), "precision": "float64"}, "guide=vb.LowRank(rank=1), precision=", {}),
    "method": (
        {"guide": "full_rank", "method": STEPS, "batch_size": {"row": 3}},
        'method=vb.Stochastic(optimizer=optimizer, steps=20, draws=2), batch_size={"row": 3}, seed=0',
        {"optimizer": STEPS.optimizer},
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "method")) for n in CASES])
def test_it_makes_the_same_posterior_again(name):
    how, words, given = CASES[name]
    posterior = vb.fit(MODEL, **how)
    assert words in posterior.calls[-1]
    for was, now in zip(jax.tree.leaves(posterior.phi), jax.tree.leaves(again(posterior, **given).phi)):
        np.testing.assert_array_equal(was, now)


def test_fits_side_by_side_can_be_made_again_alone():
    posterior = vb.fit_many(MODEL, guide="mean_field", seeds=[3, 4])[1]
    assert posterior.calls[-1].endswith("seeds=4)[0]")
    np.testing.assert_allclose(again(posterior).mean()["slope"], posterior.mean()["slope"], rtol=1e-5)


@pytest.mark.slow
def test_chains_can_be_drawn_again_from_the_same_guide():
    refined = vb.refine(vb.fit(MODEL, "mean_field").uncorrected(), n=20, chains=2, seed=5)
    assert [line.partition("(")[0] for line in refined.calls[1:]] == [
        "posterior = vb.fit",
        "posterior = posterior.uncorrected",
        "posterior = vb.refine",
    ]
    np.testing.assert_array_equal(again(refined).sample(40)["slope"], refined.sample(40)["slope"])


def test_what_no_text_can_say_stands_under_its_own_name():
    encoder = vb.Amortized("z", lambda weights, y: (y, y), reads="y", params=1.0)
    start = {"slope": 0.5, "rows": np.zeros(2)}
    lines = call_of(vb.fit, "model", 0, {"guide": encoder, "start": start, "seconds": float("inf"), "batch_size": None})
    assert lines == (
        "# guide: the Amortized that was given",
        "# start: the dict that was given",
        'posterior = vb.fit(model, guide=guide, start=start, seconds=float("inf"), seed=0)',
    )
    (line,) = call_of(vb.fit, "model", 0, {"start": {"slope": np.float64(0.5), "pair": (1, [2.0, "a\n"])}})
    assert line == 'posterior = vb.fit(model, start={"slope": 0.5, "pair": (1, [2.0, "a\\n"])}, seed=0)'
