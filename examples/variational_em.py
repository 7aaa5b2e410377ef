# %% [markdown]
# # Variational EM: a mixture and a factor analysis
#
# What has a prior is inferred, what is a `param` is maximised: a fit with both is variational expectation
# maximisation, and nothing else needs to be written. Where the guide can hold the exact posterior of the latent
# variables, its bound is the likelihood itself, and the fit must end where the classic algorithms do. Two of them
# are looked at here: a mixture of two normals, for the petals of irises, and factor analysis, for thirteen
# chemical readings of 178 wines.

# %%
import _style
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import FactorAnalysis

import vbppl as vb
import vbppl.distributions as dist

positive = dist.constraints.positive

# %% [markdown]
# **The mixture.** Which of the two groups a flower belongs to is discrete, so it is summed out.


# %%
@vb.model
def two_groups(length):
    weights = vb.param("weights", np.array([0.5, 0.5]), constraint=dist.constraints.simplex)
    loc = vb.param("loc", jnp.quantile(length, jnp.array([0.25, 0.75])))
    scale = vb.param("scale", jnp.full(2, length.std()), constraint=positive)
    with vb.plate("flower", len(length)):
        groups = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, scale))
        vb.sample("length", groups, obs=length)


# %% [markdown]
# **Factor analysis.** Every wine has two latent factors; each reading mixes them by its loadings, with a noise of
# its own. Given the loadings, the exact posterior of the factors is normal, its mean a linear function of the
# readings and its covariance the same for all wines: an encoder with one matrix can hold it. (Its scale is
# diagonal. The loadings are only known up to a rotation, and one of the rotations makes the factors independent.)


# %%
@vb.model
def factor_analysis(readings, factors=2):
    kinds = readings.shape[1]
    loadings = vb.param("loadings", 0.3 * np.random.default_rng(0).standard_normal((factors, kinds)))
    noise = vb.param("noise", np.ones(kinds), constraint=positive)
    with vb.plate("wine", len(readings)):
        z = vb.sample("z", dist.Normal(jnp.zeros(factors), 1.0).to_event(1))
        vb.sample("readings", dist.Normal(z @ loadings, noise).to_event(1), obs=readings)


def encode(net, readings):
    loc = readings @ net["matrix"]
    return loc, jnp.broadcast_to(jnp.exp(net["log_scale"]), loc.shape)


# %%
def em(length, steps=2000):
    """The textbook's iteration, to its fixed point: weights, locs, scales."""
    weights, loc, scale = np.array([0.5, 0.5]), np.quantile(length, [0.25, 0.75]), np.full(2, length.std())
    for _ in range(steps):
        share = weights * np.exp(-(((length[:, None] - loc) / scale) ** 2) / 2) / scale
        share /= share.sum(1, keepdims=True)
        total = share.sum(0)
        weights, loc = total / len(length), share.T @ length / total
        scale = np.sqrt((share * (length[:, None] - loc) ** 2).sum(0) / total)
    return weights, loc, scale


# %%
def main(quick=False, out="variational_em.png"):
    length = load_iris().data[:, 2]
    mixture = vb.fit(two_groups(length))
    print("Iris petals, cm     by EM                by vbppl")
    for name, expected in zip(("weights", "loc", "scale"), em(length), strict=True):
        found = np.asarray(mixture.params[name])
        print(f"  {name:16} " + "  ".join(f"{pair[0]:.4f} {pair[1]:.4f}" for pair in (expected, found)))

    wines = load_wine()
    readings = (wines.data - wines.data.mean(0)) / wines.data.std(0)
    net = {"matrix": 0.1 * np.random.default_rng(1).standard_normal((13, 2)), "log_scale": np.zeros(2)}
    guide = vb.Amortized("z", encode, reads="readings", params=net)
    factors = vb.fit(factor_analysis(readings), guide)
    reference = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(readings)
    print("\nWines, log likelihood a row")
    print(f"  scikit-learn's factor analysis  {reference.score(readings):.4f}")
    print(f"  vbppl's bound                   {factors.elbo.value / len(readings):.4f}")
    print(factors.check())
    draw(length, mixture, wines, readings, factors, reference, out)
    return {"length": length, "mixture": mixture, "readings": readings, "factors": factors, "reference": reference}


# %%
def draw(length, mixture, wines, readings, factors, reference, out):
    figure, (groups, covariances, places) = _style.picture(13, 4.4, ncols=3)
    grid = np.linspace(0.5, 7.5, 400)
    groups.hist(length, bins=28, density=True, color=_style.PALE)
    for weight, loc, scale, colour in zip(
        *(np.asarray(mixture.params[name]) for name in ("weights", "loc", "scale")),
        (_style.BLUE, _style.ORANGE),
        strict=True,
    ):
        part = weight * np.exp(-(((grid - loc) / scale) ** 2) / 2) / scale / np.sqrt(2 * np.pi)
        groups.plot(grid, part, color=colour, lw=2)
        groups.text(loc + 1.5 * scale, part.max() * 0.75, f"{weight:.0%} around {loc:.1f} cm", color=colour)
    weights, loc, scale = em(length)
    exact = (weights * np.exp(-(((grid[:, None] - loc) / scale) ** 2) / 2) / scale).sum(1) / np.sqrt(2 * np.pi)
    groups.plot(grid[::12], exact[::12], "o", color=_style.INK, ms=2.5, label="EM's fixed point")
    groups.plot([], [], color=_style.GREY, lw=2, label="what the fit finds")
    groups.set(xlabel="petal length, cm", yticks=[])
    groups.spines["left"].set_visible(False)
    groups.legend(frameon=False, loc="upper right")
    groups.set_title("Two groups of irises")

    loadings, noise = (np.asarray(factors.params[name]) for name in ("loadings", "noise"))
    ours = loadings.T @ loadings + np.diag(noise**2)
    theirs = reference.get_covariance()
    covariances.axline((0, 0), slope=1, color=_style.PALE, lw=1.5, zorder=0)
    covariances.plot(theirs[np.triu_indices(13)], ours[np.triu_indices(13)], "o", color=_style.BLUE, ms=4, alpha=0.7)
    covariances.set(xlabel="scikit-learn", ylabel="vbppl", xlim=(-0.65, 1.1), ylim=(-0.65, 1.1))
    covariances.set_xticks([-0.5, 0, 0.5, 1])
    covariances.set_yticks([-0.5, 0, 0.5, 1])
    covariances.set_title("Correlations that two factors imply")

    z = np.asarray(factors.encode(readings).loc)
    for kind, colour, marker in zip(range(3), (_style.BLUE, _style.ORANGE, _style.GREEN), "o^s", strict=True):
        here = z[wines.target == kind]
        places.plot(*here.T, marker, color=colour, ms=4.5, alpha=0.75, lw=0, label=f"grape {kind + 1}")
    places.set(xlabel="first factor", ylabel="second factor", xlim=(-3, 2.6), ylim=(-2.6, 3))
    places.legend(frameon=False, handletextpad=0.1, loc="upper right")
    places.set_title("Where the encoder puts each wine")
    for axes in (groups, covariances, places):
        axes.set_box_aspect(1)
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
