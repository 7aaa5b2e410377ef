# %% [markdown]
# # A chain: the level of the Nile
#
# How much water the Nile carried past Aswan, each year from 1871 to 1970 (Cobb 1978). A level that wanders from year to
# year, read with noise: the simplest state-space model (Durbin and Koopman 2012, chapter 2). One learns here to write a
# chain with `vb.scan`, to leave years out, and to run the chain on beyond the last one.

# %%
import _style
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

FLOW = np.array(
    "1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150 1250 "
    "1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832 764 821 "
    "768 845 864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 "
    "874 848 890 744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740".split(),
    float,
)
YEARS = np.arange(1871, 1971)
AHEAD = 20

# %% [markdown]
# What is done in each year is a function of the level of the year before. Flows count in units of 10^10 cubic metres,
# so that all numbers are near one; the first level may be nearly anything.


# %%
@vb.model
def local_level(n, flow=None):
    wander = vb.sample("wander", dist.HalfNormal(1.0))
    noise = vb.sample("noise", dist.HalfNormal(3.0))
    first = vb.sample("first", dist.Normal(10.0, 5.0))

    def year(level, seen):
        level = vb.sample("level", dist.Normal(level, wander))
        vb.sample("flow", dist.Normal(level, noise), obs=seen)
        return level, None

    vb.scan(year, first, flow, length=n)


# %% [markdown]
# With both sds given, the Kalman filter has the likelihood in closed form, and what the fit says of the sds is held
# against an integral over a grid of them.


# %%
def kalman(flow, wander, noise):
    """The log likelihood, the levels integrated out; of many sds side by side."""
    mean, variance, total = 10.0, 25.0, 0.0
    for y in flow:
        variance = variance + wander**2
        spread = variance + noise**2
        total -= (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread) / 2
        mean, variance = mean + variance / spread * (y - mean), variance * noise**2 / spread
    return total


def exact(flow, points=80):
    """Means and sds of `wander` and `noise`."""
    wander, noise = np.meshgrid(np.linspace(0.01, 1.2, points), np.linspace(0.7, 1.9, points), indexing="ij")
    logs = kalman(flow, wander, noise) - wander**2 / 2 - noise**2 / 18  # with their half-normal priors
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    means = [(weight * each).sum() for each in (wander, noise)]
    return means, [np.sqrt((weight * (each - m) ** 2).sum()) for each, m in zip((wander, noise), means)]


def main(quick=False, out="nile.png"):
    posterior = vb.fit(local_level(len(FLOW), FLOW / 100))
    print(posterior.summary("wander", "noise", "first"))
    draws = {name: np.asarray(value) for name, value in posterior.sample(500 if quick else 4000, seed=1).items()}
    wander, noise = 100 * posterior.mean()["wander"], 100 * posterior.mean()["noise"]
    print(f"\nThe level wanders by {wander:.0f} a year, and one year's flow is {noise:.0f} off it;")
    print("by the integral they are {:.0f} and {:.0f}.".format(*(100 * each for each in exact(FLOW / 100)[0])))
    sd = 100 * posterior.sd()["wander"]
    print(f"The sd of the first is {sd:.0f}; by the integral it is {100 * exact(FLOW / 100)[1][0]:.0f}.")
    ahead = posterior.predict(local_level(len(FLOW) + AHEAD), n=500 if quick else 4000, seed=2)
    ahead = {name: 100 * np.asarray(ahead[name])[:, len(FLOW) :] for name in ("level", "flow")}
    drop = 100 * (draws["level"][:, YEARS == 1901] - draws["level"][:, YEARS == 1896])[:, 0]
    print(f"From 1896 to 1901 it fell by {-drop.mean():.0f} ({-np.quantile(drop, 0.95):.0f} "
          f"to {-np.quantile(drop, 0.05):.0f}): the dam at Aswan was begun in 1898.")  # fmt: skip
    draw(100 * draws["level"], ahead, out)
    return {"posterior": posterior, "ahead": ahead}


# %%
def draw(level, ahead, out):
    figure, axis = _style.picture(11, 4.6)
    later = np.arange(YEARS[-1] + 1, YEARS[-1] + 1 + AHEAD)
    axis.plot(YEARS, FLOW, "o", color=_style.GREY, ms=3.5)
    axis.plot(YEARS, FLOW, color=_style.PALE, lw=0.8, zorder=0)
    low, high = np.quantile(level, [0.05, 0.95], axis=0)
    axis.fill_between(YEARS, low, high, color=_style.BLUE, alpha=0.2, lw=0)
    axis.plot(YEARS, level.mean(0), color=_style.BLUE, lw=2)
    for name, alpha in (("flow", 0.12), ("level", 0.25)):
        low, high = np.quantile(ahead[name], [0.05, 0.95], axis=0)
        axis.fill_between(later, low, high, color=_style.ORANGE, alpha=alpha, lw=0)
    axis.plot(later, ahead["level"].mean(0), color=_style.ORANGE, lw=2)
    axis.text(1901, 1130, "level, 90%", color=_style.BLUE)
    axis.text(1992, ahead["flow"].mean(), "what may\ncome: level\nand flow", color=_style.ORANGE, va="center")
    axis.set(ylabel="flow at Aswan, 10\u2078 cubic metres", xlim=(1870, 2004))
    axis.set_title("A level that wanders, and what it says of the next twenty years")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
