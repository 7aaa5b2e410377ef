"""Models with known optima: the best Gaussian of a family, from closed forms, linear algebra or long quadrature."""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
from scipy import stats

import vbppl as vb


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
