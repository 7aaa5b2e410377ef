# %% [markdown]
# # Beyond a Gaussian
#
# Five posteriors in the plane that no Gaussian fits: a banana, a ring, two scales on top of each other, a funnel and a
# wall. Each is fitted twice: by the best full-rank Gaussian, and by `vb.fit` as it is, which climbs on where its own
# report is not content: other widths and modes, other coordinates, bent margins, mixtures. What it then says of itself
# is compared with the truth, an integral over a grid. Where the verdict is *corrected*, its draws are weighed ones.

# %%
import _style
import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb

# %% [markdown]
# A density need not be a model: a function of a vector will do, and need not be normalised.


# %%
def banana(z):
    return -(z[0] ** 2) / 2 - (z[1] - z[0] ** 2 / 2) ** 2


def ring(z):
    return -(((jnp.sqrt(jnp.sum(z**2) + 1e-9) - 2.5) / 0.4) ** 2) / 2


def two_scales(z):
    wide, narrow = (-jnp.sum(z**2) / 2 / sd**2 - 2 * jnp.log(sd) for sd in (2.0, 0.3))
    return jnp.logaddexp(wide, narrow)


def funnel(z):
    return -(z[1] ** 2) / 2 / 1.2**2 - z[0] ** 2 / 2 * jnp.exp(-z[1]) - z[1] / 2


def wall(z):
    return -(z[0] ** 2) / 2 - jnp.exp(4 * (z[1] - z[0] / 2 - 1)) - (z[1] + 1) ** 2 / 8


DENSITIES = {
    "banana": (banana, (-3.5, 3.5, -2.5, 6.0)),
    "ring": (ring, (-4.2, 4.2, -4.2, 4.2)),
    "two scales": (two_scales, (-5.0, 5.0, -5.0, 5.0)),
    "funnel": (funnel, (-4.5, 4.5, -4.0, 4.0)),
    "wall": (wall, (-3.5, 3.5, -6.5, 3.5)),
}

# %% [markdown]
# The bound of a guide lies below the log evidence by the divergence of the guide from the posterior: what is left of it
# is how much of the posterior the guide has missed.


# %%
def main(quick=False, out="beyond_a_gaussian.png"):
    names = list(DENSITIES)[:2] if quick else list(DENSITIES)
    found = {}
    for name in names:
        density, window = DENSITIES[name]
        target = vb.density(density, 2)
        gaussian, best = vb.fit(target, "full_rank"), vb.fit(target)
        found[name] = {"gaussian": gaussian, "best": best, "log_evidence": log_evidence(density)}
        print(f"{name}: log evidence {found[name]['log_evidence']:.3f}")
        for kind, posterior in (("a Gaussian", gaussian), ("vb.fit", best)):
            print(f"  {kind}: ELBO {posterior.elbo}, {posterior.check().verdict}")
    draw(found, out, 400 if quick else 900)
    return found


def log_evidence(density, reach=12.0, points=1201):
    """By a sum over a grid."""
    axis = np.linspace(-reach, reach, points)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    logs = np.asarray(jax.vmap(density)(grid), np.float64)
    return float(logs.max() + np.log(np.exp(logs - logs.max()).sum() * (axis[1] - axis[0]) ** 2))


# %%
def draw(found, out, n):
    figure, axes = _style.picture(2.1 * len(found), 4.8, nrows=2, ncols=len(found), squeeze=False)
    for column, (name, each) in zip(axes.T, found.items()):
        density, (left, right, low, high) = DENSITIES[name]
        x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(low, high, 200))
        logs = np.asarray(jax.vmap(density)(jnp.stack([x, y], axis=-1).reshape(-1, 2))).reshape(x.shape)
        for axis, kind, colour in zip(column, ("gaussian", "best"), (_style.GREY, _style.BLUE)):
            posterior = each[kind]
            z = np.asarray(posterior.sample(n, seed=1)["z"] if kind == "best" else guide_alone(posterior, n))
            axis.plot(*z.T, ".", color=colour, ms=2, alpha=0.35, rasterized=True)
            levels = logs.max() - np.array([4.5, 2.0, 0.5])
            axis.contour(x, y, logs, levels=levels, colors="black", linewidths=0.6, linestyles="solid")
            axis.set_xlim(left, right)
            axis.set_ylim(low, high)
            axis.set_xticks([])
            axis.set_yticks([])
            missed = max(each["log_evidence"] - posterior.elbo.value, 0.0)
            axis.set_xlabel(f"{posterior.check().verdict}, gap {missed:.2f} nats", fontsize=9)
        column[0].set_title(name)
    axes[0, 0].set_ylabel("the best Gaussian")
    axes[1, 0].set_ylabel("vb.fit")
    _style.save(figure, out)


def guide_alone(posterior, n):
    """Draws of the guide itself, where an answer would be corrected."""
    return posterior.uncorrected().sample(n, seed=1)["z"]


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
