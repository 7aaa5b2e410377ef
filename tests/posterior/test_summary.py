"""The table: every digit, column and omission of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vbppl.posterior.summary import Summary, summarise


def quantile_draws(mean, sd, n=1000):
    """Draws whose quantiles are a normal's."""
    return mean + sd * stats.norm.ppf((np.arange(n) + 0.5) / n)


def test_the_whole_table_of_a_small_model():
    draws = {
        "mu": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        "theta": np.array([[0.0, 1e6], [0.001, 2e6], [0.002, 3e6], [0.003, 4e6], [0.004, 5e6]]),
    }
    expected = """
               mean         sd         5%        50%        95%
mu            3.000      1.414      1.200      3.000      4.800
theta[0]     0.0020     0.0014  2.000e-04     0.0020     0.0038
theta[1]  3.000e+06  1.414e+06  1.200e+06  3.000e+06  4.800e+06

FullRank guide, 3 dims
verdict: good
"""
    assert f"\n{summarise(draws, ['FullRank guide, 3 dims', 'verdict: good'])}\n" == expected


def test_each_row_is_numpys_moments_and_quantiles():
    draws = np.random.default_rng(0).normal(size=(100, 2, 3))
    rows = dict(summarise({"x": draws}, []).rows)
    assert list(rows) == [f"x[{i},{j}]" for i in range(2) for j in range(3)]
    column = draws[:, 1, 2]
    expected = [column.mean(), column.std(), *np.quantile(column, [0.05, 0.5, 0.95])]
    np.testing.assert_allclose(rows["x[1,2]"], expected)


def test_float32_draws_are_averaged_in_float64():
    draws = np.full(10_000, 1e4, np.float32) + np.float32(0.125) * (np.arange(10_000) % 2).astype(np.float32)
    ((_, (mean, sd, *_)),) = summarise({"x": draws}, []).rows
    assert mean == pytest.approx(1e4 + 0.0625, abs=1e-9)
    assert sd == pytest.approx(0.0625, abs=1e-9)


def test_a_long_site_keeps_its_ends_and_says_how_many_lines_are_left_out():
    table = str(summarise({"x": np.zeros((4, 100)), "y": np.zeros(4)}, ["end"])).splitlines()
    names = [line.split("  ")[0] for line in table[1:-2]]
    assert names[:9] == [f"x[{i}]" for i in range(9)]
    assert names[9:13] == ["... 89 more", "x[98]", "x[99]", "y"]


def test_sites_of_their_own_are_not_folded_because_their_names_look_like_an_array():
    table = str(summarise({f"w[{i}]": np.zeros(4) for i in range(20)}, []))
    assert "more" not in table and all(f"w[{i}] " in table for i in range(20))


def test_a_site_of_twelve_lines_is_shown_whole():
    table = str(summarise({"x": np.zeros((4, 12))}, []))
    assert "more" not in table and "x[11]" in table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (1.0, "1.000"),
        (-12.3456, "-12.35"),
        (99999.4, "99999"),
        (123456.0, "1.235e+05"),
        (0.00123456, "0.0012"),
        (0.000123456, "1.235e-04"),
        (np.nan, "nan"),
        (-np.inf, "-inf"),
    ],
)
def test_numbers_have_four_digits_and_no_needless_exponent(value, text):
    line = str(Summary(((("x", (value,) * 5),),))).splitlines()[1]
    assert line.split()[1:] == [text] * 5


def test_html_is_a_table_and_escapes_names_and_notes():
    page = summarise({"a<b": np.ones(3)}, ["log evidence >= -1", "<script>"])._repr_html_()
    assert "<th>mean</th><th>sd</th>" in page and page.startswith("<table>")
    assert "a&lt;b" in page and "log evidence &gt;= -1" in page and "&lt;script&gt;" in page
    assert "<script>" not in page
    assert page.count("<td>") == 5


def test_html_leaves_the_middle_of_a_long_site_out_too():
    assert "... 89 more" in summarise({"x": np.zeros((4, 100))}, [])._repr_html_()


def test_a_table_without_sites_has_its_notes():
    assert str(summarise({}, ["nothing latent"])).endswith("\n\nnothing latent")


def test_the_median_of_a_normal_is_its_mean():
    ((_, row),) = summarise({"x": quantile_draws(2.0, 3.0)}, []).rows
    np.testing.assert_allclose(row, [2.0, 3.0, 2 - 3 * 1.6449, 2.0, 2 + 3 * 1.6449], rtol=0.01)
