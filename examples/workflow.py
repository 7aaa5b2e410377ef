# %% [markdown]
# # A Bayesian workflow, from the priors to a page
#
# In January 1986 the space shuttle Challenger was lost, because rubber rings did not seal in the cold. Of 23 earlier
# flights the temperature is known, and how many of six rings were damaged (Dalal, Fowlkes and Hoadley 1989). One data
# set from start to end: is the prior sensible, is the fit good, is the model right, what hangs on what, and a page
# that others can read.

# %%
from pathlib import Path

import _style
import jax
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

RINGS = 6
fahrenheit = np.array([66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58.0])
damaged = np.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0, 1])
celsius = (fahrenheit - 32) / 1.8
LAUNCH = -0.6  # on the morning of the accident

# %% [markdown]
# The temperature counts from 20 degrees, in tens of degrees, so that both numbers have a meaning of their own.


# %%
@vb.model
def rings(celsius, damaged=None):
    at_20 = vb.sample("at_20", dist.Normal(-2.0, 1.5))
    warmer = vb.sample("per 10 degrees", dist.Normal(0.0, 1.5))
    with vb.plate("flight", len(celsius)):
        logits = at_20 + warmer * (celsius - 20) / 10
        vb.sample("damaged", dist.Binomial(RINGS, logits=logits), obs=damaged)


def chance(draws, celsius):
    """That one ring is damaged, `(draws, temperatures)`."""
    at_20, warmer = (np.asarray(draws[name])[:, None] for name in ("at_20", "per 10 degrees"))
    return np.asarray(jax.nn.sigmoid(at_20 + warmer * (celsius - 20) / 10))


# %%
def main(quick=False, out="workflow.png"):
    # 1. What does the prior say of data? Nearly anything, and nothing absurd.
    ahead = rings(celsius).sample(1000, seed=0)
    total = np.asarray(ahead["damaged"]).sum(1)
    low, middle, high = np.quantile(total, [0.05, 0.5, 0.95])
    print(f"Prior: of {RINGS * len(celsius)} rings {middle:.0f} are damaged ({low:.0f} to {high:.0f}).")
    print(f"Seen were {damaged.sum()}.")

    # 2. Would the fit be right on average, for data that this prior makes?
    calibrated = vb.calibrate(rings(celsius, damaged), n=100 if quick else 400, progress=False)
    print(f"\nCalibration:\n{calibrated}\n")

    # 3. The fit, and its report card.
    posterior = vb.fit(rings(celsius, damaged))
    posterior.check().require("corrected")
    print(posterior.summary())

    # 4. Would the model make such data? How many flights without damage, and how much in the worst.
    again = np.asarray(posterior.predict(n=2000, seed=1)["damaged"])
    for what, count in (
        ("flights without damage", lambda y: (y == 0).sum(-1)),
        ("rings in the worst flight", lambda y: y.max(-1)),
    ):
        share = np.mean(count(again) >= count(damaged))
        print(f"\n{what}: {count(damaged)}; as many or more in {share:.0%} of what the model makes")

    # 5. What hangs on what?
    print(f"\nSensitivity:\n{posterior.sensitivity()}")

    # 6. What one wanted to know, and how far beyond the data it lies.
    cold = chance(posterior.sample(4000, seed=2), np.array([LAUNCH]))[:, 0]
    low, high = np.quantile(cold, [0.05, 0.95])
    print(f"\nAt {LAUNCH} degrees a ring is damaged with probability {np.mean(cold):.2f} ({low:.2f} to {high:.2f}),")
    print(f"but the coldest flight was at {celsius.min():.0f} degrees: the line is the model's, not the data's.")

    # 7. A page for others.
    page = Path(out).with_suffix(".html")
    vb.write_report(posterior, page)
    print(f"\nThe report is in {page}.")
    draw(ahead, calibrated, posterior, again, out)
    return {"posterior": posterior, "calibrated": calibrated, "again": again, "page": page, "cold": cold}


# %%
def draw(ahead, calibrated, posterior, again, out):
    figure, axes = _style.picture(12, 7, nrows=2, ncols=2)
    grid = np.linspace(-5, 30, 141)
    for axis, draws, colour, title in (
        (axes[0, 0], ahead, _style.GREY, "1  Before: curves of the prior"),
        (
            axes[0, 1],
            posterior.sample(1000, seed=3),
            _style.BLUE,
            "2  After: 90% band, and the morning of the accident",
        ),
    ):
        curves = chance(draws, grid)
        axis.plot(grid, curves[:30].T, color=colour, lw=0.5, alpha=0.5)
        axis.fill_between(grid, *np.quantile(curves, [0.05, 0.95], axis=0), color=colour, alpha=0.15, lw=0)
        axis.plot(grid, np.median(curves, axis=0), color=colour, lw=2)
        axis.set(xlabel="degrees Celsius", ylabel="chance that a ring is damaged", ylim=(-0.02, 1.02), xlim=(-5, 30))
        axis.set_title(title)
    shifted = damaged / RINGS + np.random.default_rng(0).uniform(-0.012, 0.012, len(damaged))
    axes[0, 1].plot(celsius, shifted, "o", color=_style.INK, ms=4)
    axes[0, 1].axvline(LAUNCH, color=_style.ORANGE, lw=1.8, ls=(0, (4, 2)))

    at = np.arange(RINGS + 1)
    counts = np.stack([(again == k).sum(1) for k in at], axis=1)
    axes[1, 0].bar(at, [(damaged == k).sum() for k in at], color=_style.PALE, width=0.7)
    axes[1, 0].vlines(at, *np.quantile(counts, [0.05, 0.95], axis=0), color=_style.BLUE, lw=2)
    axes[1, 0].plot(at, np.median(counts, axis=0), "o", color="white", mec=_style.BLUE, mew=1.8, ms=6)
    axes[1, 0].set(xlabel="rings damaged in a flight", ylabel="flights")
    axes[1, 0].yaxis.get_major_locator().set_params(integer=True)
    axes[1, 0].set_title("3  Would the model make such data? Seen in grey, made in blue")

    move = posterior.sensitivity().rows["flight"][:, 1]
    axes[1, 1].axhline(0, color=_style.PALE, lw=1.5, zorder=0)
    axes[1, 1].vlines(celsius, 0, move, color=_style.BLUE, lw=1.5)
    axes[1, 1].plot(celsius, move, "o", color=_style.BLUE, ms=5)
    for i in np.argsort(-np.abs(move))[:2]:
        says = f"{damaged[i]} damaged at {celsius[i]:.0f} degrees"
        axes[1, 1].annotate(says, (celsius[i], move[i]), (8, 0), textcoords="offset points", va="center", fontsize=9)
    axes[1, 1].set(xlabel="degrees Celsius", ylabel="sds that the slope would move", xlim=(11, 31))
    axes[1, 1].set_title("4  What hangs on one flight: the slope without it")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
