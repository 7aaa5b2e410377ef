# %% [markdown]
# # Missing data
#
# In 442 people with diabetes (as in `regression.py`) the body mass index tells much of how the disease goes on.
# Suppose that it was not written down of many of those who fared worst. Whoever leaves these people out gets a slope
# that is too small. One learns here to keep them: what is missing is a latent variable like any other.

# %%
import _style
import numpy as np
from sklearn.datasets import load_diabetes

import vbppl as vb
import vbppl.distributions as dist

# %% [markdown]
# The model says of the mass what it would be, given what is known of everybody (blood pressure); of the disease, what
# it would be, given both. `obs_mask` is true where the mass was written down; elsewhere it is a latent number, and the
# value of the statement has both, each in its place.


# %%
@vb.model
def with_missing(pressure, mass, written, y):
    offset = vb.sample("offset", dist.Normal(0.0, 1.0))
    by_mass = vb.sample("by_mass", dist.Normal(0.0, 1.0))
    by_pressure = vb.sample("by_pressure", dist.Normal(0.0, 1.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    centre = vb.sample("centre", dist.Normal(0.0, 1.0))
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    width = vb.sample("width", dist.HalfNormal(1.0))
    with vb.plate("person", len(y)):
        whole = vb.sample("mass", dist.Normal(centre + slope * pressure, width), obs=mass, obs_mask=written)
        vb.sample("y", dist.Normal(offset + by_mass * whole + by_pressure * pressure, noise), obs=y)


# %%
def load(seed=0):
    """Pressure, mass and disease in sds; and of whom the mass goes missing: the likelier, the worse the disease."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    mass, pressure, y = ((each - each.mean()) / each.std() for each in (x[:, 2], x[:, 3], y))
    chance = 1 / (1 + np.exp(-(2.5 * y - 1.0)))
    missing = np.flatnonzero(np.random.default_rng(seed).random(len(y)) < chance)
    return pressure, mass, missing, y


def main(quick=False, out="missing_data.png"):
    pressure, mass, missing, y = load()
    written = np.ones(len(y), bool)
    written[missing] = False
    kept, gone = np.flatnonzero(written), np.where(written, mass, np.nan)
    everybody, those_kept = np.ones(len(y), bool), np.ones(len(kept), bool)
    fits = {
        "nothing missing": vb.fit(with_missing(pressure, mass, everybody, y), "full_rank"),
        "left out": vb.fit(with_missing(pressure[kept], mass[kept], those_kept, y[kept]), "full_rank"),
        "kept, as latent": vb.fit(with_missing(pressure, gone, written, y), "full_rank"),
    }
    print(f"The mass of {len(missing)} of {len(y)} people is missing. Its slope, in sds of the disease:")
    for name, fit in fits.items():
        low, high = fit.quantiles([0.05, 0.95])["by_mass"]
        print(f"  {name:16} {fit.mean()['by_mass']:.2f} ({low:.2f} to {high:.2f}), verdict {fit.check().verdict}")
    best = fits["kept, as latent"]
    print(best.check())
    unknown = np.asarray(best.sample(500 if quick else 2000, seed=1)["mass_unobserved"])
    low, high = np.quantile(unknown, [0.05, 0.95], axis=0)
    inside = np.mean((low < mass[missing]) & (mass[missing] < high))
    print(f"\nOf the masses that were hidden, {inside:.0%} lie inside their 90% intervals.")
    draw(fits, mass, missing, kept, y, unknown, inside, out)
    return {"fits": fits, "inside": inside, "missing": missing}


# %%
def draw(fits, mass, missing, kept, y, unknown, inside, out):
    figure, (left, middle, right) = _style.picture(13, 4.4, ncols=3, width_ratios=[1.1, 1.1, 1])
    grid = np.array([-2.2, 3.0])
    left.plot(mass[kept], y[kept], "o", color=_style.BLUE, ms=3, alpha=0.7, label="mass written down")
    left.plot(
        mass[missing], y[missing], "^", color=_style.ORANGE, ms=3.5, alpha=0.7, label="mass missing (its true place)"
    )
    for name, colour, style in (("left out", _style.GREY, "--"), ("kept, as latent", _style.INK, "-")):
        mean = fits[name].mean()
        left.plot(grid, mean["offset"] + mean["by_mass"] * grid, color=colour, lw=2, ls=style, label=name)
    left.set(xlabel="body mass, sd", ylabel="disease a year later, sd", ylim=(-2.2, 4.6))
    left.legend(frameon=False, fontsize=8, loc="upper left")
    left.set_title("The worst off are missing")

    for at, fit in enumerate(fits.values()):
        found = np.asarray(fit.sample(2000, seed=2)["by_mass"])[:, None]
        _style.intervals(middle, found, np.array([at]), _style.GREY if at < 2 else _style.BLUE)
    _style.rows(middle, list(fits))
    middle.set_xlabel("slope of body mass (90% and 50%)")
    middle.set_title("What leaving them out costs")

    order = np.argsort(mass[missing])[:: max(len(missing) // 40, 1)]
    low, high = np.quantile(unknown[:, order], [0.05, 0.95], axis=0)
    right.plot(grid, grid, color=_style.PALE, lw=1.5, zorder=0)
    right.vlines(mass[missing][order], low, high, color=_style.BLUE, lw=1.2)
    right.plot(mass[missing][order], unknown[:, order].mean(0), "o", color=_style.BLUE, ms=3)
    right.set(xlabel="what was hidden, sd", ylabel="what is inferred (90%)")
    right.set_title(f"{inside:.0%} inside their intervals")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
