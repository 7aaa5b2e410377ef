"""Sensitivity is the derivative of the posterior mean: against closed forms, and against refits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.posterior.response import sensitivity as room

RNG = np.random.default_rng(0)
X = np.stack([np.ones(12), np.linspace(-1, 1, 12)], axis=1)
Y = X @ [0.3, -0.8] + 0.5 * RNG.normal(size=12)


@vb.model
def line(x, y):
    beta = vb.sample("beta", dist.Normal(np.array([0.5, 0.0]), np.array([1.0, 2.0])).to_event(1))
    with vb.plate("row", [f"r{i}" for i in range(12)]):
        vb.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


@pytest.mark.parametrize("guide", ["full_rank", "mean_field", vb.Laplace(), vb.MAP()], ids=str)
def test_of_a_normal_regression_it_is_the_closed_form(guide):
    moved = vb.fit(line(X, Y), guide).sensitivity()
    prior = np.diag([1.0, 1 / 4])
    covariance = np.linalg.inv(X.T @ X / 0.25 + prior)
    mean = covariance @ (X.T @ Y / 0.25 + prior @ [0.5, 0.0])
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(moved.sd, sd, rtol=1e-3)
    # A row that counts 1 + w times, at w = -1 of the slope; a prior whose precision falls by 2 for each log scale.
    rows = -(covariance @ (X * ((Y - X @ mean) / 0.25)[:, None]).T).T / sd
    np.testing.assert_allclose(moved.rows["row"], rows, atol=2e-3)
    np.testing.assert_allclose(moved.priors["beta"], 2 * covariance @ prior @ (mean - [0.5, 0.0]) / sd, atol=2e-3)
    worst = np.abs(rows).max(1).argmax()
    assert moved.labels["row"][worst] == f"row[r{worst}]"
    assert moved.words[0].startswith(f"without row[r{worst}] beta[")


@vb.model
def seizures(y, tries, hits):
    rate = vb.sample("rate", dist.Gamma(2.0, 1.5))
    share = vb.sample("share", dist.Beta(3.0, 2.0))
    with vb.plate("day", len(y)):
        vb.sample("y", dist.Poisson(rate), obs=y)
    vb.sample("hits", dist.Binomial(tries, share), obs=hits)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["full_rank", "copula"])
def test_of_skewed_posteriors_it_is_the_closed_form(guide):
    y = np.array([0, 2, 1, 7, 3])
    moved = vb.fit(seizures(y, 9, 2), guide).sensitivity("rate", "share")
    assert moved.how.startswith("from one Hessian" if guide == "full_rank" else "from the covariances of 4,000 draws")
    # Gamma(a + sum, b + n), whose scale is 1 / b, and Beta(a + hits, b + misses), whose prior is raised to a power.
    a, b = 2 + y.sum(), 1.5 + len(y)
    of_rows = -(y / b - a / b**2) / (np.sqrt(a) / b)
    alpha, beta = 3 + 2.0, 2 + 7.0
    total, sd = alpha + beta, np.sqrt(alpha * beta / (alpha + beta + 1)) / (alpha + beta)
    by_power = (2 * total - 3 * alpha) / total**2  # the exponents 2 and 1 of the prior, by its power
    left_out = (7 * alpha - 2 * beta) / total**2
    near = 0.06  # what a normal of the log misses, or four standard errors of a correlation by 4,000 draws
    np.testing.assert_allclose(moved.rows["day"][:, 0], of_rows, atol=near * np.abs(of_rows).max())
    assert moved.priors["rate"][0] == pytest.approx(1.5 * a / b**2 / (np.sqrt(a) / b), rel=near)
    assert moved.priors["share"][1] == pytest.approx(-2 * by_power / sd, abs=near)
    assert moved.rows["hits"][0, 1] == pytest.approx(left_out / sd, rel=near)
    assert abs(moved.priors["share"][0]) < near


@vb.model
def outcomes(x, y, weight, scale):
    beta = vb.sample("beta", dist.Normal(np.zeros(2), scale).to_event(1))
    with vb.plate("row", len(y)):
        vb.factor("y", weight * dist.Bernoulli(logits=x @ beta).log_prob(y))


def test_refits_move_as_far():
    rng = np.random.default_rng(1)
    x = np.stack([np.ones(30), rng.normal(size=30)], axis=1)
    y = (rng.random(30) < 1 / (1 + np.exp(-x @ [0.2, 1.0]))).astype(int)
    x[0], y[0] = [1.0, 2.5], 0  # against the trend
    whole, some = {"x": x, "y": y, "weight": np.ones(30), "scale": 1.5}, [0, 4, 5, 12]
    less, more, none = (
        [whole | {"weight": whole["weight"] + by * np.eye(30)[i]} for i in rows]
        for by, rows in ((-0.1, some), (0.1, some), (-1.0, range(30)))
    )
    wider = [whole | {"scale": 1.5 * np.exp(s)} for s in (-0.05, 0.05)]
    fits = vb.fit_many(outcomes, [*less, *more, *none, *wider, whole], "full_rank")
    moved, means = fits[-1].sensitivity(), np.array([each.mean()["beta"] for each in fits])
    less, more, none, wider, mean = np.split(means / moved.sd, [4, 8, 38, 40])
    # Averaging third derivatives to nothing costs a tenth of a row, and a seventh of a prior, of a posterior so skewed.
    np.testing.assert_allclose(moved.rows["row"][some], (less - more) / 0.2, rtol=0.11, atol=0.02)
    np.testing.assert_allclose(moved.priors["beta"], (wider[1] - wider[0]) / 0.1, rtol=0.16, atol=0.02)
    # Left out altogether, the row of much leverage moves farther: .65 of it is first order.
    left_out = none - mean
    assert np.abs(left_out).max(1).argmax() == np.abs(moved.rows["row"]).max(1).argmax() == 0
    assert 0.6 < moved.rows["row"][0, 1] / left_out[0, 1] < 1
    np.testing.assert_allclose(moved.rows["row"][1:], left_out[1:], rtol=0.25, atol=0.02)


def test_what_cannot_be_told_says_why(monkeypatch):
    @vb.model
    def streamed(y):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(mu, 1.0), obs=vb.subsample(y))

    method = vb.Stochastic(steps=2)
    with pytest.warns(vb.VbpplWarning):
        posterior = vb.fit(streamed(vb.Source(np.zeros(8))), "mean_field", method=method, batch_size=4)
    with pytest.raises(vb.ModelError) as error:
        posterior.sensitivity()
    assert str(error.value) == (
        "sensitivity looks at each row, but the rows of y are read in parts.\n"
        "  To mend it: Fit with the arrays themselves, where they fit into memory, without vb.Source or np.memmap."
    )
    whole = vb.fit(line(X, Y), "mean_field")
    monkeypatch.setattr(room, "MOST_NUMBERS", 23)
    with pytest.raises(vb.ModelError) as error:
        whole.sensitivity("beta")
    assert str(error.value) == (
        "12 rows times 2 quantities do not fit in memory.\n"
        "  To mend it: Name the sites that matter: posterior.sensitivity('mu', 'tau')."
    )
    with pytest.raises(KeyError, match="no site is called 'gamma'"):
        whole.sensitivity("gamma")
    monkeypatch.undo()
    monkeypatch.setattr(room, "DENSE_DIM", 1)
    with pytest.raises(vb.ModelError) as error:
        whole.sensitivity("beta")
    assert str(error.value) == (
        "sensitivity takes the Hessian in 2 dims, and is for up to 1.\n"
        '  To mend it: Fit with "low_rank", or vb.refine the posterior: their draws are enough.'
    )


def test_what_is_summed_out_is_not_asked_and_a_prior_within_a_sum_is_refused():
    y = np.array([-1.4, -0.9, -1.2, 2.9, 3.1, 3.4])

    @vb.model
    def mixture(y):
        mu = vb.sample("mu", dist.Normal(0.0, 3.0))
        with vb.plate("row", len(y)):
            group = vb.sample("group", dist.Bernoulli(0.5))
            vb.sample("y", dist.Normal(jnp.where(group == 1, mu, -1.0), 1.0), obs=y)

    posterior = vb.fit(mixture(y), "full_rank")
    moved = posterior.sensitivity()
    assert moved.names == ("mu",) and list(moved.priors) == ["mu"]
    at = np.linspace(-6.0, 12.0, 4001)
    terms = np.log(stats.norm.pdf(y[:, None], at) / 2 + stats.norm.pdf(y[:, None], -1.0) / 2)
    shares = special.softmax(stats.norm.logpdf(at, 0.0, 3.0) + terms.sum(0))
    mean = shares @ at
    sd = np.sqrt(shares @ (at - mean) ** 2)
    np.testing.assert_allclose(moved.rows["row"][:, 0], -(terms * (at - mean)) @ shares / sd, atol=0.05)
    with pytest.raises(vb.ModelError) as error:
        posterior.sensitivity("group")
    assert str(error.value) == (
        "site 'group': the site is summed out, or computed from one that is, so it has no derivative.\n"
        "  To mend it: Ask for the others; posterior.probabilities(name) tells how sure a discrete site is."
    )

    @vb.model
    def spike_and_slab(y):
        inside = vb.sample("inside", dist.Bernoulli(0.5))
        slope = vb.sample("slope", dist.Normal(0.0, jnp.where(inside == 1, 3.0, 0.3)))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(slope, 1.0), obs=y)

    spiked = vb.fit(spike_and_slab(y), "mean_field").uncorrected()
    assert spiked.linear_response().names == ("slope",)
    with pytest.raises(vb.ModelError) as error:
        spiked.sensitivity()
    assert str(error.value) == (
        "site 'slope': its prior depends on a discrete site and is summed with the observations, so that neither can "
        "be told apart.\n"
        "  To mend it: Fit again with another prior, or without a row, and compare."
    )
