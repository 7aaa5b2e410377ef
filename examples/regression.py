# %% [markdown]
# # A regression with its uncertainty
#
# 442 people with diabetes: ten measurements of each, and how far the disease had come a year later (Efron, Hastie,
# Johnstone and Tibshirani 2004; the data come with scikit-learn). Which measurements tell something, how well does
# the line predict people it has not seen, and is the model right?

# %%
import _style
import numpy as np
from sklearn.datasets import load_diabetes

import vbppl as vb
import vbppl.distributions as dist

NAMES = ["age", "sex", "body mass", "blood pressure", "total cholesterol", "LDL", "HDL", "total / HDL"]
NAMES += ["log triglycerides", "glucose"]
HELD_OUT = 92


# %%
@vb.model
def regression(x, y=None):
    intercept = vb.sample("intercept", dist.Normal(0.0, 1.0))
    slopes = vb.sample("slopes", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    with vb.plate("person", len(x)):
        vb.sample("y", dist.Normal(intercept + x @ slopes, noise), obs=y)


# %% [markdown]
# Every column is measured in its own standard deviations, and so is the outcome: then one prior fits all slopes, and
# a slope of 0.3 means 0.3 sd of the outcome for each sd of the measurement. The held-out people play no part in it.


# %%
def load():
    """The scaled measurements and outcomes of those used and those held out, and the outcome's mean and sd."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(y))
    used, held = order[HELD_OUT:], order[:HELD_OUT]
    x = (x - x[used].mean(0)) / x[used].std(0)
    centre, scale = y[used].mean(), y[used].std()
    return x[used], (y[used] - centre) / scale, x[held], (y[held] - centre) / scale, centre, scale


# %%
def main(quick=False, out="regression.png"):
    x, y, x_new, y_new, centre, scale = load()
    posterior = vb.fit(regression(x, y=y))
    print(posterior.summary())

    n = 1_000 if quick else 4_000
    slopes = np.asarray(posterior.sample(n, seed=1)["slopes"])
    sure = np.maximum(np.mean(slopes > 0, 0), np.mean(slopes < 0, 0))
    known = [f"{name} ({slope:+.2f})" for name, slope, p in zip(NAMES, slopes.mean(0), sure, strict=True) if p > 0.99]
    print(f"\nThe sign of the slope is known with 99% certainty for: {', '.join(known)}.")
    print(f"LDL and total cholesterol share a slope: correlation {np.corrcoef(slopes.T)[4, 5]:.2f} in the posterior.")

    # A posterior predictive check: would data from this model look like ours?
    again = np.asarray(posterior.predict(n=n, seed=2)["y"])
    p_skew = np.mean(skewness(again.T) >= skewness(y))
    p_low = np.mean(again.min(1) < y.min())
    print(f"Replicated outcomes are as skewed as the real ones in {p_skew:.0%} of draws,")
    print(f"and fall below the real minimum in {p_low:.0%}: the normal model knows of no floor.")

    new = np.asarray(posterior.predict(regression(x_new), n=n, seed=3)["y"])
    low, high = np.quantile(new, [0.05, 0.95], axis=0)
    inside = np.mean((low < y_new) & (y_new < high))
    error = scale * np.sqrt(np.mean((new.mean(0) - y_new) ** 2))
    print(f"Of {HELD_OUT} people held out, {inside:.0%} lie in their 90% intervals.")
    print(f"The typical error is {error:.0f} points, against {scale * y_new.std():.0f} without any measurement.")
    draw(slopes, centre + scale * again, centre + scale * y, centre + scale * new, centre + scale * y_new, out)
    return {"posterior": posterior, "data": (x, y), "inside": inside, "error": error}


def skewness(values):
    """The third standardised moment along the first axis."""
    return np.mean(((values - values.mean(0)) / values.std(0)) ** 3, axis=0)


# %%
def draw(slopes, again, y, new, y_new, out):
    figure, (left, middle, right) = _style.picture(13, 4.3, ncols=3, width_ratios=[1.25, 1, 1])
    order = np.argsort(-slopes.mean(0))
    left.axvline(0, color=_style.PALE, lw=1.5, zorder=0)
    _style.intervals(left, slopes[:, order], np.arange(len(order)))
    _style.rows(left, [NAMES[i] for i in order])
    left.set_title("What each measurement tells")
    left.set_xlabel("slope, in sd of the outcome (90% and 50%)")

    bins = np.linspace(-100, 400, 26)
    heights = np.stack([np.histogram(draw, bins)[0] for draw in again])
    middle.hist(y, bins, color=_style.PALE)
    centres = (bins[1:] + bins[:-1]) / 2
    low, high = np.quantile(heights, [0.05, 0.95], axis=0)
    middle.vlines(centres, low, high, color=_style.BLUE, lw=1.5)
    middle.plot(centres, np.median(heights, axis=0), "o", color="white", mec=_style.BLUE, mew=1.5, ms=4)
    middle.text(-95, 38, f"{len(y)} people,\nas they are", color=_style.GREY)
    middle.text(225, 38, "as the model would\nhave them, 90%", color=_style.BLUE)
    middle.set_title("Would the model make such data?")
    middle.set_xlabel("progression of the disease")
    middle.set(ylabel="people", ylim=(0, 48))

    low, high = np.quantile(new, [0.05, 0.95], axis=0)
    order = np.argsort(new.mean(0))
    at, inside = np.arange(len(order)), (low < y_new) & (y_new < high)
    right.fill_between(at, low[order], high[order], color=_style.BLUE, alpha=0.13, lw=0, step="mid")
    right.plot(at, new.mean(0)[order], color=_style.BLUE, lw=1.5)
    for chosen, colour in ((inside, _style.GREY), (~inside, _style.ORANGE)):
        right.plot(at[chosen[order]], y_new[order][chosen[order]], "o", color=colour, ms=3.5)
    right.text(0.02, 0.97, f"{np.mean(inside):.0%} inside the 90% band", transform=right.transAxes, va="top")
    right.set_title("People held out")
    right.set_xlabel("people, by what is predicted")
    right.set_ylabel("progression of the disease")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
