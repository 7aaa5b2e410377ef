# %% [markdown]
# # Is variational inference good enough here?
#
# How fast an enzyme works, at twelve concentrations of what it works on (Treloar 1974, the puromycin data). The two
# numbers of the Michaelis-Menten law go up and down together, and far. One learns here three ways to know whether an
# answer is good: the report card, the weights behind it, and `vb.refine`, which lets Markov chains go on from where
# the fit ended.

# %%
import warnings

import _style
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

concentration = np.array([0.02, 0.02, 0.06, 0.06, 0.11, 0.11, 0.22, 0.22, 0.56, 0.56, 1.10, 1.10])
rate = np.array([76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200.0])


@vb.model
def enzyme(concentration, rate=None):
    fastest = vb.sample("fastest", dist.Normal(200.0, 100.0))
    half = vb.sample("half", dist.HalfNormal(1.0))
    noise = vb.sample("noise", dist.HalfNormal(30.0))
    with vb.plate("run", len(concentration)):
        expected = fastest * concentration / (half + concentration)
        vb.sample("rate", dist.Normal(expected, noise), obs=rate)


# %% [markdown]
# A guide without correlations, the guide that `fit` chooses, and chains that start from the latter.


# %%
def main(quick=False, out="good_enough.png"):
    model = enzyme(concentration, rate=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.errors.PoorFitWarning)  # it is what we are about to see
        narrow = vb.fit(model, "mean_field")
    chosen = vb.fit(model)
    refined = vb.refine(chosen, n=1500 if quick else 4000, chains=4, progress=False)
    fits = {"mean field": narrow.uncorrected(), "vb.fit": chosen, "vb.refine": refined}
    for name, fit in fits.items():
        print(f"\n{name}\n{fit.check()}")
    mean, sd = refined.mean(), refined.sd()
    print("\nOff the chains: mean in sds, and sd as a ratio")
    for name in ("mean field", "vb.fit"):
        off = {site: (fits[name].mean()[site] - mean[site]) / sd[site] for site in mean}
        ratio = {site: fits[name].sd()[site] / sd[site] for site in mean}
        print(f"  {name:10} " + ", ".join(f"{site} {off[site]:+.2f} and {ratio[site]:.2f}" for site in mean))
    draw(fits, out)
    return {"fits": fits}


# %%
def draw(fits, out):
    figure, axes = _style.picture(12, 4.4, ncols=3, width_ratios=[1.25, 1, 1])
    reference = {name: np.asarray(each) for name, each in fits["vb.refine"].sample(4000, seed=1).items()}
    colours = {"mean field": _style.ORANGE, "vb.fit": _style.BLUE}
    plane = axes[0]
    plane.plot(reference["half"][:2000], reference["fastest"][:2000], "o", color=_style.GREY, ms=2, alpha=0.4, mew=0)
    for name, colour in colours.items():
        draws = fits[name].sample(4000, seed=1)
        pair = np.stack([np.asarray(draws["half"]), np.asarray(draws["fastest"])])
        for share in (0.5, 0.9):
            style_of = {"color": colour, "lw": 2, "ls": "--" if name == "mean field" else "-"}
            _style.ellipse(plane, pair.mean(1), np.cov(pair), share, **style_of)
    plane.set(xlabel="half: concentration of half the speed", ylabel="fastest")
    plane.set_title("Chains in grey; ellipses of 50% and 90%")
    for axis, name in zip(axes[1:], ("half", "noise")):
        grid = np.linspace(*np.quantile(reference[name], [0.0005, 0.9995]), 200)
        axis.fill_between(
            grid, _style.smoothed(reference[name], grid), color=_style.GREY, alpha=0.28, lw=0, label="vb.refine"
        )
        for fit, colour in colours.items():
            curve = _style.smoothed(np.asarray(fits[fit].sample(4000, seed=1)[name]), grid)
            axis.plot(
                grid,
                curve,
                color=colour,
                lw=2,
                ls="--" if fit == "mean field" else "-",
                label=f"{fit}: {fits[fit].check().verdict}",
            )
        _style.bare(axis)
        axis.set_title(name)
    axes[1].legend(frameon=False, fontsize=9)
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
