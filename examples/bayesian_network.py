# %% [markdown]
# # A Bayesian neural network with bands
#
# A network with a prior over its weights knows where it has seen data and where it has not. One learns here two ways
# to write one, and to believe the report card. With priors over *all* weights no normal is the posterior: hidden
# units may trade places and signs, and the card says *poor*. With a wide hidden layer that is drawn once and left
# alone, the outer weights are a regression, which a normal holds exactly: the card says *good*, and the bands open
# where there are no readings.

# %%
import warnings

import _style
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

NARROW, WIDE, NOISE = 8, 80, 0.1


def truth(x):
    return 0.6 * np.sin(2.2 * x) + 0.3 * x


def simulate(seed=0):
    """Two heaps of readings with nothing between them."""
    rng = np.random.default_rng(seed)
    x = np.sort(np.concatenate([rng.uniform(-2.0, -0.6, 30), rng.uniform(0.8, 2.0, 30)]))
    return x, truth(x) + NOISE * rng.normal(size=60)


def network(x, inner, bias, outer):
    return jnp.tanh(x[:, None] * inner + bias) @ outer


# %% [markdown]
# The prior of the outer weights shrinks with the number of hidden units, so that the prior over curves does not
# depend on how many there are (Neal 1996). The curve is a `deterministic` site: `predict` gives it at any other
# places.


# %%
@vb.model
def all_weights(x, y=None):
    inner = vb.sample("inner", dist.Normal(0.0, 2.0).expand([NARROW]).to_event(1))
    bias = vb.sample("bias", dist.Normal(0.0, 2.0).expand([NARROW]).to_event(1))
    readings(x, inner, bias, NARROW, y)


@vb.model
def outer_weights(x, inner, bias, y=None):
    readings(x, inner, bias, WIDE, y)


def readings(x, inner, bias, hidden, y):
    """What both say of the outer weights and the data."""
    outer = vb.sample("outer", dist.Normal(0.0, 2.0 / np.sqrt(hidden)).expand([hidden]).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(0.5))
    curve = vb.deterministic("curve", network(x, inner, bias, outer))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(curve, noise), obs=y)


# %%
def main(quick=False, out="bayesian_network.png"):
    x, y = simulate()
    inner, bias = 2.0 * np.random.default_rng(1).normal(size=(2, WIDE))  # the hidden layer, once and for all
    new, n = np.linspace(-3.2, 3.2, 129), 200 if quick else 2000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)  # what the cards say is printed, and in the picture
        every = vb.fit(all_weights(x, y=y), "mean_field")
    outer = vb.fit(outer_weights(x, inner, bias, y=y), "full_rank")
    curves = {
        "all weights": every.uncorrected().predict(all_weights(new), n=n, seed=1)["curve"],
        "outer weights": outer.predict(outer_weights(new, inner, bias), n=n, seed=1)["curve"],
    }
    curves = {name: np.asarray(each) for name, each in curves.items()}
    fits, between = {"all weights": every, "outer weights": outer}, np.abs(new - 0.1) < 0.3
    seen = ((new > -1.9) & (new < -0.7)) | ((new > 0.9) & (new < 1.9))
    for name, fit in fits.items():
        sd = curves[name].std(0)
        print(f"\n{name}\n{fit.check()}")
        print(
            f"  the curve is known to {sd[seen].mean():.3f} among the readings, {sd[between].mean():.3f} between them"
        )
    draw(x, y, new, curves, fits, out)
    return {"fits": fits, "curves": curves, "new": new, "data": (x, y, inner, bias)}


# %%
def draw(x, y, new, curves, fits, out):
    figure, axes = _style.picture(12, 4.4, ncols=2, sharey=True)
    for axis, (name, each) in zip(axes, curves.items()):
        for level, alpha in ((0.98, 0.12), (0.9, 0.15), (0.5, 0.25)):
            low, high = np.quantile(each, [(1 - level) / 2, (1 + level) / 2], axis=0)
            axis.fill_between(new, low, high, color=_style.BLUE, alpha=alpha, lw=0)
        axis.plot(new, each.mean(0), color=_style.BLUE, lw=2)
        axis.plot(new, truth(new), color=_style.INK, lw=1.2, ls=(0, (4, 2)))
        axis.plot(x, y, "o", color=_style.ORANGE, ms=3.5)
        axis.set(xlabel="x", ylim=(-2.6, 2.6), xlim=(-3.2, 3.2))
        axis.set_title(f"A prior over {name}: {fits[name].check().verdict}")
    axes[0].set_ylabel("y")
    axes[0].text(-3.1, -2.4, "bands of 50, 90 and 98%; the truth is dashed", fontsize=9)
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
