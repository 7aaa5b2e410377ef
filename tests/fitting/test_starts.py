"""A fit finds what its prior says, however far from the origin."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from jax.scipy.stats import norm
from scipy import special

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree
from vbppl.fitting.prepare import from_prior

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@vb.model
def far(y, loc):
    mu = vb.sample("mu", dist.Normal(loc, 10.0))
    s = vb.sample("s", dist.HalfNormal(5.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(mu, s), obs=y)


NOISE = np.random.default_rng(0).normal(size=50)


def right():
    """Means and sds of mu, from where the prior is, and of s, by quadrature."""
    mu, s = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(0.5, 2.0, 401), indexing="ij")
    log_p = st.norm.logpdf(mu, 0, 10) + st.halfnorm.logpdf(s, scale=5)
    log_p += sum(st.norm.logpdf(y, mu, s) for y in NOISE)
    p = np.exp(log_p - log_p.max())
    means = [(p * each).sum() / p.sum() for each in (mu, s)]
    return [(m, np.sqrt((p * (each - m) ** 2).sum() / p.sum())) for m, each in zip(means, (mu, s))]


def check_far(posterior, loc, coarse):
    """To a tenth of an sd, and to what the places of mu are apart in the session's dtype."""
    for name, (mean, sd), at, error in zip(("mu", "s"), right(), (loc, 0.0), (coarse, 0.0)):
        assert float(posterior.mean()[name]) == pytest.approx(at + mean, abs=0.1 * sd + error)
        assert float(posterior.sd()[name]) == pytest.approx(sd, rel=0.1)


def test_a_prior_at_a_hundred_thousand_is_met():
    posterior = vb.fit(far(1e5 + NOISE, 1e5))
    assert posterior.report.verdict == "good"
    check_far(posterior, 1e5, 0.008)


def test_a_prior_at_a_hundred_thousand_is_met_in_float64(x64):
    posterior = vb.fit(far(1e5 + NOISE, 1e5))
    assert posterior.report.verdict == "good"
    check_far(posterior, 1e5, 0.0)


@pytest.mark.slow
def test_where_the_starts_disagree_draws_of_the_prior_are_starts_too(x64):
    posterior = vb.fit(far(1e8 + NOISE, 1e8))
    assert posterior.report.verdict == "good"
    (note,) = [note.text for note in posterior.check().notes if note.topic == "starts"]
    assert note.startswith("32 draws of the prior were starts too; one of them led to a bound ")
    check_far(posterior, 1e8, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_where_places_lie_half_an_sd_apart_the_answer_is_right_and_poor_with_every_seed(seed):
    """At a million the numbers of float32 are a sixteenth apart, half of an sd, which went unsaid with seed 1."""
    posterior = vb.fit(far(1e6 + NOISE, 1e6), seed=seed)
    assert "precision" in [note.topic for note in posterior.check().notes]
    assert posterior.report.verdict == "poor"
    told = "in float32, which the posterior is given back in, the places of mu lie 0.4"
    assert posterior.report.reasons[0].startswith(told)
    check_far(posterior, 1e6, 1 / 32)


@pytree
class OnlySeen(dist.Distribution):
    """A normal that cannot be drawn from."""

    loc: float
    support = dist.constraints.real

    def _log_density(self, x):
        return norm.logpdf(x, self.loc)


def test_where_no_box_has_a_finite_density_a_draw_of_the_prior_is_the_start():
    """Of what is latent: what is observed is not drawn, of which there may be many, or no sampler."""

    @vb.model
    def walled():
        x = vb.sample("x", dist.Normal(1000.0, 1.0))
        vb.factor("wall", jnp.where(jnp.abs(x - 1000.0) < 5.0, 0.0, -jnp.inf))
        vb.sample("y", OnlySeen(x), obs=1001.0)

    posterior = vb.fit(walled())
    assert float(posterior.mean()["x"]) == pytest.approx(1000.5, abs=0.01)
    assert float(posterior.sd()["x"]) == pytest.approx(0.5**0.5, rel=0.01)
    assert "starts: the boxes held none; one of 32 draws of the prior was taken" in posterior.check().details
    assert "a draw of the prior was the only start" in str(posterior.check())


def test_a_fit_whose_starts_agree_does_not_ask_the_prior():
    """Of heavy tails, which are poor whatever the starts."""

    @vb.model
    def heavy(y):
        mu = vb.sample("mu", dist.Normal(0.0, 10.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Cauchy(mu, 1.0), obs=y)

    posterior = vb.fit(heavy(np.array([8.0, -5.0, -4.5])))
    assert posterior.report.verdict != "good"
    assert not [note for note in posterior.check().notes if note.topic == "starts"]


def test_a_sampler_that_fails_costs_no_fit_and_is_told():
    """Only draws of the prior need it, which are one more place to look for starts."""

    @vb.model
    def model():
        vb.sample("x", dist.Normal(0.0, 1.0))

    target = vb.target(model())

    def broken(*_):
        raise RuntimeError("no sampler")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist.Normal, "_sample", broken)
        with pytest.warns(vb.VbpplWarning, match="no start was looked for there: RuntimeError: no sampler"):
            assert from_prior(target, np.zeros(2, np.uint32)) is None


# Berry's putts: distances in feet, tries, successes; and the angle within which a ball of 1.68 inches falls into 4.25.
FEET = np.arange(2, 21)
TRIES = np.array([1443, 694, 455, 353, 272, 256, 240, 217, 200, 237, 202, 192, 174, 167, 201, 195, 191, 147, 152])
HOLED = np.array([1346, 577, 337, 208, 149, 136, 111, 69, 67, 75, 52, 46, 54, 28, 27, 31, 33, 20, 24])
ANGLE = np.arcsin((4.25 - 1.68) / 24 / FEET)


@vb.model
def golf(angle, feet, tries, y):
    a, d = (vb.sample(name, dist.HalfNormal(1.0)) for name in ("angle", "distance"))
    straight, unit = 2 * norm.cdf(angle / a) - 1, 1 / ((feet + 1) * d)
    far = norm.cdf(2 * unit) - norm.cdf(-unit)
    with vb.plate("foot", len(feet)):
        vb.sample("y", dist.Binomial(tries, straight * far), obs=y)


def golf_evidence(low, high):
    """Over a box of both sds that holds one mode, by the midpoint rule."""
    a, d = (np.linspace(x, y, 401)[:-1] + (y - x) / 800 for x, y in zip(low, high))
    a, d = a[:, None, None], d[None, :, None]
    unit = 1 / ((FEET + 1) * d)
    p = (2 * st.norm.cdf(ANGLE / a) - 1) * (st.norm.cdf(2 * unit) - st.norm.cdf(-unit))
    log_p = st.binom.logpmf(HOLED, TRIES, p).sum(axis=-1) + np.log(4) + (st.norm.logpdf(a) + st.norm.logpdf(d))[..., 0]
    return special.logsumexp(log_p) + np.log(np.prod(np.subtract(high, low)) / 400**2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 4, 7])
def test_a_mode_far_off_in_scales_is_met_from_every_seed(seed):
    """Two explanations of misses: of angles, 8 nats lower, and of distances, which four seeds of twelve had missed."""
    right, wrong = golf_evidence((0.004, 0.2), (0.014, 0.29)), golf_evidence((0.024, 1e-5), (0.03, 0.12))
    assert right > wrong + 5
    data = (ANGLE, FEET, TRIES, HOLED)
    assert right - 0.1 < vb.fit(golf(*data), "full_rank", seed=seed).elbo.value < right + 0.01
