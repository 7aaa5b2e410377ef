# %% [markdown]
# # Radon by county: labels, and ArviZ
#
# Radon, a gas from the ground, was measured in 919 houses of 85 counties of Minnesota; some counties have a hundred
# houses and some only one (Gelman and Hill 2007, chapter 12). One learns here to give rows names, to let counties share
# what they have in common, and to hand the answer to ArviZ, where the names are coordinates.

# %%
import csv
from pathlib import Path

import _style
import arviz_stats
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

# %% [markdown]
# Each county has a level of its own, which varies around a line in the uranium of its soil. The plate takes the names
# of the counties in the place of their number: every table, report and export then speaks of Ramsey, not of row 60.


# %%
@vb.model
def radon(counties, uranium, county, floor, y=None):
    base = vb.sample("base", dist.Normal(0.0, 2.0))
    by_uranium = vb.sample("by_uranium", dist.Normal(0.0, 2.0))
    between = vb.sample("between", dist.HalfNormal(1.0))
    upstairs = vb.sample("upstairs", dist.Normal(0.0, 2.0))
    within = vb.sample("within", dist.HalfNormal(1.0))
    with vb.plate("county", counties):
        level = vb.sample("level", dist.Normal(base + by_uranium * uranium, between))
    with vb.plate("house", len(county)):
        vb.sample("y", dist.Normal(level[county] + upstairs * floor, within), obs=y)


# %%
def load():
    """The arguments of the model."""
    with open(Path(__file__).with_name("radon.csv")) as file:
        houses = list(csv.DictReader(line for line in file if not line.startswith("#")))
    counties, county = np.unique([house["county"] for house in houses], return_inverse=True)
    floor, y, soil = (
        np.array([float(house[name]) for house in houses]) for name in ("floor", "log_radon", "log_uranium")
    )
    uranium = np.zeros(len(counties))
    uranium[county] = soil
    return counties.tolist(), uranium, county, floor, y


# %%
def main(quick=False, out="radon.png"):
    counties, uranium, county, floor, y = load()
    posterior = vb.fit(radon(counties, uranium, county, floor, y=y))
    print(posterior.summary("base", "by_uranium", "between", "upstairs", "within"))

    # An xarray.DataTree: ArviZ's functions take it as it is, and its coordinates are the names of the counties.
    tree = vb.to_arviz(posterior, n=500 if quick else 2000)
    level = tree.posterior["level"]
    three = {"county": ["Ramsey", "Hennepin", "Cook"]}
    print("\n", arviz_stats.summary(tree, var_names=["level"], coords=three, kind="stats"), sep="")
    middle = level.mean(("chain", "draw")).to_series().sort_values()
    print(f"\nHighest: {', '.join(middle.index[-3:][::-1])}. Lowest: {', '.join(middle.index[:3])}.")
    above = (np.exp(level) > 4).mean(("chain", "draw")).to_series()
    print(f"{int((above > 0.5).sum())} counties have a typical basement above 4 pCi/l, where one should act.")

    houses = np.bincount(county)
    alone = np.array([(y - floor * posterior.mean()["upstairs"])[county == j].mean() for j in range(len(counties))])
    draw(counties, uranium, houses, alone, level.values[0], posterior, out)
    return {"posterior": posterior, "tree": tree, "data": (counties, uranium, county, floor, y)}


# %%
def draw(counties, uranium, houses, alone, level, posterior, out):
    figure, (left, right) = _style.picture(12, 5.2, ncols=2, width_ratios=[1.2, 1])
    low, high = np.quantile(level, [0.05, 0.95], axis=0)
    mean = posterior.mean()
    grid = np.array([uranium.min() - 0.05, uranium.max() + 0.05])
    left.plot(grid, mean["base"] + mean["by_uranium"] * grid, color=_style.GREY, lw=1.5)
    left.vlines(uranium, low, high, color=_style.BLUE, lw=1, alpha=0.5)
    left.plot(uranium, level.mean(0), "o", color=_style.BLUE, ms=4)
    for name, x, y in (("St Louis", 25, -22), ("Hennepin", 25, -40), ("Lac Qui Parle", -60, 28)):
        at = uranium[counties.index(name)], level.mean(0)[counties.index(name)]
        line = {"arrowstyle": "-", "color": _style.INK, "lw": 0.7}
        left.annotate(name, at, (x, y), textcoords="offset points", fontsize=9, arrowprops=line)
    left.set(xlabel="uranium in the soil, log ppm", ylabel="radon in a basement, log pCi/l")
    left.set_title("Counties vary around a line: 90% of each")

    right.axhline(0, color=_style.PALE, lw=1.5, zorder=0)
    line = mean["base"] + mean["by_uranium"] * uranium
    for off, colour, label in (
        (alone, _style.ORANGE, "its own houses alone"),
        (level.mean(0), _style.BLUE, "posterior"),
    ):
        right.plot(houses, off - line, "o^"[colour == _style.ORANGE], color=colour, ms=4, label=label)
    right.vlines(houses, alone - line, level.mean(0) - line, color=_style.PALE, lw=1, zorder=0)
    right.set(xscale="log", xlabel="houses measured in the county", ylabel="above what the soil tells, log pCi/l")
    right.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    right.legend(frameon=False)
    right.set_title("Few houses are believed only a little")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
