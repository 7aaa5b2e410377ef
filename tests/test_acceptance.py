"""The deterministic fit against known optima, in 32 and 64 bits, from several seeds, without tuning.

The references are closed forms, linear algebra, or quadrature optimised for long in float64; see
tests/cases.py for the models. Tolerances: the bound to 0.01 nat, means to 0.02 posterior sds, scales to
3%. `python tests/test_acceptance.py` prints how close each fit comes.
"""

from __future__ import annotations

import dataclasses

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best Gaussian of a family in unconstrained space; `correlations` in the order 01, 02, 12."""

    model: vb.Model
    guide: str
    loc: tuple[float, ...]
    sd: tuple[float, ...]
    elbo: float
    correlations: tuple[float, ...] = ()
    elbo_tolerance: float = 0.01


COLUMNS = np.array([1.0, 1e3, 1e-3])
X4, Y4 = cases.quadratic_data()
FLIPS = cases.beta_bernoulli(cases.FLIPS)
PAIRS = cases.normal_normal(cases.PAIRS)
WAITS = cases.gamma_exponential(cases.WAITS)
LINEAR = cases.linear_regression(X4, Y4)
SCALED = cases.linear_regression(X4 * COLUMNS, Y4, 1 / COLUMNS)
COUNTS = cases.poisson_regression(np.linspace(-1, 1, 40), cases.COUNTS)
LOGISTIC = cases.logistic_regression(*cases.logistic_data())
SHIFTED = cases.logistic_regression(*cases.logistic_data(), 1e6)
FAR = cases.far_datum(np.array(10.0))

LOC2, SD2 = (0.049793, 0.475155), (0.203700, 0.249222)
LOC4, CORRELATIONS4 = (0.963571, 0.362939, -0.698469), (0.1766, -0.5588, -0.7681)
SD4_MF, SD4_FR = (0.111111, 0.107017, 0.069998), (0.152308, 0.189991, 0.147489)
LOC7_MF, SD7_MF = (0.91710, 1.79013, 2.12508), (0.21006, 0.22795, 0.27451)
LOC7_FR, SD7_FR = (0.92318, 1.79679, 2.13639), (0.22217, 0.26380, 0.31617)
EVIDENCE12 = float(stats.norm.logpdf(10.0, scale=np.sqrt(1.25)))
BIG = 0.25 + 0.01  # nats: 4 units in the last place of a million in float32


def scaled(values):
    return tuple(np.array(values) / COLUMNS)


OPTIMA = {
    "1 beta-bernoulli, mean field": Optimum(FLIPS, "mean_field", (1.21026,), (0.69512,), -6.21364),
    "1 beta-bernoulli, full rank": Optimum(FLIPS, "full_rank", (1.21026,), (0.69512,), -6.21364),
    "2 normal-normal, mean field": Optimum(PAIRS, "mean_field", LOC2, SD2, -6.603657),
    "2 normal-normal, full rank": Optimum(PAIRS, "full_rank", LOC2, SD2, -6.603657, (0.0,)),
    "3 gamma-exponential, mean field": Optimum(WAITS, "mean_field", (-0.859814,), (0.577350,), -4.709809),
    "3 gamma-exponential, auto": Optimum(WAITS, "auto", (-0.859814,), (0.577350,), -4.709809),
    "4 linear regression, mean field": Optimum(LINEAR, "mean_field", LOC4, SD4_MF, -14.002775),
    "4 linear regression, full rank": Optimum(LINEAR, "full_rank", LOC4, SD4_FR, -13.129251, CORRELATIONS4),
    "4 linear regression, auto": Optimum(LINEAR, "auto", LOC4, SD4_FR, -13.129251, CORRELATIONS4),
    "5 correlation 0.9, mean field": Optimum(
        cases.correlated_pair(), "mean_field", (0.0, 0.0), (0.435890, 0.435890), -0.830366
    ),
    "5 correlation 0.9, full rank": Optimum(cases.correlated_pair(), "full_rank", (0.0, 0.0), (1.0, 1.0), 0.0, (0.9,)),
    "6 Poisson regression, mean field": Optimum(
        COUNTS, "mean_field", (0.80693, 1.22664), (0.09237, 0.14242), -67.52599
    ),
    "6 Poisson regression, full rank": Optimum(
        COUNTS, "full_rank", (0.80313, 1.23656), (0.11522, 0.17757), -67.30477, (-0.5977,)
    ),
    "7 logistic regression, mean field": Optimum(LOGISTIC, "mean_field", LOC7_MF, SD7_MF, -72.29974),
    "7 logistic regression, full rank": Optimum(LOGISTIC, "full_rank", LOC7_FR, SD7_FR, -72.13746),
    "12 far datum, mean field": Optimum(FAR, "mean_field", (8.0,), (0.447214,), EVIDENCE12),
    "12 far datum, auto": Optimum(FAR, "auto", (8.0,), (0.447214,), EVIDENCE12),
    "13 shifted by 1e6, mean field": Optimum(
        SHIFTED, "mean_field", LOC7_MF, SD7_MF, 1e6 - 72.29974, elbo_tolerance=BIG
    ),
    "13 shifted by 1e6, full rank": Optimum(SHIFTED, "full_rank", LOC7_FR, SD7_FR, 1e6 - 72.13746, elbo_tolerance=BIG),
    "13 scaled columns, mean field": Optimum(SCALED, "mean_field", scaled(LOC4), scaled(SD4_MF), -14.002775),
    "13 scaled columns, full rank": Optimum(
        SCALED, "full_rank", scaled(LOC4), scaled(SD4_FR), -13.129251, CORRELATIONS4
    ),
}
# Mean field is not always good, and says so; here only its optimum is asked for.
pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

CHEAP = {"2 normal-normal, full rank", "12 far datum, mean field", "4 linear regression, auto"}
NAMES = [pytest.param(name, marks=[pytest.mark.smoke] if name in CHEAP else []) for name in OPTIMA]


def distances(name, seed):
    """The fit, and how far it is from the optimum: in nats, in sds, in relative scale, in correlation."""
    optimum = OPTIMA[name]
    posterior = vb.fit(optimum.model, optimum.guide, seed=seed)
    phi = np.asarray(posterior.phi, float)
    factor = np.asarray(posterior.guide.factor(phi), float)
    sd = np.sqrt((factor**2).sum(axis=1))
    correlations = (factor @ factor.T / np.outer(sd, sd))[np.triu_indices(len(sd), 1)]
    return (
        posterior,
        abs(posterior.elbo.value - optimum.elbo),
        float(np.max(np.abs(phi[0] - optimum.loc) / optimum.sd)),
        float(np.max(np.abs(sd / optimum.sd - 1))),
        float(np.max(np.abs(correlations - optimum.correlations), initial=0.0)) if optimum.correlations else 0.0,
    )


def check(name, seed):
    posterior, elbo, loc, sd, correlation = distances(name, seed)
    told = f"off by {elbo:.2g} nats, {loc:.2g} sds, {sd:.2%} of a scale, {correlation:.2g} in correlation"
    assert posterior.status.converged, posterior.status
    assert elbo < OPTIMA[name].elbo_tolerance + 4 * posterior.elbo.se and loc < 0.02 and sd < 0.03, told
    assert correlation < 0.01, told


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_fit_reaches_the_known_optimum_in_float32(name, seed):
    check(name, seed)


@pytest.mark.parametrize("name", NAMES)
def test_fit_reaches_the_known_optimum_in_float64(name, x64):
    check(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 20))
@pytest.mark.parametrize("name", NAMES)
def test_fit_reaches_the_known_optimum_from_every_seed(name, seed):
    check(name, seed)


def test_the_far_datum_is_exact_to_five_digits_in_float64(x64):
    posterior = vb.fit(FAR)
    assert posterior.mean()["x"] == pytest.approx(8.0, abs=1e-5)
    assert posterior.sd()["x"] == pytest.approx(np.sqrt(0.2), abs=1e-5)
    assert posterior.elbo.value == pytest.approx(EVIDENCE12, abs=1e-5)


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_an_additive_constant_changes_neither_the_answer_nor_the_stop(guide, x64):
    plain, shifted = vb.fit(LOGISTIC, guide), vb.fit(SHIFTED, guide)
    np.testing.assert_allclose(shifted.phi, plain.phi, atol=1e-5)
    assert shifted.elbo.value - 1e6 == pytest.approx(plain.elbo.value, abs=1e-6)
    assert (shifted.status.reason, shifted.status.converged) == (plain.status.reason, plain.status.converged)
    assert shifted.status.steps == pytest.approx(plain.status.steps, abs=5)


def tall_data(rows=10**6, columns=20, correlation=0.9):
    """Columns of unit variance that correlate by 0.9 with one another."""
    rng = np.random.default_rng(0)
    x = np.sqrt(correlation) * rng.standard_normal((rows, 1)) + np.sqrt(1 - correlation) * rng.standard_normal(
        (rows, columns)
    )
    x = x.astype(np.float32)
    return x, (x @ np.linspace(-1, 1, columns) + 0.5 * rng.standard_normal(rows)).astype(np.float32)


@vb.model
def tall_regression(x, y):
    beta = vb.sample("beta", dist.Normal(np.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(vb.subsample(x, event_dim=1) @ beta, 0.5), obs=vb.subsample(y))


def check_tall(posterior, x, y, full_rank=True):
    precision = x.T.astype(float) @ x / 0.25 + np.eye(x.shape[1])
    covariance = np.linalg.inv(precision)
    mean = covariance @ (x.T.astype(float) @ y / 0.25)
    told = np.abs(np.asarray(posterior.phi[0], float) - mean) / np.sqrt(np.diag(covariance))
    assert posterior.status.converged, posterior.status
    assert told.max() < 0.05, told
    sd = np.sqrt(np.diag(covariance)) if full_rank else np.diag(precision) ** -0.5
    np.testing.assert_allclose(cases.flat_moments(posterior)[1], sd, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_million_rows_are_fitted_to_a_twentieth_of_an_exact_sd(guide):
    x, y = tall_data()
    check_tall(vb.fit(tall_regression(x, y), guide), x, y, guide == "full_rank")


def test_correlated_columns_are_fitted_in_minibatches():
    x, y = tall_data(30_000, 5)
    check_tall(vb.fit(tall_regression(x, y), batch_size=1024), x, y)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(10**5, 10), (10**6, 20)])
def test_a_million_rows_are_fitted_in_minibatches_to_a_twentieth_of_an_exact_sd(size):
    x, y = tall_data(*size)
    check_tall(vb.fit(tall_regression(x, y), batch_size=1024), x, y)


@vb.model
def tall_logistic(x, y):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=vb.subsample(x, event_dim=1) @ beta), obs=vb.subsample(y))


@pytest.mark.slow
def test_a_logistic_regression_of_a_million_rows_in_minibatches_agrees_with_all_rows_at_once():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10**6, 100), dtype=np.float32)
    y = (rng.random(10**6) < 1 / (1 + np.exp(-x @ (rng.standard_normal(100) / 10)))).astype(np.float32)
    whole = vb.fit(tall_logistic(x, y), "mean_field")
    parts = vb.fit(tall_logistic(x, y), "mean_field", batch_size=1024)
    assert whole.status.converged and parts.status.reason == "settled", (whole.status, parts.status)
    sd = whole.sd()["beta"]
    assert np.abs((parts.mean()["beta"] - whole.mean()["beta"]) / sd).max() < 0.05
    np.testing.assert_allclose(parts.sd()["beta"], sd, rtol=0.03)


SEEDS = 20


def closeness():
    """A line for each case: the worst distances of 20 seeds, the median gradients, and the fits that miss."""
    print(f"{'':36}{'float32':^60}{'float64':^60}")
    print(f"{'':36}" + 2 * f"{'nats':>10}{'sds':>10}{'scale':>10}{'corr':>10}{'gradients':>12}{'missed':>8}")
    for name, optimum in OPTIMA.items():
        cells = []
        for double in (False, True):
            with jax.enable_x64(double):
                fits = [distances(name, seed) for seed in range(SEEDS)]
            most = np.array([optimum.elbo_tolerance, 0.02, 0.03, 0.01])
            missed = sum(not fit[0].status.converged or bool(np.any(np.array(fit[1:]) > most)) for fit in fits)
            worst = np.max([fit[1:] for fit in fits], axis=0)
            gradients = int(np.median([fit[0].status.gradients for fit in fits]))
            cells.append("".join(f"{value:10.1e}" for value in worst) + f"{gradients:12,}{missed:8}")
        print(f"{name:36}" + "".join(cells), flush=True)


if __name__ == "__main__":
    closeness()
