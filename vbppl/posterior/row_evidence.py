"""Judging an amortised guide row by row, on rows it may never have seen.

Where all latent sites stand in one plate (a VAE), the evidence is a sum over rows, and each row can be judged
by itself. `row_evidence` estimates every row's log evidence by importance sampling, `amortisation_gap` finds what
the encoder loses against the best normal of each row, and `EarlyStopping` ends a fit when the bound on a validation
set has stopped rising.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator, named, wrap
from vbppl.core.numerics import psis
from vbppl.core.programs.compiling import in_batches
from vbppl.core.types import Array, PyTree
from vbppl.core.watch import Watch
from vbppl.guides import networks
from vbppl.guides.base import Guide, row_wise
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import Report, solver_reasons
from vbppl.posterior.weighted_draws import WeightedDraws
from vbppl.target.target import Target

NUMBERS = 2**23  # that intermediate values may hold at once
BLOCK = 500  # rows at once
REFINING, DRAWS, JUDGING = 600, 8, 512  # steps, draws a step, draws that judge
LOG_WEIGHT_SD = 0.7  # nats
JUDGED, AT_ONCE, MOST_FAILING = 128, 32, 0.1  # rows; the fraction of them that may fail

# Advice.
EVIDENCE = "posterior.log_evidence(): the log evidence of each row, which needs no good guide"
GAP = "posterior.amortisation_gap(): how much of that the encoder is to blame for"
VALIDATE = (
    "vb.Stochastic(validation=vb.inference.Validation(model(rows kept back))): networks seldom come to rest, but rows "
    "that were not fitted tell when more steps do harm"
)


@dataclasses.dataclass(frozen=True)
class RowEvidence:
    """The log evidence of each row, by importance sampling from the guide.

    Attributes:
      values: `(rows,)`, in nats. Each is a bound that rises to the truth with the number of draws.
      ess: the effective number of draws behind each, `(rows,)`.
      draws: how many there were.
    """

    values: np.ndarray
    ess: np.ndarray
    draws: int

    @property
    def mean(self) -> Estimate:
        """The mean over rows, with the standard error that the choice of rows leaves."""
        rows = len(self.values)
        return Estimate(float(self.values.mean()), float(self.values.std(ddof=1) / math.sqrt(rows)))

    def __str__(self) -> str:
        typical, least = np.median(self.ess), self.ess.min()
        return (
            f"{self.mean} nats a row ({len(self.values):,} rows, {self.draws:,} draws each; effective draws: "
            f"median {typical:,.0f}, least {least:,.1f})"
        )

    __repr__ = __str__


def row_evidence(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray, draws: int) -> RowEvidence:
    """The log evidence of each row: `log (1/draws) sum p / q`, in chunks that bound the memory."""
    plate = target.layout.only_plate()
    block = min(plate.size, BLOCK)
    showing = target.with_lengths({plate.name: block})
    # Some thousand numbers a row and draw: what the layers of a network hold.
    chunk = int(np.clip(NUMBERS // (block * (1000 + target.data_size // plate.size)), 1, draws))
    first = _showing_first(showing, plate.name, block)
    spread = guide.noise(first).stratified(host_generator(raw_key, "row evidence"), chunk)
    found = []
    for number, start in enumerate(range(0, plate.size, block)):
        shown = showing.showing({plate.name: np.arange(start, start + block, dtype=np.int32) % plate.size})
        at = (np.asarray(raw_key), np.int32(number), np.int32(draws))
        found.append(np.stack(_weigh_block(guide, phi, shown, spread, *at, chunk)))
    log_means, ess = np.concatenate(found, axis=1).astype(np.float64)[:, : plate.size]
    return RowEvidence(log_means, ess, draws)


@functools.partial(jax.jit, static_argnames="chunk")
def _weigh_block(
    guide: Guide, phi: PyTree, target: Target, spread: Any, raw_key: Array, number: Array, draws: Array, chunk: int
) -> tuple[Array, Array]:
    """For each row the log of the average weight of `draws` draws, and their effective number."""
    key = jax.random.fold_in(named(wrap(raw_key), "row evidence"), number)

    def one(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        log_weights = _row_log_weights(guide, phi, target, spread(jax.random.fold_in(key, i)), target.rows)
        counted = (i * chunk + jnp.arange(chunk) < draws)[:, None]
        log_weights = jnp.where(counted, log_weights, -jnp.inf)
        totals = (jax.nn.logsumexp(power * log_weights, axis=0) for power in (1, 2))
        return jax.tree.map(jnp.logaddexp, sums, tuple(totals))

    nothing = jnp.full(jax.tree.leaves(target.rows)[0].shape, -jnp.inf)
    first, second = jax.lax.fori_loop(0, (draws + chunk - 1) // chunk, one, (nothing, nothing))
    return first - jnp.log(draws), jnp.exp(2 * first - second)


def judge_rows(solution: Solution, elbo: Estimate, raw_key: np.ndarray, watch: Watch) -> Report:
    """The report of an amortised guide: some rows' weights, each row by itself; of fewer where time would be over.

    All rows together the weights of a perfect fit would look hopeless, because their logs add up over rows.
    """
    target, plate = solution.target, solution.target.layout.only_plate()
    chosen = host_generator(raw_key, "judge rows").permutation(plate.size)[:JUDGED].astype(np.int32)
    log_weights = _weights_of_rows(solution, chosen, raw_key, watch)
    judged = log_weights.shape[1]
    sds = log_weights.std(axis=0)
    smoothed = [psis.smooth(column) for column in log_weights.T]
    gap = float(np.mean([s.log_mean for s in smoothed] - log_weights.mean(axis=0)))
    # The evidence adds up over rows, so a few whose weights do not settle down may not spoil it, but no more.
    usable = np.mean([s.usable for s in smoothed]) >= 1 - MOST_FAILING
    reasons, advice = _reasons_by_row(float(np.mean(~(sds <= LOG_WEIGHT_SD))), gap, solution)
    text = f"each row by itself: the medians of {judged} rows, {JUDGING} draws each"
    text += f"; of {len(chosen)}, had there been time" if judged < len(chosen) else ""
    return Report(
        elbo,
        WeightedDraws.none(target.dim),
        solution.other_modes,
        log_evidence=elbo.value + plate.size * gap if usable else math.nan,
        log_weight_sd=float(np.median(sds)),
        ess=float(np.median([s.ess for s in smoothed])) / JUDGING,
        pareto_k=float(np.median([s.shape for s in smoothed])),
        verdict="poor" if reasons else "good",
        reasons=tuple(reasons),
        advice=tuple(advice),
        status=solution.status,
        notes=(Note("judging", text), *solution.notes),
    )


def _reasons_by_row(failing: float, gap: float, solution: Solution) -> tuple[list[str], list[str]]:
    """Reasons and advice, where so large a fraction of the rows fail, and lose so many nats on average."""
    reasons, advice = [], []
    if failing > MOST_FAILING:
        reasons.append(
            f"in {failing:.0%} of the rows log p - log q varies by more than {LOG_WEIGHT_SD} nats: on average a "
            f"row's normal is at least {gap:.2f} nats from its posterior"
        )
        advice += [EVIDENCE, GAP]
    against = solver_reasons(solution.status, solution.other_modes)
    return reasons + against, advice + [VALIDATE] * bool(against)


def _weights_of_rows(solution: Solution, chosen: np.ndarray, raw_key: np.ndarray, watch: Watch) -> np.ndarray:
    """`log p - log q` of the rows `chosen`, `(JUDGING, rows)`; of the first ones where time would be over."""
    guide, phi, target = solution.guide, solution.phi, solution.target
    name, count, began = target.layout.only_plate().name, min(len(chosen), AT_ONCE), time.perf_counter()
    showing = target.with_lengths({name: count})
    spread = guide.noise(_showing_first(showing, name, count)).stratified(
        host_generator(raw_key, "judge rows"), JUDGING
    )
    found = []
    for number, first in enumerate(range(0, len(chosen), count)):
        # Compiling, which the first rows bring, makes these look dearer, never cheaper.
        if number and watch.is_over_in((time.perf_counter() - began) / number):
            break
        rows = showing.showing({name: np.resize(chosen[first:], count)}).rows  # the last ones may stand twice
        weights = _some_weights(guide, phi, showing, spread, rows, raw_key, np.int32(number))
        found.append(np.asarray(weights, np.float64))  # and wait for them, so that time is theirs
    return np.concatenate(found, axis=1)[:, : len(chosen)]


@jax.jit
def _some_weights(
    guide: Guide, phi: PyTree, target: Target, spread: Any, rows: dict[str, Array], raw_key: Array, number: Array
) -> Array:
    """`log p - log q` of each row shown, `(JUDGING, rows)`."""
    key = jax.random.fold_in(named(wrap(raw_key), "judge rows"), number)
    return _row_log_weights(guide, phi, target, spread(key), rows)


def weighs_rows(guide: Guide, phi: PyTree, target: Target) -> bool:
    """Whether the guide is amortised, and all of the model stands in one plate."""
    if not networks.network_size(guide, phi):
        return False
    try:
        showing = target.with_lengths({target.layout.only_plate().name: 1})
        rows = target.showing({target.layout.only_plate().name: np.zeros(1, np.int32)}).rows
        first = _showing_first(showing, target.layout.only_plate().name, 1)
        spread = guide.noise(first).stratified(np.random.default_rng(0), 1)
        jax.eval_shape(
            lambda raw: _row_log_weights(guide, phi, showing, spread(wrap(raw)), rows), np.zeros(2, np.uint32)
        )
    except ModelError:
        return False
    return True


def _row_log_weights(guide: Guide, phi: PyTree, target: Target, noise: Array, rows: dict[str, Any]) -> Array:
    rowwise, target = row_wise(guide), target.replace(rows=rows)
    return rowwise.row_log_weights(phi, rowwise.values(phi, noise, target), target)


def _showing_first(target: Target, plate: str, length: int) -> Target:
    """The target showing so many rows of a plate: for shapes alone."""
    return target.replace(rows={plate: np.arange(length, dtype=np.int32)})


class AmortisationGap(NamedTuple):
    """What an encoder loses against the best normal of each row, in nats a row.

    Attributes:
      mean: the mean over rows, with its standard error.
      rows: of each row looked at, `(rows,)`.
    """

    mean: Estimate
    rows: np.ndarray

    def __str__(self) -> str:
        return f"the encoder loses {self.mean} nats a row ({len(self.rows)} rows)"

    __repr__ = __str__


def amortisation_gap(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray, rows: int) -> AmortisationGap:
    """Refine each row's normal from the encoder's on, and compare the bounds on the same fresh draws.

    Cremer, Li and Duvenaud 2018, "Inference Suboptimality in Variational Autoencoders", section 3.
    """
    plate = target.layout.only_plate()
    rng = host_generator(raw_key, "amortisation gap")
    chosen = np.sort(rng.choice(plate.size, size=min(rows, plate.size), replace=False)).astype(np.int32)
    shown = target.showing({plate.name: chosen}).rows
    showing = target.with_lengths({plate.name: len(chosen)})
    gains = np.asarray(_gains(guide, phi, showing, shown, np.asarray(raw_key)), np.float64)
    return AmortisationGap(Estimate(float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))), gains)


@jax.jit
def _gains(guide: Guide, phi: PyTree, target: Target, rows: dict[str, Array], raw_key: Array) -> Array:
    """How much each row's bound rises when its own normal is refined, `(rows,)`."""
    key = named(wrap(raw_key), "amortisation gap")
    found = row_wise(guide).normals(phi, target.replace(rows=rows))
    normals = {name: (loc, jnp.log(sd)) for name, (loc, sd) in found.items()}
    slots = target.layout.slots

    def points(table: PyTree, noise: Mapping[str, Array]) -> Array:
        parts = [(table[s.name][0] + jnp.exp(table[s.name][1]) * noise[s.name]).reshape(-1) for s in slots]
        return jnp.concatenate(parts)

    def by_row(z: Array) -> Array:
        return target.run(z, rows, shown=True).by_row(target.layout.only_plate().name)

    def bounds(table: PyTree, key: Array, draws: int) -> Array:
        """Of each row: antithetic draws, the entropy in closed form up to a constant."""
        shapes = {s.name: table[s.name][0].shape for s in slots}
        half = {n: jax.random.normal(named(key, n), (draws // 2, *shape)) for n, shape in shapes.items()}
        log_p = 0.0
        for sign in (1.0, -1.0):
            noise = jax.tree.map(lambda leaf, sign=sign: sign * leaf, half)
            log_p += in_batches(lambda e: by_row(points(table, e)), noise, 8).mean(0)
        entropies = (log_sd.reshape(len(log_sd), -1).sum(axis=1) for _, log_sd in table.values())
        return log_p / 2 + sum(entropies)

    def step(carry: PyTree, i: Array) -> tuple[PyTree, None]:
        table, mean, square = carry
        slope = jax.grad(lambda table: bounds(table, jax.random.fold_in(key, i), DRAWS).sum())(table)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, square, slope)
        size = 0.03 * (1 + jnp.cos(jnp.pi * i / REFINING)) / (1 - 0.9 ** (i + 1))
        unbias = 1 / (1 - 0.99 ** (i + 1))
        table = jax.tree.map(lambda t, m, v: t + size * m / (jnp.sqrt(v * unbias) + 1e-8), table, mean, square)
        return (table, mean, square), None

    zeros = jax.tree.map(jnp.zeros_like, normals)
    (refined, _, _), _ = jax.lax.scan(step, (normals, zeros, zeros), jnp.arange(REFINING))
    fresh = named(key, "judging")
    return bounds(refined, fresh, JUDGING) - bounds(normals, fresh, JUDGING)
