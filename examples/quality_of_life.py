# %% [markdown]
# # Quality of life, seen through five indicators
#
# Nobody measures the quality of life. What is measured, here for the fifty states of the USA in the 1970s, are
# things that should go with it: income, schooling, literacy, health, safety. A factor model takes each of them as a
# noisy reading of one latent quantity, learns how well each one reads it, and gives every state its place, with
# the uncertainty that five noisy readings leave.

# %%
import csv
from pathlib import Path

import _style
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

INDICATORS = ["life expectancy", "income", "graduates", "literacy", "safety"]

# %% [markdown]
# The latent scale has no sign of its own: turn every loading and every state round and nothing changes. A positive
# loading of the first indicator, life expectancy, settles it. The other four are free, so that the data can say
# whether more of them goes with a better life. Its unit is the standard deviation among states.


# %%
@vb.model
def factor_model(indicators):
    states, kinds = indicators.shape
    first = vb.sample("first", dist.HalfNormal(1.0))
    others = vb.sample("others", dist.Normal(0.0, 1.0).expand([kinds - 1]).to_event(1))
    loadings = vb.deterministic("loadings", jnp.append(first, others))
    noise = vb.sample("noise", dist.HalfNormal(1.0).expand([kinds]).to_event(1))
    with vb.plate("state", states):
        quality = vb.sample("quality", dist.Normal(0.0, 1.0))
        readings = quality[:, None] * loadings
        vb.sample("indicators", dist.Normal(readings, noise).to_event(1), obs=indicators)


# %%
def load():
    """The states as a list of dicts, and their indicators: more is better, in sds: `(states, indicators)`."""
    with open(Path(__file__).with_name("us_states.csv")) as file:
        states = list(csv.DictReader(line for line in file if not line.startswith("#")))
    read = {name: np.array([float(state[name]) for state in states]) for name in list(states[0])[2:7]}
    columns = [read["life_expectancy"], np.log(read["income"]), read["graduates"]]
    columns += [-np.log(read["illiteracy"]), -np.log(read["murder"])]
    indicators = np.stack(columns, axis=1)
    return states, (indicators - indicators.mean(0)) / indicators.std(0)


# %%
def main(quick=False, out="quality_of_life.png"):
    states, indicators = load()
    posterior = vb.fit(factor_model(indicators), "full_rank")
    print(posterior.summary())

    # What the card says of the fit decides how it is told: no probabilities where it is poor, or nobody knows.
    draws = posterior.sample(1_000 if quick else 4_000, seed=1)
    poor = posterior.check().verdict in ("poor", "unknown")
    quality, loadings, noise = (np.asarray(draws[name]) for name in ("quality", "loadings", "noise"))
    share = loadings**2 / (loadings**2 + noise**2)
    if poor:
        hints = "so what follows are hints: the order may hold, the widths need not."
        print(f"\nThe verdict is {posterior.check().verdict}, {hints}")
    print("\nOf the variance between states, quality of life explains")
    for i in np.argsort(-share.mean(0)):
        low, high = np.quantile(share[:, i], [0.05, 0.95])
        print(f"  {INDICATORS[i]:16} {share[:, i].mean():4.0%}  ({low:.0%} to {high:.0%})")

    best = np.argsort(-quality.mean(0))
    names = [states[i]["state"] for i in best]
    first = np.bincount(quality.argmax(1), minlength=len(states)) / len(quality)
    print(f"\nHighest: {', '.join(names[:3])}. Lowest: {', '.join(names[-3:])}.")
    if not poor:
        print(f"{names[0]} is the best of all with probability {first[best[0]]:.2f} only: the top is close together.")
        print(f"One state's place is known to within {quality.std(0).mean():.2f} sd.")
    draw(states, quality, loadings, poor, out)
    return {"posterior": posterior, "indicators": indicators, "states": states}


def signed(value):
    """A number with its sign, which nothing that is rounded to zero has."""
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


# %%
def draw(states, quality, loadings, poor, out):
    figure, axes = _style.picture(12, 8.2, nrows=2, ncols=2, height_ratios=[1.35, 1], width_ratios=[1.75, 1])
    tiles, reads, ranks = axes[0, 0], axes[0, 1], axes[1, 0]
    axes[1, 1].remove()
    ranks.set_subplotspec(axes[1, 0].get_gridspec()[1, :])
    middle = quality.mean(0)
    colours = _style.plt.get_cmap("BrBG")(0.5 + middle / 5)

    for state, value, colour in zip(states, middle, colours, strict=True):
        at = int(state["column"]), int(state["row"])
        tiles.add_patch(_style.plt.Rectangle(at, 0.94, 0.94, color=colour))
        ink = "white" if sum(colour[:3]) < 1.4 else _style.INK
        tiles.text(at[0] + 0.47, at[1] + 0.36, state["code"], color=ink, ha="center", va="center", weight="bold")
        tiles.text(at[0] + 0.47, at[1] + 0.70, signed(value), color=ink, ha="center", va="center", fontsize=8)
    tiles.set(xlim=(0, 11), ylim=(8, 0), aspect="equal")
    tiles.axis("off")
    tiles.set_title("Quality of life in the 1970s, in sd among states")

    order = np.argsort(-loadings.mean(0))
    reads.axvline(0, color=_style.PALE, lw=1.5, zorder=0)
    _style.intervals(reads, loadings[:, order], np.arange(len(order)))
    _style.rows(reads, [INDICATORS[i] for i in order])
    reads.set_title("How each indicator reads it")
    reads.set_xlabel("loading, in sd of the indicator (90% and 50%)")

    order = np.argsort(-middle)
    low, high = np.quantile(quality[:, order], [0.05, 0.95], axis=0)
    at = np.arange(len(order))
    ranks.axhline(0, color=_style.PALE, lw=1.5, zorder=0)
    ranks.vlines(at, low, high, color=_style.GREY, lw=1.5)
    ranks.scatter(at, middle[order], c=colours[order], edgecolors=_style.GREY, s=45, zorder=3, lw=0.8)
    ranks.set_xticks(at, [states[i]["code"] for i in order], fontsize=8)
    ranks.tick_params(axis="x", length=0)
    ranks.set(xlim=(-1, len(order)), ylabel="quality of life, sd")
    says = "as a poor fit has it" if poor else "groups can be told apart, neighbours cannot"
    ranks.set_title(f"Every state with its 90% interval: {says}")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
