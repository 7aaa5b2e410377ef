# %% [markdown]
# # A Gaussian process
#
# Forty readings of a curve that nobody has written down, with a gap in the middle. A Gaussian process is a prior over
# curves; how wavy and how high they are is learnt from the readings. One learns here to integrate the curve out, so
# that three numbers are left to fit, and to draw the curve from its exact normal given each draw of the three.

# %%
import _style
import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

NOISE = 0.25


def truth(x):
    return np.sin(1.3 * x) + 0.4 * np.cos(3.1 * x) + 0.15 * x


def simulate(seed=3):
    """Readings at places that leave out the middle."""
    rng = np.random.default_rng(seed)
    x = np.sort(np.concatenate([rng.uniform(0, 4, 24), rng.uniform(6, 10, 16)]))
    return x, truth(x) + NOISE * rng.normal(size=len(x))


# %% [markdown]
# Two places of the curve are the more alike the nearer they are. With normal noise the readings are one multivariate
# normal, and the curve itself need not be a latent variable.


# %%
def kernel(one, other, height, length):
    return height**2 * jnp.exp(-(((one[:, None] - other) / length) ** 2) / 2)


@vb.model
def process(x, y=None):
    height = vb.sample("height", dist.HalfNormal(2.0))
    length = vb.sample("length", dist.LogNormal(0.0, 1.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    covariance = kernel(x, x, height, length) + noise**2 * jnp.eye(len(x))
    vb.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


# %% [markdown]
# Given the three numbers, the curve at new places is normal too (Rasmussen and Williams 2006, equation 2.23).


# %%
def curve(key, height, length, noise, x, y, new):
    """One curve at the places `new`, for one draw of the three numbers."""
    covariance = kernel(x, x, height, length) + noise**2 * jnp.eye(len(x))
    across = kernel(x, new, height, length)
    solved = jnp.linalg.solve(covariance, across)
    left = kernel(new, new, height, length) - across.T @ solved
    factor = jnp.linalg.cholesky(left + 1e-4 * height**2 * jnp.eye(len(new)))
    return solved.T @ y + factor @ jax.random.normal(key, (len(new),))


def main(quick=False, out="gaussian_process.png"):
    x, y = simulate()
    posterior = vb.fit(process(x, y=y))
    print(posterior.summary())

    n, new = 200 if quick else 2000, np.linspace(-1, 11, 121)
    draws = posterior.sample(n, seed=1)
    keys = jax.random.split(jax.random.key(2), n)
    three = (jnp.asarray(draws[name]) for name in ("height", "length", "noise"))
    curves = np.asarray(jax.lax.map(lambda each: curve(*each, x, y, new), (keys, *three), batch_size=100))
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    inside = np.mean((low < truth(new)) & (truth(new) < high))
    width = (high - low)[np.abs(new - 5) < 0.5].mean() / (high - low)[np.abs(new - 2) < 0.5].mean()
    print(f"\nThe true curve lies inside its 90% band at {inside:.0%} of the places.")
    print(f"In the gap the band is {width:.1f} times as wide as where there are readings.")
    draw(x, y, new, curves, draws, out)
    return {"posterior": posterior, "curves": curves, "inside": inside, "data": (x, y)}


# %%
def draw(x, y, new, curves, draws, out):
    figure, (left, right) = _style.picture(12, 4.2, ncols=2, width_ratios=[2.2, 1])
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    left.fill_between(new, low, high, color=_style.BLUE, alpha=0.15, lw=0)
    left.plot(new, curves[:6].T, color=_style.BLUE, lw=0.7, alpha=0.7)
    left.plot(new, truth(new), color=_style.INK, lw=1.5, ls=(0, (4, 2)))
    left.plot(x, y, "o", color=_style.ORANGE, ms=4)
    left.set(xlabel="x", ylabel="y", xlim=(-1, 11))
    left.set_title("Readings, six curves with the 90% band, and the truth (dashed)")
    length, noise = (np.asarray(draws[name]) for name in ("length", "noise"))
    right.plot(length[:1500], noise[:1500], "o", color=_style.BLUE, ms=2.5, alpha=0.4, mew=0)
    right.axhline(NOISE, color=_style.INK, lw=1.2, ls=(0, (4, 2)))
    right.text(length.max(), NOISE, "true noise", va="bottom", ha="right", fontsize=9)
    right.set(xlabel="length over which it bends", ylabel="sd of the noise")
    right.set_title("How wavy, and how noisy")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
