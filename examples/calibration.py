# %% [markdown]
# # Calibration: are the intervals right on average?
#
# A verdict speaks of one fit. Whether a model and a guide are right *on average* is another question: draw parameters
# from the prior, data from the parameters, fit the data, and see where the parameters lie among the draws of their
# own posterior. If all is right, their ranks are uniform (Talts and others 2018). One learns here to run the test on
# hundreds of fits at once, and what its picture looks like when a guide is too narrow and when a model is not the one
# of the data.

# %%
import _style
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

x = np.linspace(0.0, 2.0, 12)


@vb.model
def line(x, y=None):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    offset = vb.sample("offset", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(offset + slope * x, 0.5), obs=y)


# %% [markdown]
# The same line with noise that is half as large: a model that is surer of its data than it should be.


# %%
@vb.model
def too_sure(x, y=None):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    offset = vb.sample("offset", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(offset + slope * x, 0.25), obs=y)


# %%
def main(quick=False, out="calibration.png"):
    n = 100 if quick else 600
    data = line(x, y=np.zeros(len(x)))  # the numbers are drawn anew; only their shape matters
    found = {
        "full rank": vb.calibrate(data, n=n, guide="full_rank", seed=1),
        "mean field": vb.calibrate(data, n=n, guide="mean_field", seed=1),
        "too sure a model": vb.calibrate(data, n=n, guide="full_rank", fitted=too_sure(x, y=np.zeros(len(x))), seed=1),
    }
    for name, result in found.items():
        print(f"\n{name}:\n{result}")
        # Of a central 90% interval, how often is the truth inside?
        share = (result.ranks + 0.5) / (result.draws + 1)
        inside = np.mean((share > 0.05) & (share < 0.95), axis=0)
        print("  90% intervals hold the truth in " + ", ".join(f"{p:.0%} ({s})" for p, s in zip(inside, result.names)))
    draw(found, out)
    return found


# %%
def draw(found, out):
    figure, axes = _style.picture(11, 6, nrows=2, ncols=3, sharex=True, sharey=True)
    for column, (name, result) in zip(axes.T, found.items()):
        vb.plot.calibration(result, axes=column)
        column[0].set_title(f"{name}: {'passed' if result.passed else 'failed'}")
        column[1].set_title("")
        column[1].set_xlabel("rank of the truth among draws")
    for row, parameter in zip(axes, found["full rank"].names):
        row[0].set_ylabel(f"{parameter}: ECDF above uniform")
    axes[0, 1].text(
        0.04,
        0.03,
        "high on the left, low on the right:\nthe truth lies outside too often",
        transform=axes[0, 1].transAxes,
        fontsize=8.5,
    )
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
