# %% [markdown]
# # Survival with censoring
#
# 42 children with leukaemia, in remission; half had 6-mercaptopurine, half a placebo, and weeks passed until they
# fell ill again (Freireich and others 1963). Twelve had not when the trial ended: of them one knows only that it
# takes longer. One learns here to say so, and what it costs to leave it out or to take the last visit for a relapse.

# %%
import _style
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23.0])
TREATED = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35.0])
STILL_WELL = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bool)

weeks = np.concatenate([PLACEBO, TREATED])
censored = np.concatenate([np.zeros(21, bool), STILL_WELL])
drug = np.repeat([0.0, 1.0], 21)

# %% [markdown]
# A Weibull law of the time to relapse, whose scale the drug multiplies. Where a time is censored, the probability of a
# longer one stands in the place of the density.


# %%
@vb.model
def remission(drug, censored, weeks=None):
    base = vb.sample("base", dist.Normal(2.0, 1.0))
    effect = vb.sample("effect", dist.Normal(0.0, 1.0))
    shape = vb.sample("shape", dist.LogNormal(0.0, 0.5))
    vb.deterministic("times longer", jnp.exp(effect))
    with vb.plate("child", len(drug)):
        time = dist.Weibull(jnp.exp(base + effect * drug), shape)
        vb.sample("weeks", dist.RightCensoredDistribution(time, censored), obs=weeks)


# %%
def main(quick=False, out="survival.png"):
    posterior = vb.fit(remission(drug, censored, weeks=weeks))
    print(posterior.summary())
    n = 1_000 if quick else 4_000
    draws = {name: np.asarray(value) for name, value in posterior.sample(n, seed=1).items()}

    # The same model told lies: censored times as relapses, and the censored children left out.
    nobody = np.zeros(len(weeks), bool)
    as_relapses = vb.fit(remission(drug, nobody, weeks=weeks))
    seen = ~censored
    without = vb.fit(remission(drug[seen], nobody[seen], weeks=weeks[seen]))
    fits = {"as censored": posterior, "taken for relapses": as_relapses, "left out": without}
    print("\nThe drug makes a remission longer, by a factor of")
    for name, fit in fits.items():
        low, middle, high = fit.quantiles([0.05, 0.5, 0.95])["times longer"]
        print(f"  {name:20} {middle:.1f} ({low:.1f} to {high:.1f}), verdict {fit.check().verdict}")
    steady = np.mean(draws["shape"] > 1)
    print(f"The longer it lasts the likelier a relapse becomes with probability {steady:.2f} (a shape above 1).")
    draw(draws, fits, out)
    return {"posterior": posterior, "fits": fits}


# %% [markdown]
# The Kaplan-Meier curve assumes no law at all: at each relapse it drops by the share of those still watched.


# %%
def kaplan_meier(weeks, censored):
    """Times of relapse, and the share still well after each."""
    times = np.unique(weeks[~censored])
    left = [1 - np.sum((weeks == t) & ~censored) / np.sum(weeks >= t) for t in times]
    return np.append(0.0, times), np.append(1.0, np.cumprod(left))


# %%
def draw(draws, fits, out):
    figure, (left, right) = _style.picture(12, 4.6, ncols=2, width_ratios=[1.5, 1])
    grid = np.linspace(0, 36, 200)
    for treated, colour, name in ((0, _style.ORANGE, "placebo"), (1, _style.BLUE, "6-mercaptopurine")):
        scale = np.exp(draws["base"] + treated * draws["effect"])
        well = np.exp(-((grid[:, None] / scale) ** draws["shape"]))
        low, middle, high = np.quantile(well, [0.05, 0.5, 0.95], axis=1)
        left.fill_between(grid, low, high, color=colour, alpha=0.15, lw=0)
        left.plot(grid, middle, color=colour, lw=2)
        here = drug == treated
        times, share = kaplan_meier(weeks[here], censored[here])
        left.step(np.append(times, weeks[here].max()), np.append(share, share[-1]), color=colour, lw=1, where="post")
        still = weeks[here & censored]
        at = share[np.searchsorted(times, still, side="right") - 1]
        left.plot(still, at, "|", color=colour, ms=9, mew=1.5)
        left.text(27, high[grid < 27][-1] + 0.05, name, color=colour, ha="center")
    left.set(xlabel="weeks", ylabel="share still well", xlim=(0, 36), ylim=(0, 1))
    left.set_title("Weibull with its 90% band; Kaplan-Meier in steps, censored at |")
    for at, fit in enumerate(fits.values()):
        found = np.asarray(fit.sample(len(draws["base"]), seed=2)["times longer"])[:, None]
        _style.intervals(right, found, np.array([at]), _style.BLUE if at == 0 else _style.GREY)
    right.axvline(1, color=_style.PALE, lw=1.5, zorder=0)
    _style.rows(right, list(fits))
    right.set_xlabel("how many times longer (90% and 50%)")
    right.set_title("What the drug does")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
