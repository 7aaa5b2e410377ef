"""Pictures show what the posterior says, on the axes that they are given, and leave no setting behind."""

from __future__ import annotations

import sys
import textwrap

import matplotlib
import matplotlib.path
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.calibration import Calibration
from vbppl.posterior.export import style

X = np.linspace(-1, 1, 20)
Y = 1 + 2 * X + 0.3 * np.cos(7 * X)


@vb.model
def line(x, y=None):
    both = vb.sample("both", dist.Normal(np.zeros(2), 5.0).to_event(1))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(both[0] + both[1] * x, 0.3), obs=y)


@vb.model
def counts(y):
    rate = vb.sample("r$a$te", dist.Exponential(0.5))
    with vb.plate("row", len(y)):
        vb.sample("count", dist.Poisson(rate), obs=y)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def posterior(told):
    return vb.fit(line(X, y=Y), "full_rank", callback=told.append)


@pytest.fixture(scope="module")
def counted():
    return vb.fit(counts(np.array([0, 1, 1, 2, 2, 2, 3, 5])), vb.Laplace())


@pytest.fixture(autouse=True)
def no_setting_is_left_behind():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


def exact():
    """Mean and covariance of a linear regression with a known scale."""
    design = np.stack([np.ones_like(X), X], axis=1)
    covariance = np.linalg.inv(design.T @ design / 0.09 + np.eye(2) / 25)
    return covariance @ design.T @ Y / 0.09, covariance


def test_a_forest_shows_the_central_intervals(posterior):
    axes = vb.plot.forest(posterior)
    mean, covariance = exact()
    ends = [collection.get_segments() for collection in axes.collections]
    for z, segments in zip((1.645, 0.674), ends):
        for n, segment in enumerate(segments):
            expected = mean[n] + np.array([-z, z]) * np.sqrt(covariance[n, n])
            np.testing.assert_allclose(segment[:, 0], expected, atol=0.15 * np.sqrt(covariance[n, n]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["both[0]", "both[1]"]


def test_marginals_are_densities(posterior):
    figure = vb.plot.marginals(posterior, reference={"both": posterior.sample(500, seed=1)["both"]})
    mean, covariance = exact()
    for n, panel in enumerate(figure.axes):
        x, curve = panel.lines[-1].get_data()
        normal = st.norm.pdf(x, mean[n], np.sqrt(covariance[n, n]))
        np.testing.assert_allclose(curve, normal, atol=0.12 * normal.max())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reference", "guide"]


def test_a_pair_has_ellipses_that_hold_what_they_say(posterior):
    square = vb.plot.pair(posterior).axes
    cloud = next(panel for panel in square if len(panel.lines) == 2)
    mean, covariance = exact()
    draws = np.random.default_rng(0).multivariate_normal(mean, covariance, 4000)
    for share, ring in zip((0.5, 0.9), cloud.lines):
        inside = matplotlib.path.Path(np.stack(ring.get_data(), axis=1)).contains_points(draws)
        assert np.mean(inside) == pytest.approx(share, abs=0.04)


def test_data_made_by_the_model_stand_beside_those_seen(posterior, counted):
    spread = vb.plot.predictive(posterior)
    assert spread.get_xlabel() == "y" and len(spread.lines[-1].get_xdata()) == 20
    bars = vb.plot.predictive(counted, n=200)
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars.patches}
    assert {k: heights[k] for k in (0, 1, 2, 3, 4, 5)} == {0: 1 / 8, 1: 2 / 8, 2: 3 / 8, 3: 1 / 8, 4: 0, 5: 1 / 8}
    largest = vb.plot.predictive(counted, statistic=np.max, n=200)
    assert largest.lines[-1].get_xdata()[0] == 5 and "of those made are larger" in largest.get_xlabel()


def test_the_history_ends_where_the_fit_did(posterior):
    axes = vb.plot.history(posterior)
    assert axes.get_title() == f"ELBO {posterior.elbo} nats"
    assert axes.lines[-1].get_xdata() == [len(posterior.history)]
    assert posterior.status.text.split(";")[0] in axes.get_xlabel().replace("\n", " ")


def test_weights_are_shown_with_their_tail(posterior):
    axes = vb.plot.weights(posterior)
    shares = axes.lines[-1].get_ydata()
    assert np.all(np.diff(shares) <= 0) and shares.sum() == pytest.approx(1, abs=1e-6)
    assert "draws are worth" in axes.get_title()


def test_the_guide_moves_onto_the_posterior(posterior, told):
    figure = vb.plot.moving(posterior, told, panels=3)
    assert figure.axes[-1].get_title() == f"step {told[-1].step:,}"
    mean, _ = exact()
    x, y = figure.axes[-1].lines[0].get_data()  # the ellipse around the guide at the end
    np.testing.assert_allclose([x[:-1].mean(), y[:-1].mean()], mean, atol=0.05)
    with pytest.raises(ValueError, match="nothing told of this guide"):
        vb.plot.moving(posterior, [])
    with pytest.raises(ValueError, match="two of both"):
        vb.plot.moving(posterior, told, "both[0]", "a")


def test_ranks_stand_on_their_band():
    ranks = np.stack([np.arange(0, 128), np.arange(0, 128) // 2], axis=1)
    figure = vb.plot.calibration(Calibration(("even", "uneven"), ranks, 127, 0))
    colours = [panel.lines[-1].get_color() for panel in figure.axes]
    assert colours == [style.BLUE, style.ORANGE]
    assert np.abs(figure.axes[0].lines[-1].get_ydata()).max() < 0.01


def test_a_map_names_each_group_in_the_middle_of_it():
    @vb.model
    def rows(y):
        with vb.plate("row", len(y)):
            vb.sample(
                "y", dist.Normal(vb.sample("z", dist.Normal(np.zeros(3), 1.0).to_event(1)), 0.1).to_event(1), obs=y
            )

    y = np.array([[1.0, 0, 0], [1.1, 0, 0], [-1.0, 0, 0.1], [-1.1, 0, 0.1]])
    posterior = vb.fit(rows(y), vb.Laplace())
    axes = vb.plot.latent_map(posterior, "z", groups=["a", "a", "<b>", "<b>"])
    assert {text.get_text() for text in axes.texts} == {"a", "<b>"} and "principal" in axes.get_xlabel()
    with pytest.raises(ValueError, match="one label for each of 4 rows"):
        vb.plot.latent_map(posterior, "z", groups=["a"])
    with pytest.raises(KeyError, match="no site is called 'x'"):
        vb.plot.latent_map(posterior, "x")


def test_axes_of_ones_own_are_drawn_on(posterior):
    figure, (left, right) = plt.subplots(1, 2)
    assert vb.plot.forest(posterior, ax=left) is left and vb.plot.marginals(posterior, axes=(left, right)) is figure
    with pytest.raises(ValueError, match="axes must be 2, one for each panel, not 1"):
        vb.plot.marginals(posterior, axes=left)


def test_a_name_is_not_read_as_mathematics(counted):
    figure = vb.plot.marginals(counted)
    figure.canvas.draw()
    assert figure.axes[0].get_title() == r"r\$a\$te"
    assert figure.axes[0].lines[0].get_xdata().min() < 1 and np.all(figure.axes[0].lines[0].get_ydata() >= 0)


def luminance(colour):
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("page", ["white", "#111111"])
def test_words_and_lines_can_be_read_on_a_light_page_and_on_a_dark_one(page, posterior):
    def contrast(colour):
        low, high = sorted((luminance(colour), luminance(page)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(style.INK) > 4.1 and min(map(contrast, (style.BLUE, style.ORANGE, style.GREEN))) > 3
    figure = vb.plot.history(posterior).figure
    assert figure.get_facecolor()[3] == 0 and figure.axes[0].get_facecolor()[3] == 0


def test_what_cannot_be_drawn_is_told(posterior, counted, monkeypatch):
    with pytest.raises(TypeError, match="posterior must be what vb.fit gave back"):
        vb.plot.forest(line(X, y=Y))
    with pytest.raises(KeyError, match="no site is called 'a'"):
        vb.plot.forest(posterior, "a")
    with pytest.raises(ValueError, match=r"reference: draws of 'both' must have shape \(n, 2\), not \(5,\)"):
        vb.plot.forest(posterior, reference={"both": np.zeros(5)})
    with pytest.raises(KeyError, match="no site is observed that is called 'z'; observed are y"):
        vb.plot.predictive(posterior, "z")
    with pytest.raises(ValueError, match="names must choose 2 to 6 scalars for one picture, not 1"):
        vb.plot.pair(counted)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "vbppl\[plots\]"'):
        vb.plot.forest(posterior)


@pytest.mark.slow
def test_a_notebook_shows_each_picture_once(monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    fit = """
        import vbppl as vb, vbppl.distributions as dist

        @vb.model
        def pair():
            vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(0.0, 1.0))

        posterior = vb.fit(pair(), "mean_field", progress=False)
    """
    pictures = [f"vb.plot.{name}(posterior)" for name in ("forest", "history", "marginals", "weights", "pair")]
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(text)) for text in (fit, *pictures)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [sum("image/png" in out.get("data", {}) for out in cell["outputs"]) for cell in notebook.cells[1:]]
    assert shown == [1] * len(pictures)
