"""Fits of real and classic posteriors against long references: right, or known to be wrong.

The references are BlackJAX's NUTS or exact draws, and the limits of the bound SciPy's
(benchmarks/posteriors); here they are checked in turn by quadrature, by a second sampler's coordinates and by
a known optimum.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
from scipy import integrate, special

import vbppl as vb
from benchmarks.posteriors import data, store
from benchmarks.posteriors.catalogue import ENTRIES
from benchmarks.posteriors.limits import limit
from benchmarks.posteriors.table import measure

REFERENCE = store.load()
HERE = [entry for entry in ENTRIES if not entry.file and entry.name in REFERENCE]
LONG = pytest.mark.slow


def named(entries):
    return [pytest.param(entry, id=entry.name, marks=() if entry.fast else LONG) for entry in entries]


@pytest.mark.parametrize("entry", named(HERE))
def test_no_wrong_answer_calls_itself_good(entry):
    fit = measure(entry, REFERENCE[entry.name], entry.model())
    assert not fit.silent, fit
    assert fit.near or fit.verdict != "good", fit


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
@pytest.mark.parametrize("entry", [e for e in HERE if e.hard], ids=lambda e: e.name)
def test_no_gaussian_is_called_good_where_none_can_be(entry, guide):
    assert measure(entry, REFERENCE[entry.name], entry.model(), guide).verdict != "good"


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_a_reference_has_converged(name):
    made = REFERENCE[name]["made"]
    if made["by"] == "NUTS":
        assert made["rhat"] < 1.01
        assert made["ess"] > 1000
        assert min(REFERENCE[name]["constrained"]["ess"]) > 1000


def test_twenty_posteriors_have_a_reference():
    assert len({entry.name for entry in ENTRIES} & set(REFERENCE)) >= 20
    assert set(REFERENCE) <= {entry.name for entry in ENTRIES}


def test_the_two_parametrisations_of_eight_schools_agree():
    # Two runs of NUTS on two densities: within four joint standard errors.
    one, other = (by_name(name, "constrained") for name in ("schools", "schools-noncentred"))
    for name in one.keys() & other.keys():
        for what, se in (("mean", "mcse"), ("sd", "sd_mcse")):
            joint = np.hypot(one[name][se], other[name][se])
            assert abs(one[name][what] - other[name][what]) < 4 * joint, name


def test_the_reference_of_bliss_beetles_is_what_quadrature_gives():
    killed, exposed, dose = data.BEETLES
    row = by_name("beetles", "unconstrained")

    # Along the ridge: u is the logit at a middle dose, b the slope.
    def density(u, b):
        logits = u + b * (dose - 1.77)
        log_p = np.sum(killed * logits - exposed * np.logaddexp(0.0, logits)) + 190.0
        return np.exp(log_p - ((u - b * 1.77) ** 2 + b**2) / 2e4)

    def moment(f):
        return integrate.dblquad(lambda u, b: f(u, b) * density(u, b), 15.0, 60.0, -1.5, 3.0, epsrel=1e-6)[0]

    total = moment(lambda u, b: 1.0)
    mean = moment(lambda u, b: b) / total
    sd = np.sqrt(moment(lambda u, b: b**2) / total - mean**2)
    assert abs(row["b"]["mean"] - mean) < 4 * row["b"]["mcse"]
    assert abs(row["b"]["sd"] - sd) < 4 * row["b"]["sd_mcse"]


def test_the_reference_of_the_pumps_is_what_quadrature_gives():
    # The rates integrate out: failures are negative binomial given (alpha, beta).
    x, t = data.PUMP_FAILURES, data.PUMP_HOURS
    log_alpha, log_beta = np.meshgrid(np.linspace(-4, 3, 400), np.linspace(-9, 4, 400), indexing="ij")
    alpha, beta = np.exp(log_alpha), np.exp(log_beta)
    log_p = -alpha + log_alpha + 0.1 * log_beta - beta
    for count, hours in zip(x, t):
        log_p += special.gammaln(alpha + count) - special.gammaln(alpha)
        log_p += alpha * (log_beta - np.log(beta + hours)) - count * np.log(beta + hours)
    weights = np.exp(log_p - log_p.max())
    weights /= weights.sum()
    row = by_name("pumps", "unconstrained")
    for name, value in (("alpha", log_alpha), ("beta", log_beta)):
        mean = np.sum(weights * value)
        sd = np.sqrt(np.sum(weights * (value - mean) ** 2))
        assert abs(row[name]["mean"] - mean) < 4 * row[name]["mcse"]
        assert abs(row[name]["sd"] - sd) < 4 * row[name]["sd_mcse"]


def test_the_limit_of_the_bound_is_the_known_optimum(x64):
    # Case 6 of the known answers, from quadrature and long optimisation elsewhere; five digits are known.
    target, rng = vb.target(cases.poisson_regression(np.linspace(-1, 1, 40), cases.COUNTS)), np.random.default_rng(0)
    rough = rng.multivariate_normal([0.8, 1.2], [[0.013, -0.01], [-0.01, 0.03]], size=500)
    for full_rank, elbo in ((False, -67.52599), (True, -67.30477)):
        found = limit(target, rough, full_rank, 1024, rng)
        assert abs(found.elbo - elbo) < 4 * found.se + 1e-4
        assert abs(found.above) < 1e-3


def by_name(name, space):
    table = REFERENCE[name][space]
    columns = [key for key in table if key != "names"]
    return {scalar: {key: table[key][at] for key in columns} for at, scalar in enumerate(table["names"])}
