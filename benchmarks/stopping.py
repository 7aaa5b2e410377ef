"""How often a stop rule stops too early, and how late it stops otherwise: `python -m benchmarks stopping`.

Simulated fits first: Adam, as the engine runs it, on quadratic bounds of four numbers in posterior
sds. Curvatures (the flattest down to 0.03), gradient noise (0.03 to 3 a step), start (1 to 100 sds away) and
units (an sd is 0.001 to 1,000 of them) are drawn anew for each. Then real fits of small models whose optimum is
known from fixed draws.

Three rules, each with the steps it was made for: the rounds of `vbppl/rounds.py`; rounds of 1,000
steps that fall by a cosine to a hundredth, each half as long as the last, until two averages agree within 0.02
sd (what vbppl did before); and steps of 0.1 until the bound, looked at every 100 steps, changes by
less than one per cent in the mean or median of ten looks (Stan's rule; Kucukelbir and others 2017, section
4.1). A stop is false if the answer is more than 0.1 sd off in some number. The delay is what was spent after
the rule's own answers had come, and stayed, within 0.1 sd. A fit that ends at the cap says so: not a false stop.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
from benchmarks import draws, machine, models
from vbppl.core.keys import host_generator, raw_key
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank, Gaussian, MeanField
from vbppl.inference.initialization import starts_of
from vbppl.inference.stochastic import step
from vbppl.inference.stochastic.objectives import ClosedForm
from vbppl.inference.stochastic.optimizers import DECAYS, AnnealedAdam
from vbppl.inference.stochastic.schedule import MAX_STEPS, THIN, Phase, Schedule
from vbppl.inference.stochastic.step import CHUNK
from vbppl.target.target import Target

FALSE = 0.1  # sds
NUMBERS = 4
HEAD = (
    "| rule | fits | stopped | false stops | of those that stopped | median steps | median delay |\n|---|" + "--:|" * 6
)


class Walked(NamedTuple):
    """What some fits that walk side by side saw in a round: the first axis is theirs."""

    trace: np.ndarray  # (fits, rows, 2, numbers), the round's last half
    average: np.ndarray  # error of the average, (fits,)
    last: np.ndarray  # error of the last iterate
    bounds: np.ndarray  # (fits, looks), each the mean of 100 steps


class Simulated:
    """Fits of quadratic bounds, side by side."""

    def __init__(self, fits: int, seed: int):
        rng = np.random.default_rng(seed)
        curvature = 10 ** rng.uniform(-1.5, 0, (fits, NUMBERS))
        curvature[:, 0] = 1
        noise, unit = 10 ** rng.uniform(-1.5, 0.5, (fits, 1)), 10 ** rng.uniform(-3, 3, (fits, 1))
        self.problem = tuple(jnp.asarray(part) for part in (curvature, noise, unit))
        start = 10 ** rng.uniform(0, 2, (fits, 1)) * rng.choice([-1, 1], (fits, NUMBERS))
        self.offset = -(10 ** rng.uniform(1, 6, fits))  # the log density's constant
        self.carry = tuple(jnp.asarray(part) for part in (start, 0 * start, 0 * start))
        self.fits, self.key, self.done = fits, jax.random.key(seed), 0

    def walk(self, plans: list[Phase]) -> Walked:
        """One round, each fit by its own plan, from the average of the last; all are equally long."""
        steps, half = plans[0].steps, plans[0].steps - plans[0].window
        at = np.arange(steps)
        fallen = np.clip(at / np.maximum([[plan.fall] for plan in plans], 1), 0, 1)
        size, last, power = (
            np.array([[getattr(plan, part)] for plan in plans]) for part in ("step_size", "last", "power")
        )
        rates = 0.1 * size * (last + (1 - last) * (1 + np.cos(np.pi * fallen)) / 2)
        unit = np.asarray(self.problem[2])  # a unit step in sds: of 1 in units of phi, but no less than an sd
        rates = rates * np.where(power == 0, np.maximum(1.0, 1 / unit), 1.0)
        key = jax.random.fold_in(self.key, self.done)
        self.carry, seen = _steps(self.problem, self.carry, rates.astype(np.float32), key, np.int32(self.done))
        z, means, losses = (np.asarray(part, np.float64) for part in seen)  # (fits, steps / 10, ...)
        self.done += steps
        average = means[:, -(half // THIN) :].mean(axis=1)
        self.carry = (average.astype(np.float32), *self.carry[1:])
        noise = np.random.default_rng(self.done).standard_normal((self.fits, steps // 100)) * 0.1
        bounds = self.offset[:, None] - losses.reshape(self.fits, -1, 100 // THIN).mean(-1) + noise
        trace = z[:, -(half // THIN) :]
        trace = np.stack([trace, np.ones_like(trace)], axis=2)
        return Walked(trace, np.abs(average).max(-1), np.abs(z[:, -1]).max(-1), bounds)


@jax.jit
def _steps(problem: tuple, carry: tuple, rates: jax.Array, key: jax.Array, done: jax.Array) -> tuple:
    curvature, noise, _ = problem

    def step(carry, ahead):
        (z, m, v), (t, rate) = carry, ahead
        gradient = curvature * z + noise * jax.random.normal(jax.random.fold_in(key, t), z.shape)
        m, v = DECAYS[0] * m + (1 - DECAYS[0]) * gradient, DECAYS[1] * v + (1 - DECAYS[1]) * gradient**2
        unbiased = v / (1 - DECAYS[1] ** (t + 1))
        z = z - rate[:, None] * m / (1 - DECAYS[0] ** (t + 1)) / (jnp.sqrt(unbiased) + 1e-8)
        return (z, m, v), z

    def group(carry, ahead):
        carry, z = jax.lax.scan(step, carry, ahead)
        return carry, (carry[0], z.mean(0), (curvature * z**2).sum(-1).mean(0) / 2)

    ahead = (done + jnp.arange(rates.shape[1]), rates.T)
    ahead = jax.tree.map(lambda part: part.reshape(-1, THIN, *part.shape[1:]), ahead)
    carry, seen = jax.lax.scan(group, carry, ahead)
    return carry, jax.tree.map(lambda part: jnp.swapaxes(part, 0, 1), seen)


class Real:
    """Fits of one model from several seeds; they share a compiled program and walk one after another."""

    def __init__(self, model: vb.Model, guide: Gaussian, batch: int | None, best: np.ndarray, seeds: range):
        target = Target.of(model)
        plates = target.layout.plates
        stream = Minibatches() if batch is None else Minibatches(((plates[0].name, plates[0].size, batch),))
        self.guide, self.best, self.setups, self.states = guide, best, [], []
        for raw in map(raw_key, seeds):
            rows = {name: np.arange(length) for name, _, length in stream.plates}
            noise = guide.noise(target.replace(rows=rows)).stratified(host_generator(raw, "strata"), 16)
            parts = (target, guide, ClosedForm(), AnnealedAdam(), stream, noise, raw)
            self.setups.append(jax.device_put(step.Setup(*parts)))
            z = starts_of(target, host_generator(raw, "start"), 1)[0].astype(jnp.result_type(float))
            params = {"guide": guide.init(target, Start(z)), "model": target.params}
            self.states.append(step.first_position(self.setups[-1], params))
        self.fits, self.done = len(self.states), 0

    def walk(self, plans: list[Phase]) -> Walked:
        """One round, each fit by its own plan; all are equally long."""
        walked = [self._one(i, plan) for i, plan in enumerate(plans)]
        self.done += plans[0].steps
        return Walked(*map(np.stack, zip(*walked)))

    def _one(self, i: int, plan: Phase) -> tuple:
        state, rows, bounds = self.states[i], [], []
        for _ in range(plan.steps // CHUNK):
            state, seen, trace = step.run_chunk(self.setups[i], state, np.int32(CHUNK), plan.as_data(), False)
            rows.append(np.asarray(trace)[: CHUNK // THIN])
            bounds.append(np.asarray(seen).reshape(-1, 100).mean(-1))
        carry = jax.tree.map(np.array, state.carry)
        self.states[i] = dataclasses.replace(state, carry=dataclasses.replace(carry, params=carry.mean))
        trace = np.concatenate(rows)[-(plan.steps - plan.window) // THIN :]
        return trace, self._error(carry.mean), self._error(carry.params), np.concatenate(bounds)

    def _error(self, params: dict) -> float:
        loc, sd = self.best
        phi = np.asarray(params["guide"], np.float64)
        means = np.abs(self.guide.loc(phi) - loc) / sd
        return float(max(means.max(), np.abs(np.log(self.guide.sd(phi) / sd)).max()))


class Ended(NamedTuple):
    """How one fit ended: whether by the rule, after how many steps, how far off; and when it was good for good."""

    stopped: bool
    steps: int
    error: float
    good: int


def by_tests(fits: Simulated | Real) -> list[Ended]:
    """The rounds of vbppl."""
    courses, reasons = [Schedule()] * fits.fits, [""] * fits.fits
    ends, errors = [MAX_STEPS] * fits.fits, []
    while not all(reasons):
        walked = fits.walk([course.phase() for course in courses])
        errors.append((fits.done, walked.average))
        for i in range(fits.fits):
            courses[i], said = courses[i].after(walked.trace[i])
            if said and not reasons[i]:
                reasons[i], ends[i] = said, fits.done
    return [_ended(reasons[i] == "settled", ends[i], i, errors) for i in range(fits.fits)]


def by_agreement(fits: Simulated | Real) -> list[Ended]:
    """Phases of falling steps until two averages agree."""
    ends, before, errors = np.zeros(fits.fits, int), None, []
    for number in range(20):
        size = 0.5 ** min(number, 4)
        plan = Phase(fits.done, 1000, 1000, 500, size, 0.01, 0.0)
        walked = fits.walk([plan] * fits.fits)
        errors.append((fits.done, walked.average))
        centre, units = walked.trace[:, :, 0].mean(1), walked.trace[:, -1, 1]
        if before is not None:
            agreed = (np.abs(centre - before) / units).max(-1) <= 0.02
            ends = np.where((ends == 0) & agreed, fits.done, ends)
        before = centre
    return [_ended(bool(end), int(end) or fits.done, i, errors) for i, end in enumerate(ends)]


def by_relative_change(fits: Simulated | Real) -> list[Ended]:
    """Steps of 0.1 until the bound changes by less than one per cent."""
    ends, bounds, errors = np.zeros(fits.fits, int), np.zeros((fits.fits, 0)), []
    for _ in range(10):
        walked = fits.walk([Phase(fits.done, 1000, 0, 500, 1.0, 1.0, 0.0)] * fits.fits)
        errors.append((fits.done, walked.last))
        bounds = np.append(bounds, walked.bounds, axis=1)
        changes = np.abs(np.diff(bounds[:, -11:]) / bounds[:, -10:][:, -(min(bounds.shape[1], 11) - 1) :])
        small = np.minimum(changes.mean(1), np.median(changes, 1)) < 0.01
        ends = np.where((ends == 0) & small, fits.done, ends)
    return [_ended(bool(end), int(end) or fits.done, i, errors) for i, end in enumerate(ends)]


def _ended(stopped: bool, steps: int, i: int, errors: list) -> Ended:
    at = {done: float(error[i]) for done, error in errors}
    bad = [done for done in at if at[done] > FALSE]
    good = min((done for done in at if not bad or done > bad[-1]), default=0)
    return Ended(stopped, steps, at[steps], good)


def row(name: str, ended: list[Ended]) -> str:
    """A row of the table."""
    stopped = [end for end in ended if end.stopped]
    false = [end for end in stopped if end.error > FALSE]
    delays = [end.steps - end.good for end in stopped if 0 < end.good <= end.steps]
    return (
        f"| {name} | {len(ended)} | {len(stopped) / len(ended):.0%} | {len(false)} | "
        f"{len(false) / max(len(stopped), 1):.1%} | {np.median([e.steps for e in stopped] or [np.nan]):,.0f} | "
        f"{np.median(delays or [np.nan]):,.0f} |"
    )


RULES: dict[str, Callable[[Simulated | Real], list[Ended]]] = {
    "tests of the iterates": by_tests,
    "two rounds agree": by_agreement,
    "relative change of the bound": by_relative_change,
}


def real_models() -> Iterator[tuple[str, vb.Model, Gaussian, int | None]]:
    """Small models, with guides that are exact, too narrow, and shown rows in part."""
    cases = {case.name: case.model for case in models.cases()}
    yield "eight schools, non-centred", vb.decenter(cases["eight schools"]), MeanField(), None
    regressions = draws.models()
    yield "logistic, 3 dims", regressions["logistic regression, 3 dims"], FullRank(), None
    yield "logistic, 50 dims", regressions["logistic regression, 50 dims"], MeanField(), None
    yield "three scales", three_scales(np.array([1e3, 1.0, 1e-3])), MeanField(), None
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = (rng.random(200) < jax.nn.sigmoid(x @ np.array([1.0, 2.0, 3.0]))).astype(float)
    yield "logistic, 20 of 200 rows", shown_in_part(x, y), MeanField(), 20


@vb.model
def three_scales(sd):
    """Independent normals, three sds off the start."""
    vb.sample("x", vb.distributions.Normal(3 * sd, sd).to_event(1))


@vb.model
def shown_in_part(x, y):
    """A logistic regression whose rows can be shown in part."""
    beta = vb.sample("beta", vb.distributions.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
        vb.sample("y", vb.distributions.Bernoulli(logits=x @ beta), obs=y)


def main(arguments: list[str]) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser("python -m benchmarks stopping", description=__doc__.partition("\n")[0])
    parser.add_argument("--fits", type=int, default=1000, help="simulated fits")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of each real model")
    parser.add_argument("--first-seed", type=int, default=0, help="the rules were chosen while looking at 0")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", vb.VbpplWarning)
    print(f"{machine.described()}\n\nSimulated\n\n{HEAD}", flush=True)
    for name, rule in RULES.items():
        print(row(name, rule(Simulated(options.fits, seed=options.first_seed))), flush=True)
    print(f"\nReal\n\n{HEAD}", flush=True)
    for model_name, model, guide, batch in real_models():
        phi = np.asarray(vb.fit(model, guide).phi, np.float64)
        best = np.stack([guide.loc(phi), guide.sd(phi)])
        for name, rule in RULES.items():
            found = rule(Real(model, guide, batch, best, range(options.first_seed, options.first_seed + options.seeds)))
            print(row(f"{model_name}: {name}", found), flush=True)
