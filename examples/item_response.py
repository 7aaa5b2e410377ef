# %% [markdown]
# # Item response: how hard is a question, and how able a student
#
# A thousand students answered five questions of a law school's test (Bock and Lieberman 1970). Able students pass more,
# hard questions are passed by fewer, and neither is seen. One learns here to integrate each student's ability out on a
# grid, exactly, so that six numbers are left in the place of 1,006, and to get the abilities back afterwards.

# %%
import _style
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.hermite_e import hermegauss

import vbppl as vb
import vbppl.distributions as dist

# How many students gave each pattern of right (1) and wrong (0) answers.
COUNTS = {
    "00000": 3, "00001": 6, "00010": 2, "00011": 11, "00100": 1, "00101": 1, "00110": 3, "00111": 4,
    "01000": 1, "01001": 8, "01010": 0, "01011": 16, "01100": 0, "01101": 3, "01110": 2, "01111": 15,
    "10000": 10, "10001": 29, "10010": 14, "10011": 81, "10100": 3, "10101": 28, "10110": 15, "10111": 80,
    "11000": 16, "11001": 56, "11010": 21, "11011": 173, "11100": 11, "11101": 61, "11110": 28, "11111": 298,
}  # fmt: skip
QUESTIONS = [f"question {i}" for i in range(1, 6)]
patterns = np.array([[int(digit) for digit in pattern] for pattern in COUNTS])
students = np.array(list(COUNTS.values()))

# Twenty-one abilities with weights that integrate a standard normal exactly against polynomials up to degree 41.
abilities, shares = hermegauss(21)
shares = shares / shares.sum()

# %% [markdown]
# All students with the same pattern add the same term: the log of their pattern's probability, averaged over
# abilities. It enters as a `factor`, a weight on the joint density.


# %%
def log_odds(hardness, spread):
    """Of each question for each ability of the grid, `(abilities, questions)`."""
    return spread * abilities[:, None] - hardness


def by_ability(logits, patterns):
    """The log probability of each pattern at each ability, `(patterns, abilities)`."""
    right, wrong = -jnp.logaddexp(0.0, -logits), -jnp.logaddexp(0.0, logits)
    return patterns @ right.T + (1 - patterns) @ wrong.T


@vb.model
def rasch(patterns, students):
    hardness = vb.sample("hardness", dist.Normal(0.0, 5.0), sample_shape=(5,), dims={"question": QUESTIONS})
    spread = vb.sample("spread", dist.HalfNormal(2.0))
    each = by_ability(log_odds(hardness, spread), patterns) + np.log(shares)
    with vb.plate("pattern", len(students)):
        vb.factor("answers", students * jnp.log(jnp.exp(each).sum(1)))


# %%
def main(quick=False, out="item_response.png"):
    posterior = vb.fit(rasch(patterns, students))
    print(posterior.summary())

    n = 500 if quick else 4000
    draws = posterior.sample(n, seed=1)
    hardness, spread = np.asarray(draws["hardness"]), np.asarray(draws["spread"])
    # What a student's score says of the ability: the grid's weights times the likelihood, for each draw.
    shown = np.array([pattern for pattern in patterns if (np.diff(pattern) >= 0).all()])
    shown = shown[np.argsort(shown.sum(1))]
    means, sds = np.zeros((n, len(shown))), np.zeros((n, len(shown)))
    for i in range(n):
        logs = np.asarray(by_ability(log_odds(hardness[i], spread[i]), shown)) + np.log(shares)
        weight = np.exp(logs - logs.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        means[i] = weight @ abilities
        sds[i] = np.sqrt(weight @ abilities**2 - means[i] ** 2)
    found = means.mean(0), np.sqrt((sds**2).mean(0) + means.var(0))
    print("\nScore and what it says of a student's ability, in sd among students:")
    for score, mean, sd in zip(shown.sum(1), *found):
        print(f"  {score} of 5: {mean:+.2f} ± {sd:.2f}")
    print("Five questions tell little: neighbouring scores overlap almost wholly.")
    draw(hardness, spread, shown.sum(1), *found, out)
    return {"posterior": posterior, "scores": found}


# %%
def draw(hardness, spread, scores, means, sds, out):
    figure, (left, middle, right) = _style.picture(13, 4.2, ncols=3, width_ratios=[1.1, 1.3, 1])
    order = np.argsort(-hardness.mean(0))
    _style.intervals(left, hardness[:, order], np.arange(5))
    _style.rows(left, [QUESTIONS[i] for i in order])
    left.set_xlabel("hardness (90% and 50%)")
    left.set_title("The hardest question first")

    grid = np.linspace(-3.5, 3.5, 100)
    for i, colour, style in zip(
        order, (_style.BLUE, _style.ORANGE, _style.GREEN, _style.PURPLE, _style.INK), ("-", "--", "-.", ":", "-")
    ):
        chance = 1 / (1 + np.exp(-(spread[:, None] * grid - hardness[:, i, None])))
        low, high = np.quantile(chance, [0.05, 0.95], axis=0)
        middle.fill_between(grid, low, high, color=colour, alpha=0.15, lw=0)
        middle.plot(grid, chance.mean(0), color=colour, ls=style, lw=1.8, label=QUESTIONS[i].split()[1])
    middle.set(xlabel="ability, in sd among students", ylabel="chance of a right answer", ylim=(0, 1))
    middle.legend(frameon=False, title="question")
    middle.set_title("Who passes which")

    right.vlines(scores, means - 1.645 * sds, means + 1.645 * sds, color=_style.BLUE, lw=1.8)
    right.plot(scores, means, "o", color="white", mec=_style.BLUE, mew=1.8, ms=6)
    right.axhline(0, color=_style.PALE, lw=1.5, zorder=0)
    right.set(xlabel="right answers of five", ylabel="ability, in sd (90%)")
    right.set_title("What a score says")
    _style.save(figure, out)


# %%
if __name__ == "__main__":
    _style.run(main, __file__)
