# %% [markdown]
# # The bound and the gap
#
# Variational Bayes looks for the distribution Q, in a family, that is nearest to the posterior. For every Q
#
#     log evidence  =  ELBO(Q)  +  KL(Q || posterior),
#
# so that raising the bound closes the gap, although nobody knows the two on their own. For a straight line through
# a few points, with known noise and normal priors, all three have closed forms: here they are computed at every
# moment of a fit from the parameters of Q alone, and the identity is checked.

# %%
import warnings

import _style
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

NOISE = 0.5
x = np.linspace(0.0, 2.0, 9)
y = np.array([0.1, 0.9, 0.6, 1.5, 1.3, 1.1, 2.2, 1.9, 2.4])


@vb.model
def line(x, y):
    weights = vb.sample("weights", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with vb.plate("point", len(x)):
        vb.sample("y", dist.Normal(weights[0] + weights[1] * x, NOISE), obs=y)


# %% [markdown]
# The truth: the posterior is `N(mean, covariance)`, and the evidence the density of `y` under `N(0, X X' + noise)`.

# %%
X = np.stack([np.ones_like(x), x], axis=1)
covariance = np.linalg.inv(X.T @ X / NOISE**2 + np.eye(2))
mean = covariance @ X.T @ y / NOISE**2


def log_normal(value, mean, covariance):
    off = value - mean
    return -(off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2


log_evidence = log_normal(y, np.zeros(len(y)), X @ X.T + NOISE**2 * np.eye(len(y)))


def elbo(loc, scale):
    """The expected log joint density under Q = N(loc, scale), and Q's entropy. It does not ask for the posterior."""
    likelihood = log_normal(y, X @ loc, NOISE**2 * np.eye(len(y))) - np.trace(X @ scale @ X.T) / (2 * NOISE**2)
    prior = log_normal(loc, np.zeros(2), np.eye(2)) - np.trace(scale) / 2
    return likelihood + prior + np.linalg.slogdet(2 * np.pi * np.e * scale)[1] / 2


def gap(loc, scale):
    """KL(N(loc, scale) || posterior)."""
    off, ratio = loc - mean, np.linalg.solve(covariance, scale)
    return (np.trace(ratio) - 2 - np.linalg.slogdet(ratio)[1] + off @ np.linalg.solve(covariance, off)) / 2


# %% [markdown]
# A callback sees the parameters of Q as the fit goes on. Each guide says what they mean.


# %%
def watch(guide, steps):
    """Fit, and keep at each moment: the step, the mean of Q, its covariance."""
    moments = []

    def keep(progress):
        phi = np.asarray(progress.params["guide"], np.float64)
        factor = np.asarray(guide.factor(phi))
        moments.append((progress.step, np.asarray(guide.loc(phi)), factor @ factor.T))

    method = vb.Stochastic(steps=steps, draws=16, every=1)
    # `fit` warns that mean field is no good approximation here. How far off it is, is what we are about to see.
    warnings.simplefilter("ignore", vb.VbpplWarning)
    vb.fit(line(x, y), guide, method=method, start={"weights": np.array([1.7, -0.9])}, callback=keep)
    return moments


def main(quick=False, out="bound_and_gap.png"):
    print(f"log evidence: {log_evidence:.6f} nats\n")
    fits = {}
    for name, guide in {"Mean field": vb.MeanField(), "Full rank": vb.FullRank()}.items():
        moments = watch(guide, steps=300 if quick else 1000)
        bounds = np.array([elbo(loc, scale) for _, loc, scale in moments])
        gaps = np.array([gap(loc, scale) for _, loc, scale in moments])
        error = np.abs(bounds + gaps - log_evidence).max()
        fits[name] = {"moments": moments, "bounds": bounds, "gaps": gaps, "error": error}
        first, last = (f"ELBO {bounds[i]:.4f} + gap {gaps[i]:.4f}" for i in (0, -1))
        print(f"{name}: {first} at first, {last} nats at last.")
        print(f"  The sum is the log evidence to within {error:.0e} nats at {len(gaps)} moments.")
    left = (np.linalg.slogdet(np.diag(np.diag(np.linalg.inv(covariance))))[1] + np.linalg.slogdet(covariance)[1]) / 2
    print(f"\nA mean field cannot do better than a gap of {left:.4f} nats: it has no correlations.")
    draw(fits, out)
    return {"fits": fits, "log_evidence": log_evidence, "smallest_mean_field_gap": left}


# %%
def ellipse(loc, scale):
    """The curve that holds 90% of N(loc, scale), `(2, points)`."""
    angle = np.linspace(0, 2 * np.pi, 200)
    radius = np.sqrt(-2 * np.log(0.1))
    return loc[:, None] + radius * np.linalg.cholesky(scale) @ np.stack([np.cos(angle), np.sin(angle)])


def draw(fits, out):
    figure, axes = _style.picture(10, 7.4, nrows=2, ncols=2, width_ratios=[1, 1.2], sharex="col", sharey="col")
    shown = [0, 6, 12, 18, 24, -1]
    colours = _style.plt.get_cmap("viridis_r")(np.linspace(0.12, 1.0, len(shown)))
    for (plane, curve), (name, fit) in zip(axes, fits.items(), strict=True):
        steps, path, _ = zip(*fit["moments"], strict=True)
        plane.fill(*ellipse(mean, covariance), color=_style.PALE, lw=0)
        plane.plot(*np.transpose(path[:32]), color=_style.GREY, lw=0.8)
        bottom = log_evidence - 30
        curve.plot(steps, fit["bounds"], color=_style.BLUE, lw=1.5)
        # The gap is a distance between two lines, at one step: an area would mean nothing.
        arrow = {"arrowstyle": "<->", "color": _style.ORANGE, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
        curve.annotate("", (steps[9], fit["bounds"][9]), (steps[9], log_evidence), arrowprops=arrow)
        curve.axhline(log_evidence, color=_style.INK, lw=1.2)
        for moment, colour in zip(shown, colours, strict=True):
            plane.plot(*ellipse(*fit["moments"][moment][1:]), color=colour, lw=2)
            curve.plot(steps[moment], fit["bounds"][moment], "o", color=colour, ms=7, clip_on=False, zorder=3)
        plane.set_title(f"{name}: Q moves onto the posterior")
        plane.set_ylabel("slope")
        curve.set(xscale="log", ylim=(bottom, log_evidence + 3), xlim=(0.8, 1.3 * steps[-1]))
        curve.set_title(f"{name}: the bound rises until the gap is {fit['gaps'][-1]:.2f} nats")
        curve.set_ylabel("nats")
    axes[0, 0].text(mean[0] + 0.5, mean[1] + 0.25, "posterior", color=_style.GREY)
    axes[0, 0].text(1.55, -0.7, "start", color=_style.GREY, ha="right")
    for curve in axes[:, 1]:
        curve.text(1.0, log_evidence + 0.6, "log evidence")
        curve.text(9, log_evidence - 7, "gap:\nKL(Q || posterior)", color=_style.ORANGE, ha="right")
        curve.text(32, log_evidence - 4, "ELBO", color=_style.BLUE)
    axes[1, 0].set_xlabel("intercept")
    axes[1, 1].set_xlabel("steps of the fit")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
