# %% [markdown]
# # Comparing models with ArviZ
#
# Three models of the same 919 houses (see `radon.py`): all counties alike, each county by itself, and counties that
# share what they have in common. Which of them predicts a house that it has not seen? One learns here how ArviZ's
# leave-one-out estimate is computed from a fit by variational inference, corrected for its being an approximation.

# %%
import warnings

import _style
import arviz_stats
import numpy as np
from radon import load

import vbppl as vb
import vbppl.distributions as dist

# %% [markdown]
# The three differ in one line each: where the level of a county comes from.


# %%
@vb.model
def alike(counties, uranium, county, floor, y):
    level = vb.sample("level", dist.Normal(0.0, 2.0))
    houses(level, floor, y)


@vb.model
def apart(counties, uranium, county, floor, y):
    with vb.plate("county", counties):
        level = vb.sample("level", dist.Normal(0.0, 2.0))
    houses(level[county], floor, y)


@vb.model
def shared(counties, uranium, county, floor, y):
    base = vb.sample("base", dist.Normal(0.0, 2.0))
    by_uranium = vb.sample("by_uranium", dist.Normal(0.0, 2.0))
    between = vb.sample("between", dist.HalfNormal(1.0))
    with vb.plate("county", counties):
        level = vb.sample("level", dist.Normal(base + by_uranium * uranium, between))
    houses(level[county], floor, y)


def houses(level, floor, y):
    """What all three say of a house."""
    upstairs = vb.sample("upstairs", dist.Normal(0.0, 2.0))
    within = vb.sample("within", dist.HalfNormal(1.0))
    with vb.plate("house", len(y)):
        vb.sample("y", dist.Normal(level + upstairs * floor, within), obs=y)


# %% [markdown]
# Leaving a house out needs no second fit: the draws are weighed by one over the house's density. The draws of a guide
# are first weighed as draws of the posterior, by `log_p - log_q`, which the tree holds.


# %%
def leave_one_out(posterior, n):
    tree = vb.to_arviz(posterior, "log_likelihood", n=n)
    stats = tree.sample_stats
    with warnings.catch_warnings():
        # ArviZ warns of single rows with a large Pareto k. They are counted below.
        warnings.simplefilter("ignore")
        return arviz_stats.loo_approximate_posterior(tree, stats.log_p, stats.log_q, pointwise=True)


def main(quick=False, out="model_comparison.png"):
    data = load()
    posteriors = {model.__name__: vb.fit(model(*data)) for model in (alike, apart, shared)}
    found = {}
    for name, posterior in posteriors.items():
        # A comparison of answers that are wrong would be wrong: this raises an error instead.
        posterior.check().require()
        found[name] = leave_one_out(posterior, 1000 if quick else 4000)
        uneasy = int((np.asarray(found[name].pareto_k) > 0.7).sum())
        print(f"{name:7} verdict {posterior.check().verdict}, elpd {found[name].elpd:8.1f} ± {found[name].se:.1f}, "
              f"{found[name].p:.1f} effective parameters, {uneasy} houses with k > .7")  # fmt: skip
    table = arviz_stats.compare(found)
    print("\n", table.round(1).to_string(), sep="")
    draw(found, posteriors, data, out)
    return {"posteriors": posteriors, "loo": found, "table": table}


# %%
def draw(found, posteriors, data, out):
    figure, (left, right) = _style.picture(12, 4.4, ncols=2, width_ratios=[1, 1.3])
    words = {"alike": "all counties alike", "apart": "each by itself", "shared": "sharing, with uranium"}
    names = sorted(found, key=lambda name: -found[name].elpd)
    best = np.asarray(found[names[0]].elpd_i).ravel()
    left.axvline(0, color=_style.PALE, lw=1.5, zorder=0)
    for at, name in enumerate(names):
        gap = np.asarray(found[name].elpd_i).ravel() - best
        se = np.sqrt(len(gap)) * gap.std()
        left.hlines(at, gap.sum() - 1.645 * se, gap.sum() + 1.645 * se, color=_style.BLUE, lw=1.5)
        left.plot(gap.sum(), at, "o", color="white", mec=_style.BLUE, mew=1.8, ms=6)
    _style.rows(left, [words[name] for name in names])
    left.set_xlabel("log predictive density beside the best, nats (90%)")
    left.set_title("Sharing predicts unseen houses best")

    county = data[2]
    gain = np.asarray(found["shared"].elpd_i).ravel() - np.asarray(found["apart"].elpd_i).ravel()
    size = np.bincount(county)[county]
    edges = np.array([1, 3, 6, 11, 21, 61, 200])
    for at, (low, high) in enumerate(zip(edges[:-1], edges[1:])):
        here = gain[(size >= low) & (size < high)]
        se = here.std() / np.sqrt(len(here))
        right.vlines(at, here.mean() - 1.645 * se, here.mean() + 1.645 * se, color=_style.BLUE, lw=1.5)
        right.plot(at, here.mean(), "o", color="white", mec=_style.BLUE, mew=1.8, ms=6)
    right.axhline(0, color=_style.PALE, lw=1.5, zorder=0)
    right.set_xticks(range(6), [f"{low} to {high - 1}" for low, high in zip(edges[:-2], edges[1:-1])] + ["61 and more"])
    right.set(xlabel="houses measured in the county", ylabel="nats a house")
    right.set_title("What sharing gains over each county by itself")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
