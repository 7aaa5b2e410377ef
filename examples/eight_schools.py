# %% [markdown]
# # Eight schools
#
# Eight schools coached their pupils for a test, and each measured by how many points that helped (Rubin 1981).
# School A found 28 points and school C lost 3, but the standard errors are 9 to 18 points. How much do the
# schools really differ, and what may a ninth school expect?

# %%
import _style
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

SCHOOLS = list("ABCDEFGH")
y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

# %% [markdown]
# The true effects `theta` vary around `mu` with standard deviation `tau`. Such a hierarchy is a funnel: where `tau` is
# small, every `theta` must be close to `mu`. `fit` notices, and sees each `theta` through what its row alone says of
# it; where its own report is then not content, it lets `tau` be skewed and move the others. What it chose is in the
# details of its report, and what it prints below speaks of the answer that the report vouches for.


# %%
@vb.model
def eight_schools(sigma, y=None):
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfCauchy(5.0))
    with vb.plate("school", len(sigma)):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, sigma), obs=y)


# %%
def main(quick=False, out="eight_schools.png"):
    posterior = vb.fit(eight_schools(sigma, y=y))
    print(posterior.summary())

    n = 1_000 if quick else 4_000
    draws = posterior.sample(n, seed=1)
    mu, tau, theta = (np.asarray(draws[name]) for name in ("mu", "tau", "theta"))
    # A ninth school, which nobody has measured, varies around mu like the eight.
    new = np.random.default_rng(2).normal(mu, tau)

    print(f"\nCoaching helps by {interval(mu)} points on average; P(mu > 0) is {np.mean(mu > 0):.2f}.")
    print(f"True effects vary between schools with a standard deviation of {interval(tau)} points.")
    print(f"School A measured 28 points; its effect is estimated at {interval(theta[:, 0])}.")
    print(f"A does better than C with probability {np.mean(theta[:, 0] > theta[:, 2]):.2f}.")
    print(f"A ninth school may expect {interval(new)} points.")
    draw(theta, mu, new, out)
    return {"posterior": posterior, "new": new}


def interval(draws):
    """The mean and the central 90% of `draws`, in words."""
    low, high = np.quantile(draws, [0.05, 0.95])
    return f"{draws.mean():.1f} ({low:.1f} to {high:.1f})"


# %%
def draw(theta, mu, new, out):
    figure, (left, right) = _style.picture(10, 4.2, ncols=2, width_ratios=[3, 2])
    at = np.arange(8)
    left.axvline(mu.mean(), color=_style.PALE, lw=1.5, zorder=0)
    left.hlines(at - 0.18, y - 1.645 * sigma, y + 1.645 * sigma, color=_style.PALE, lw=1.5)
    left.plot(y, at - 0.18, "o", color=_style.GREY, ms=5)
    _style.intervals(left, theta, at + 0.18)
    _style.rows(left, SCHOOLS)
    left.set_title("What each school measured, and what it is worth")
    left.set_xlabel("points gained by coaching")
    left.annotate("measured, 90%", (y[0], -0.18), (0, 7), textcoords="offset points", color=_style.GREY, ha="center")
    # Each label at the end of what it names: the bar of school A, and the line above all schools.
    left.text(np.quantile(theta[:, 0], 0.95) + 1, 0.2, "posterior, 90% and 50%", color=_style.BLUE, va="center")
    left.text(mu.mean() - 0.8, -0.62, "average over schools", color=_style.GREY, ha="right", fontsize=9)

    grid = np.linspace(-17, 27, 300)
    middle = _style.density(right, mu, grid, _style.GREY)
    ninth = _style.density(right, new, grid, _style.ORANGE)
    right.text(9.3, middle.max() * 0.75, "average effect mu", color=_style.GREY)
    right.text(12.0, ninth[grid < 12][-1] + 0.006, "effect in a ninth school", color=_style.ORANGE)
    right.set_title("What a ninth school may expect")
    right.set_xlabel("points gained by coaching")
    right.set_yticks([])
    right.spines["left"].set_visible(False)
    right.set_ylim(0)
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
