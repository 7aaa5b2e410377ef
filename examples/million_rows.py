# %% [markdown]
# # A million rows
#
# A million visits to a shop, made up so that the truth is known: does a visitor buy? Nine numbers are to be learnt. One
# learns here that a fit in minibatches is the same call with one more argument, that it ends by itself, and that a sum
# over rows leaves posterior sds of a few thousandths: the rounds that a step size would leave are larger than that.

# %%
import time

import _style
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

WORDS = ["pages seen", "time on page", "returning", "price", "discount", "on a phone", "by mail", "at night"]
TRUTH = np.array([0.8, 0.3, 0.6, -1.0, 0.5, -0.2, 0.4, 0.0])
OFFSET = -1.5


# %% [markdown]
# `vb.subsample` marks the arrays that have the plate's rows: in a minibatch they are read at the rows that are shown,
# and the plate scales the likelihood up. Without `batch_size` the same program runs over all rows.


# %%
@vb.model
def purchases(x, bought):
    offset = vb.sample("offset", dist.Normal(0.0, 2.0))
    slopes = vb.sample("slopes", dist.Normal(0.0, 1.0), sample_shape=(len(WORDS),), dims={"of": WORDS})
    with vb.plate("visit", len(bought)):
        logits = offset + vb.subsample(x, event_dim=1) @ slopes
        vb.sample("bought", dist.Bernoulli(logits=logits), obs=vb.subsample(bought))


def simulate(rows, seed=0):
    """Visits, and whether each ends in a purchase."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(WORDS))).astype(np.float32)
    x[:, 1] = 0.7 * x[:, 0] + 0.7 * x[:, 1]  # who sees many pages stays long
    chance = 1 / (1 + np.exp(-(OFFSET + x @ TRUTH)))
    return x, (rng.random(rows) < chance).astype(np.int32)


# %% [markdown]
# Beside it stands what a large sample of the same size would know at best: the Newton step's mode and the inverse of
# the Fisher information, computed from all rows.


# %%
def maximum(x, bought, steps=8):
    """The mode and its sds, by Newton's method on all rows; the prior is nothing beside a million of them."""
    design = np.column_stack([np.ones(len(x)), x]).astype(float)
    beta = np.zeros(design.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-design @ beta))
        information = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag([1 / 4, *np.ones(len(WORDS))])
        prior = beta * np.array([1 / 4, *np.ones(len(WORDS))])
        beta = beta + np.linalg.solve(information, design.T @ (bought - chance) - prior)
    return beta, np.sqrt(np.diag(np.linalg.inv(information)))


def main(quick=False, out="million_rows.png"):
    x, bought = simulate(20_000 if quick else 1_000_000)
    began = time.perf_counter()
    posterior = vb.fit(purchases(x, bought), "full_rank", batch_size=512)
    seconds = time.perf_counter() - began
    print(posterior.summary())
    mode, sds = maximum(x, bought)
    mean = np.append(posterior.mean()["offset"], posterior.mean()["slopes"])
    sd = np.append(posterior.sd()["offset"], posterior.sd()["slopes"])
    print(f"\n{len(x):,} rows, {posterior.status.steps:,} steps of 512 rows: {seconds:.0f} seconds.")
    print(f"Off the mode of all rows by at most {np.abs((mean - mode) / sds).max():.2f} sd;")
    print(f"sds are {np.min(sd / sds):.2f} to {np.max(sd / sds):.2f} times those of the information.")
    draw(posterior, mean, sd, mode, sds, out)
    return {"posterior": posterior, "mean": mean, "sd": sd, "mode": mode, "sds": sds}


# %%
def draw(posterior, mean, sd, mode, sds, out):
    figure, (left, right) = _style.picture(12, 4.4, ncols=2, width_ratios=[1, 1.2])
    truth, at = np.append(OFFSET, TRUTH), np.arange(len(mean))
    left.axvline(0, color=_style.PALE, lw=1.5, zorder=0)
    for shift, centre, width, colour in ((-0.17, mode, sds, _style.GREY), (0.17, mean, sd, _style.BLUE)):
        off = (centre - truth) * 1000
        left.hlines(at + shift, off - 1645 * width, off + 1645 * width, color=colour, lw=1.8)
        left.plot(off, at + shift, "o", color="white", mec=colour, mew=1.8, ms=5)
    _style.rows(left, ["offset", *WORDS])
    left.set_xlabel("beside the truth, thousandths (90%)")
    left.set_title("Minibatches in blue, all rows at once in grey")
    vb.plot.history(posterior, ax=right)
    right.set_title("The bound of minibatches, and where the fit ended")
    # From the first phase on, batches are told beside an expansion of all rows: control variates.
    right.text(
        0.16,
        0.08,
        "noise of batches, until control\nvariates take it away",
        transform=right.transAxes,
        color=_style.GREY,
    )
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
