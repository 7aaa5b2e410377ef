# %% [markdown]
# # A change point
#
# Disasters in British coal mines, year by year from 1851 to 1961 (Jarrett 1979). At some time they became rarer.
# When? The year is discrete, and no gradient leads to it. A fit sums such a site out by itself; one learns here
# how, by hand: the likelihood of all data for every year that the change may have come in is averaged, and its
# distribution got back from the draws of the rest.

# %%
import _style
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import vbppl as vb
import vbppl.distributions as dist

YEARS = np.arange(1851, 1962)
DISASTERS = np.array(
    "4 5 4 0 1 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 2 2 1 1 1 1 3 0 0 "
    "1 0 1 1 0 0 3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 1 2 1 1 1 1 2 4 2 0 0 1 4 "
    "0 0 0 1 0 0 0 0 0 1 0 0 1 0 1".split(),
    float,
)


# %%
def by_year(early, late, disasters):
    """The log likelihood if the late rate begins with each of the years but the first, `(years - 1,)`."""
    one, other = (dist.Poisson(rate).log_prob(disasters) for rate in (early, late))
    return jnp.cumsum(one)[:-1] + jnp.cumsum(other[::-1])[::-1][1:]


@vb.model
def change(disasters):
    early = vb.sample("early", dist.Exponential(0.5))
    late = vb.sample("late", dist.Exponential(0.5))
    logs = by_year(early, late, disasters)
    vb.factor("disasters", jax.nn.logsumexp(logs) - np.log(len(disasters) - 1))


# %% [markdown]
# With gamma priors (an exponential is one) both rates integrate in closed form for every year, so the answer is known.


# %%
def exact(disasters):
    """The probability of each year."""
    n, before = np.arange(1, len(disasters)), np.cumsum(disasters)[:-1]
    rest = disasters.sum() - before
    logs = special.gammaln(before + 1) - (before + 1) * np.log(n + 0.5)
    logs = logs + special.gammaln(rest + 1) - (rest + 1) * np.log(len(disasters) - n + 0.5)
    return special.softmax(logs)


def main(quick=False, out="change_point.png"):
    posterior = vb.fit(change(DISASTERS))
    print(posterior.summary())
    draws = posterior.sample(500 if quick else 4000, seed=1)
    early, late = (np.asarray(draws[name]) for name in ("early", "late"))
    logs = np.asarray(jax.vmap(lambda a, b: by_year(a, b, DISASTERS))(early, late))
    each = special.softmax(logs, axis=1)  # of each draw the probability of each year
    share, known = each.mean(0), exact(DISASTERS)
    best = YEARS[1:][share.argmax()]
    print(f"\nThe rate fell from {early.mean():.1f} to {late.mean():.1f} disasters a year, most likely with {best}.")
    around = (YEARS[1:] >= 1887) & (YEARS[1:] <= 1895)
    print(f"The change came from 1887 to 1895 with probability {share[around].sum():.2f}.")
    print(f"Off the exact distribution over years by {np.abs(share - known).sum() / 2:.3f} in total variation.")
    draw(early, late, each, known, out)
    return {"posterior": posterior, "share": share, "exact": known}


# %%
def draw(early, late, each, known, out):
    figure, (top, below) = _style.picture(10, 5.6, nrows=2, sharex=True, height_ratios=[1.6, 1])
    # The rate in a year: early unless the change has come by then.
    come = np.concatenate([np.zeros((len(each), 1)), np.cumsum(each, axis=1)], axis=1)
    rate = early[:, None] * (1 - come) + late[:, None] * come
    chosen = np.random.default_rng(0).random((len(each), 1)) < come  # one history for each draw
    low, high = np.quantile(np.where(chosen, late[:, None], early[:, None]), [0.05, 0.95], axis=0)
    top.bar(YEARS, DISASTERS, color=_style.PALE, width=0.8)
    top.fill_between(YEARS, low, high, color=_style.BLUE, alpha=0.2, lw=0, step="mid")
    top.plot(YEARS, rate.mean(0), color=_style.BLUE, lw=2)
    top.set(ylabel="disasters a year")
    top.set_title("The rate, with its 90% band, over what was counted")
    below.bar(YEARS[1:], each.mean(0), color=_style.BLUE, width=0.8, label="from the fit")
    below.plot(YEARS[1:], known, "o", color=_style.INK, ms=3, label="exact")
    below.set(ylabel="probability", xlim=(1850, 1962))
    below.set_title("The first year of the lower rate")
    below.legend(frameon=False)
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
