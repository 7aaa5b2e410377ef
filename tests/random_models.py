"""Random models, and what they mean: a grammar that vbppl runs and NumPy walks on its own.

A model is a tuple of statements, drawn by Hypothesis. `program` runs them in vbppl's words, with plates as dims and
scans as one step. `Walk` is the reference: it knows neither shapes nor steps, and goes through every row of every plate
and every step of every scan in Python, one number at a time, with SciPy's densities. Discrete latent sites are summed
out by brute force, over all their values in all rows and steps together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist

JOINT = 2048  # joint values of all discrete sites that brute force goes through
DIMS = {"p": -1, "q": -2}


@dataclasses.dataclass(frozen=True)
class Parent:
    """A site that another is computed from: at the same row and step, or one step before, times `slope`."""

    name: str
    slope: float
    lag: bool = False


@dataclasses.dataclass(frozen=True)
class Statement:
    """One sample, factor or deterministic statement.

    `numbers` are the two intercepts; `depth` is the number of scans around it; `told` is "latent", "observed", or
    "missing" where some rows are.
    """

    kind: str
    name: str
    plates: tuple[str, ...]
    depth: int
    family: str = "Normal"
    parents: tuple[tuple[Parent, ...], tuple[Parent, ...]] = ((), ())
    numbers: tuple[float, float] = (0.0, 0.0)
    told: str = "latent"
    masked: bool = False

    @property
    def is_hidden(self) -> bool:
        """Whether it is summed out."""
        return self.kind == "sample" and self.told == "latent" and FAMILIES[self.family].count > 0


@dataclasses.dataclass(frozen=True)
class Scan:
    """Statements in a step, inside of `plates`; `carried` are the sites whose last value is handed on."""

    plates: tuple[str, ...]
    length: int
    statements: tuple[Any, ...]
    carried: tuple[str, ...]
    depth: int


@dataclasses.dataclass(frozen=True)
class Spec:
    """A model."""

    sizes: tuple[tuple[str, int], ...]
    statements: tuple[Any, ...]
    seed: int

    def each(self) -> Iterator[tuple[Statement, tuple[Scan, ...]]]:
        """All statements, with the scans around each."""
        yield from _each(self.statements, ())

    @functools.cached_property
    def by_name(self) -> dict[str, tuple[Statement, tuple[Scan, ...]]]:
        return {statement.name: (statement, scans) for statement, scans in self.each()}

    def shape(self, statement: Statement, scans: tuple[Scan, ...] = ()) -> tuple[int, ...]:
        """Steps, and the batch shape of a statement."""
        sizes = dict(self.sizes)
        depth = max((-DIMS[plate] for plate in statement.plates), default=0)
        batch = [1] * depth
        for plate in statement.plates:
            batch[DIMS[plate]] = sizes[plate]
        return (*(scan.length for scan in scans), *batch)

    def data(self) -> dict[str, Any]:
        """Observations, with NaN or a far number where they are missing; masks; true is there."""
        rng, found = np.random.default_rng(self.seed), {}
        for statement, scans in self.each():
            shape = self.shape(statement, scans)
            if statement.told != "latent":
                found[statement.name] = np.asarray(FAMILIES[statement.family].observation(rng, shape))
            if statement.masked:
                found[f"{statement.name} mask"] = np.asarray(rng.random(shape) < 0.6)
            if statement.told == "missing":
                found[f"{statement.name} seen"] = seen = np.asarray(rng.random(shape) < 0.5)
                whole = found[statement.name]
                gap = np.nan if whole.dtype.kind == "f" else 77
                whole[~seen] = gap
        return found


def _each(statements: tuple[Any, ...], scans: tuple[Scan, ...]) -> Iterator[tuple[Statement, tuple[Scan, ...]]]:
    for each in statements:
        if isinstance(each, Scan):
            yield from _each(each.statements, (*scans, each))
        else:
            yield each, scans


# ---- what the families are: here, and in SciPy ----


@dataclasses.dataclass(frozen=True)
class Family:
    """A family with two predictors `a` and `b`.

    `ours` makes the distribution of arrays, `log_prob(a, b, x)` is the reference for numbers (or arrays of joint
    values). `event` is the event's shape; `values` are those of a discrete one that can be summed out.
    """

    ours: Any
    log_prob: Any
    observation: Any
    event: tuple[int, ...] = ()
    values: tuple[Any, ...] = ()
    fixed_support: bool = True

    @property
    def count(self) -> int:
        """How many values there are to sum over."""
        return len(self.values)


def _real(rng: Any, shape: Any) -> Any:
    return rng.normal(size=shape)


def _positive(rng: Any, shape: Any) -> Any:
    return np.exp(rng.normal(size=shape))


def _unit(rng: Any, shape: Any) -> Any:
    return rng.uniform(0.05, 0.95, size=shape)


def _below(most: int) -> Any:
    return lambda rng, shape: rng.integers(0, most, size=shape)


def _event(shape_of_event: tuple[int, ...]) -> Any:
    return lambda rng, shape: rng.normal(size=(*shape, *shape_of_event))


def _log_expit(x: Any) -> Any:
    return -np.logaddexp(0.0, -x)


def _of_three(a: Any, b: Any, x: Any) -> Any:
    logits = np.stack(np.broadcast_arrays(a, b, 0.0 * a))
    chosen = np.where(x == 0, a, np.where(x == 1, b, 0.0))
    return chosen - special.logsumexp(logits, axis=0)


def _normal_pair(a: Any, b: Any, x: Any) -> Any:
    return stats.norm.logpdf(x[0], a, 0.8) + stats.norm.logpdf(x[1], b, 0.8)


TRIL = ((1.1, 0.0), (0.4, 0.7))  # no array: JAX keeps what it made of one in the precision of an earlier test


def _mvn(a: Any, b: Any, x: Any) -> Any:
    first = (x[0] - a) / TRIL[0][0]
    second = (x[1] - b - TRIL[1][0] * first) / TRIL[1][1]
    return stats.norm.logpdf(first) + stats.norm.logpdf(second) - np.log(TRIL[0][0] * TRIL[1][1])


def _dirichlet(a: Any, b: Any, x: Any) -> Any:
    alpha = np.stack(np.broadcast_arrays(np.exp(a), np.exp(b), 1.0 + 0.0 * a))
    x = np.array(x).reshape(3, *(1,) * (alpha.ndim - 1))
    norm = special.gammaln(alpha.sum(0)) - special.gammaln(alpha).sum(0)
    return norm + ((alpha - 1) * np.log(x)).sum(0)


def _lkj(a: Any, b: Any, x: Any) -> Any:
    eta = np.exp(a)  # of two dimensions: the correlation is a beta on (-1, 1), and it is the one free entry
    return (eta - 1) * np.log(x[1, 1] ** 2) - (2 * eta - 1) * np.log(2.0) - special.betaln(eta, eta)


def _zero_inflated(a: Any, b: Any, x: Any) -> Any:
    one = _log_expit(-a) + stats.poisson.logpmf(x, np.exp(b))
    return np.where(np.asarray(x) == 0, np.logaddexp(_log_expit(a), one), one)


def _pairs(a: Any, b: Any, x: Any) -> Any:
    return _log_expit(np.where(x[0] == 1, a, -a)) + _log_expit(np.where(x[1] == 1, b, -b))


FAMILIES: dict[str, Family] = {
    "Normal": Family(
        lambda a, b: dist.Normal(a, jnp.exp(b)), lambda a, b, x: stats.norm.logpdf(x, a, np.exp(b)), _real
    ),
    "StudentT": Family(
        lambda a, b: dist.StudentT(4.0, a, jnp.exp(b)), lambda a, b, x: stats.t.logpdf(x, 4, a, np.exp(b)), _real
    ),
    "Laplace": Family(
        lambda a, b: dist.Laplace(a, jnp.exp(b)), lambda a, b, x: stats.laplace.logpdf(x, a, np.exp(b)), _real
    ),
    "Gamma": Family(
        lambda a, b: dist.Gamma(jnp.exp(a), jnp.exp(b)),
        lambda a, b, x: stats.gamma.logpdf(x, np.exp(a), scale=np.exp(-b)),
        _positive,
    ),
    "LogNormal": Family(
        lambda a, b: dist.LogNormal(a, jnp.exp(b)),
        lambda a, b, x: stats.lognorm.logpdf(x, np.exp(b), scale=np.exp(a)),
        _positive,
    ),
    "HalfNormal": Family(
        lambda a, b: dist.HalfNormal(jnp.exp(a)), lambda a, b, x: stats.halfnorm.logpdf(x, 0, np.exp(a)), _positive
    ),
    "Beta": Family(
        lambda a, b: dist.Beta(jnp.exp(a), jnp.exp(b)),
        lambda a, b, x: stats.beta.logpdf(x, np.exp(a), np.exp(b)),
        _unit,
    ),
    "Uniform": Family(
        lambda a, b: dist.Uniform(a - 1.0, a + jnp.exp(b)),
        lambda a, b, x: stats.uniform.logpdf(x, a - 1.0, 1.0 + np.exp(b)),
        _real,
        fixed_support=False,
    ),
    "NormalPair": Family(
        lambda a, b: dist.Normal(jnp.stack(jnp.broadcast_arrays(a, b), -1), 0.8).to_event(1),
        _normal_pair,
        _event((2,)),
        (2,),
    ),
    "MultivariateNormal": Family(
        lambda a, b: dist.MultivariateNormal(jnp.stack(jnp.broadcast_arrays(a, b), -1), scale_tril=jnp.asarray(TRIL)),
        _mvn,
        _event((2,)),
        (2,),
    ),
    "Dirichlet": Family(
        lambda a, b: dist.Dirichlet(jnp.stack(jnp.broadcast_arrays(jnp.exp(a), jnp.exp(b), 1.0 + 0.0 * a), -1)),
        _dirichlet,
        lambda rng, shape: rng.dirichlet(np.ones(3) * 3, size=shape),
        (3,),
    ),
    "LKJCholesky": Family(lambda a, b: dist.LKJCholesky(2, jnp.exp(a)), _lkj, None, (2, 2)),
    "Bernoulli": Family(
        lambda a, b: dist.Bernoulli(logits=a),
        lambda a, b, x: _log_expit(np.where(x == 1, a, -a)),
        _below(2),
        values=(0, 1),
    ),
    "Categorical": Family(
        lambda a, b: dist.Categorical(logits=jnp.stack(jnp.broadcast_arrays(a, b, 0.0 * a), -1)),
        _of_three,
        _below(3),
        values=(0, 1, 2),
    ),
    "Binomial": Family(
        lambda a, b: dist.Binomial(2, logits=a),
        lambda a, b, x: stats.binom.logpmf(x, 2, special.expit(a)),
        _below(3),
        values=(0, 1, 2),
    ),
    "BernoulliPair": Family(
        lambda a, b: dist.Bernoulli(logits=jnp.stack(jnp.broadcast_arrays(a, b), -1)).to_event(1),
        _pairs,
        lambda rng, shape: rng.integers(0, 2, size=(*shape, 2)),
        (2,),
        values=((0, 0), (0, 1), (1, 0), (1, 1)),
    ),
    "Poisson": Family(
        lambda a, b: dist.Poisson(jnp.exp(a)), lambda a, b, x: stats.poisson.logpmf(x, np.exp(a)), _below(6)
    ),
    "NegativeBinomial2": Family(
        lambda a, b: dist.NegativeBinomial2(jnp.exp(a), jnp.exp(b)),
        lambda a, b, x: stats.nbinom.logpmf(x, np.exp(b), np.exp(b) / (np.exp(a) + np.exp(b))),
        _below(6),
    ),
    "ZeroInflatedPoisson": Family(
        lambda a, b: dist.ZeroInflatedPoisson(1 / (1 + jnp.exp(-a)), rate=jnp.exp(b)), _zero_inflated, _below(4)
    ),
}
COUNTS = ["Poisson", "NegativeBinomial2", "ZeroInflatedPoisson"]
SUMMED = [name for name, family in FAMILIES.items() if family.count]
CONTINUOUS = [name for name in FAMILIES if name not in (*COUNTS, *SUMMED)]
WEIGHTS = np.array([1.0, -0.7, 0.4, 0.9])  # by which the numbers of an event become one


# ---- vbppl's words ----


@vb.model
def program(spec: Spec, data: dict[str, Any]):
    """The model in vbppl's words."""
    _run(spec, spec.statements, (), data, {}, {})


def _run(spec: Spec, statements: Any, around: Any, data: dict[str, Any], values: dict[str, Any], lags: Any) -> None:
    for each in statements:
        if isinstance(each, Scan):
            _run_scan(spec, each, around, data, values, lags)
            continue
        with _plates(spec, each.plates, around):
            a, b = (
                number + sum((_read(spec, p, each, values, lags) for p in parents), 0.0)
                for number, parents in zip(each.numbers, each.parents)
            )
            family = FAMILIES[each.family]
            if each.kind == "factor":
                vb.factor(each.name, 0.3 * jnp.asarray(a))
            elif each.kind == "deterministic":
                vb.deterministic(each.name, jnp.asarray(a) + 1.0)
            else:
                own = family.ours(jnp.asarray(a), jnp.asarray(b))
                if each.masked:
                    own = own.mask(_shown(each, data, f"{each.name} mask", 0))
                how = {}
                if each.name in data:
                    how["obs"] = _shown(each, data, each.name, len(family.event))
                if each.told == "missing":
                    how["obs_mask"] = _shown(each, data, f"{each.name} seen", 0)
                values[each.name] = vb.sample(each.name, own, **how)


def _shown(each: Statement, data: dict[str, Any], name: str, event_dim: int) -> Any:
    # In a step the rows were cut out before the scan.
    return data[name] if each.depth else vb.subsample(data[name], event_dim=event_dim)


def _plates(spec: Spec, plates: tuple[str, ...], around: tuple[str, ...] = ()) -> Any:
    stack, sizes = contextlib.ExitStack(), dict(spec.sizes)
    for plate in plates[len(around) :]:
        stack.enter_context(vb.plate(plate, sizes[plate], dim=DIMS[plate]))
    return stack


def _number(value: Any, event: tuple[int, ...]) -> Any:
    """An event as one number, between -1 and 1."""
    for axis in range(len(event)):
        value = (jnp.asarray(value) * WEIGHTS[: event[-1 - axis]]).sum(-1)
    return jnp.tanh(value)


def _read(spec: Spec, parent: Parent, reader: Statement, values: dict[str, Any], lags: dict[str, Any]) -> Any:
    statement, scans = spec.by_name[parent.name]
    shared = _shared(scans, spec.by_name[reader.name][1])
    value = lags[parent.name] if parent.lag else values[parent.name]
    number = _number(value, FAMILIES[statement.family].event)
    for plate in statement.plates:
        if plate not in reader.plates:
            number = number.mean(axis=DIMS[plate], keepdims=True)
    number = number.mean(axis=tuple(range(len(scans) - shared)))
    rows = max((-DIMS[plate] for plate in reader.plates), default=0)
    return parent.slope * number.reshape(number.shape[max(number.ndim - rows, 0) :])  # the others are of length 1


def _shared(one: tuple[Scan, ...], other: tuple[Scan, ...]) -> int:
    """How many scans stand around both."""
    return sum(a is b for a, b in zip(one, other))


def _run_scan(spec: Spec, scan: Scan, around: Any, data: dict[str, Any], values: dict[str, Any], lags: Any) -> None:
    inside = {s.name: s for s, _ in _each(scan.statements, ())}
    xs = {name: value for name, value in data.items() if name.split(" ")[0] in inside}
    if scan.depth == 0:
        rows = {name: inside[name.split(" ")[0]] for name in xs}
        for name, s in rows.items():
            event_dim = 0 if " " in name else len(FAMILIES[s.family].event)
            with _plates(spec, s.plates, around):
                xs[name] = vb.subsample(xs[name], event_dim=event_dim)

    with _plates(spec, scan.plates, around):

        def step(carry: Any, x: Any) -> Any:
            own = dict(values)
            _run(spec, scan.statements, scan.plates, {**data, **x}, own, {**lags, **carry})
            given = {n: own[n] for n in own if n not in values and not _is_summed(spec, n)}
            return {name: own[name] for name in scan.carried}, given

        init = {name: _init(spec, name, scan.plates) for name in scan.carried}
        _, given = vb.scan(step, init, xs, length=scan.length)
        values.update(given)


def _is_summed(spec: Spec, name: str) -> bool:
    return spec.by_name[name][0].is_hidden


def _init(spec: Spec, name: str, around: tuple[str, ...]) -> Any:
    """What stands before the first step: zeros, of the rows that are shown."""
    statement, _ = spec.by_name[name]
    family = FAMILIES[statement.family]
    with _plates(spec, statement.plates, around):
        batch = vb.subsample(jnp.zeros(spec.shape(statement)))
    kind = float if statement.family in CONTINUOUS else int
    return jnp.zeros((*batch.shape, *family.event), kind)


# ---- the reference ----


class Walk:
    """The log density of a model at values of its latent sites, number by number; discrete ones are summed."""

    def __init__(self, spec: Spec, data: dict[str, Any], values: dict[str, Any]):
        self.spec, self.data, self.values = spec, data, {n: np.asarray(v) for n, v in values.items()}
        self.sizes = dict(spec.sizes)
        self.cells: dict[Any, Any] = {}
        hidden = [
            (statement, times, rows)
            for statement, scans in spec.each()
            if statement.is_hidden and statement.name not in self.values
            for times in itertools.product(*(range(scan.length) for scan in scans))
            for rows in self.rows(statement)
        ]
        counts = [FAMILIES[s.family].count for s, _, _ in hidden]
        grid = np.indices(counts).reshape(len(counts), -1) if counts else np.zeros((0, 1), int)
        for (statement, times, rows), index in zip(hidden, grid):
            table = np.array(FAMILIES[statement.family].values)
            self.cells[statement.name, times, _key(rows)] = np.moveaxis(table[index], 0, -1)
        self.total = np.zeros(grid.shape[1])

    def rows(self, statement: Any) -> Iterator[dict[str, int]]:
        """Each row of the plates of a statement."""
        ranges = (range(self.sizes[plate]) for plate in statement.plates)
        return (dict(zip(statement.plates, row)) for row in itertools.product(*ranges))

    def log_joint(self) -> float:
        """The log of the sum over all joint values of the discrete sites."""
        self.visit(self.spec.statements, ())
        return float(np.logaddexp.reduce(self.total))

    def visit(self, statements: Any, times: tuple[int, ...]) -> None:
        """Add what statements add to the log density, in one step."""
        for each in statements:
            if isinstance(each, Scan):
                for t in range(each.length):
                    self.visit(each.statements, (*times, t))
            elif each.kind != "deterministic":
                for rows in self.rows(each):
                    self.total = self.total + self.term(each, times, rows)

    def term(self, statement: Statement, times: tuple[int, ...], rows: dict[str, int]) -> Any:
        """The log density of one row, in one step."""
        a, b = (
            number + sum(parent.slope * self.read(parent, statement, times, rows) for parent in parents)
            for number, parents in zip(statement.numbers, statement.parents)
        )
        a, b = np.asarray(a, float), np.asarray(b, float)
        if statement.kind == "factor":
            return 0.3 * a
        if statement.masked and not self.at(self.data[f"{statement.name} mask"], statement, times, rows):
            return 0.0
        if self.is_left_out(statement, times, rows):
            return 0.0
        return FAMILIES[statement.family].log_prob(a, b, self.value(statement, times, rows))

    def is_left_out(self, statement: Statement, times: Any, rows: Any) -> bool:
        """Whether a discrete value is missing, over which the sum is one."""
        if statement.told != "missing" or statement.family in CONTINUOUS:
            return False
        return not self.at(self.data[f"{statement.name} seen"], statement, times, rows)

    def at(self, whole: Any, statement: Statement, times: tuple[int, ...], rows: dict[str, int]) -> Any:
        """The entry of an array in vbppl's layout."""
        depth = max((-DIMS[plate] for plate in statement.plates), default=0)
        index = [0] * depth
        for plate in statement.plates:
            index[DIMS[plate]] = rows[plate]
        return np.asarray(whole)[(*times, *index)]

    def value(self, statement: Statement, times: tuple[int, ...], rows: dict[str, int]) -> Any:
        """The value of a site in one row and step; of a discrete one at all joint values."""
        found = self.cells.get((statement.name, times, _key(rows)))
        if found is not None:
            return found
        if statement.told == "latent":
            return self.at(self.values[statement.name], statement, times, rows)
        if statement.told == "missing" and not self.at(self.data[f"{statement.name} seen"], statement, times, rows):
            return self.values[f"{statement.name}_unobserved"][self.place(statement, times, rows)]
        return self.at(self.data[statement.name], statement, times, rows)

    def place(self, statement: Statement, times: Any, rows: Any) -> int:
        """Which of the numbers that are missing stands there: they are in the order of the rows."""
        scans = self.spec.by_name[statement.name][1]
        number, mine = 0, (times, _key(rows))
        ordered = sorted(statement.plates, key=lambda plate: DIMS[plate])
        for steps in itertools.product(*(range(scan.length) for scan in scans)):
            for row in itertools.product(*(range(self.sizes[plate]) for plate in ordered)):
                here = dict(zip(ordered, row))
                if (steps, _key(here)) == mine:
                    return number
                number += not self.at(self.data[f"{statement.name} seen"], statement, steps, here)
        raise AssertionError

    def read(self, parent: Parent, reader: Statement, times: tuple[int, ...], rows: dict[str, int]) -> Any:
        """What a parent is to a row: the mean over the rows and steps of it that the reader does not stand in."""
        statement, scans = self.spec.by_name[parent.name]
        family = FAMILIES[statement.family]
        own = times[: _shared(scans, self.spec.by_name[reader.name][1])]
        if parent.lag:
            own = (*own[:-1], own[-1] - 1)
            if own[-1] < 0:
                return 0.0
        more = itertools.product(*(range(scan.length) for scan in scans[len(own) :]))
        steps = [(*own, *extra) for extra in more]
        here = [row for row in self.rows(statement) if all(rows.get(p, i) == i for p, i in row.items())]
        found = [_as_number(self.value(statement, t, row), family.event) for t in steps for row in here]
        return sum(found) / len(found)


def _key(rows: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(rows.items()))


def _as_number(value: Any, event: tuple[int, ...]) -> Any:
    value = np.asarray(value, float)
    for _ in event:
        value = np.tensordot(WEIGHTS[: value.shape[0]], value, 1) if len(event) == 1 else value
    if len(event) == 2:
        value = WEIGHTS[: event[0]] @ value @ WEIGHTS[: event[1]]
    return np.tanh(value)


# ---- what Hypothesis draws ----


@st.composite
def specs(draw: Any, most: int = 5, scans: int = 2) -> Spec:
    """A model of two to `most` statements, whose scans have as many scans around them as `scans` allows."""
    return _Drawing(draw, scans).spec(most)


@dataclasses.dataclass
class _OpenScan:
    """A scan that is being drawn: the plates around it, its length, and the plates of what is hidden in it."""

    plates: tuple[str, ...]
    length: int
    hidden: tuple[str, ...] | None = None


class _Drawing:
    """What has been drawn of a model. Rules of the language (what may depend on what is summed out) are kept here."""

    def __init__(self, draw: Any, scans: int):
        self.draw, self.most_scans = draw, scans
        self.sizes = {"p": draw(st.integers(1, 3)), "q": draw(st.integers(2, 3))}
        order = draw(st.sampled_from([("p", "q"), ("q", "p")]))
        self.order = order
        # Discrete sites in plates that cross cannot meet: theirs are inside of one another.
        self.chain = [(), order[:1], order] if draw(st.integers(0, 3)) < 3 else []
        self.joint = 1
        self.made: dict[str, tuple[Statement, tuple[_OpenScan, ...]]] = {}

    def spec(self, most: int) -> Spec:
        statements = self.block(self.draw(st.integers(2, most)), (), ())
        return Spec(tuple(self.sizes.items()), tuple(statements), self.draw(st.integers(0, 2**20)))

    def block(self, n: int, around: tuple[str, ...], scans: tuple[_OpenScan, ...]) -> list[Any]:
        found: list[Any] = []
        for _ in range(n):
            is_scan = len(scans) < self.most_scans and self.draw(st.integers(0, 5 if scans else 3)) == 0
            found.append(self.scan(around, scans) if is_scan else self.statement(around, scans))
        return found

    def plates(self, around: tuple[str, ...]) -> tuple[str, ...]:
        return (*around, *(p for p in self.order if p not in around and self.draw(st.booleans())))

    def scan(self, around: tuple[str, ...], scans: tuple[_OpenScan, ...]) -> Scan:
        own = _OpenScan(self.plates(around), self.draw(st.integers(1, 3)))
        inside = self.block(self.draw(st.integers(1, 3)), own.plates, (*scans, own))
        carried = {
            parent.name: None
            for statement, _ in _each(tuple(inside), ())
            for parents in statement.parents
            for parent in parents
            if parent.lag and self.made[parent.name][1] == (*scans, own)
        }
        return Scan(own.plates, own.length, tuple(inside), tuple(carried), len(scans))

    def statement(self, around: tuple[str, ...], scans: tuple[_OpenScan, ...]) -> Statement:
        kind = self.draw(st.sampled_from(["sample"] * 6 + ["factor", "deterministic"]))
        name, plates = f"{kind[0]}{len(self.made)}", self.plates(around)
        found = Statement(kind, name, plates, len(scans))
        if kind == "sample":
            found = self.sample(found, scans)
        self.made[name] = found, scans
        parents = tuple(self.parents(found, scans) for _ in range(1 + (kind == "sample")))
        numbers = tuple(self.draw(st.sampled_from([0.0, -0.6, 0.4])) for _ in range(2))
        found = dataclasses.replace(found, parents=(*parents, ())[:2], numbers=numbers)
        self.made[name] = found, scans
        return found

    def sample(self, made: Statement, scans: tuple[_OpenScan, ...]) -> Statement:
        told = self.draw(st.sampled_from(["latent", "latent", "observed", "observed", "missing"]))
        told = "observed" if told == "missing" and scans else told
        is_hidden = told == "latent" and made.plates in self.chain and self.draw(st.booleans())
        families = SUMMED if is_hidden else CONTINUOUS if told == "latent" else CONTINUOUS + SUMMED + COUNTS
        families = [name for name in families if told == "latent" or FAMILIES[name].fixed_support]
        families = [name for name in families if told == "latent" or FAMILIES[name].observation]
        found = dataclasses.replace(made, family=self.draw(st.sampled_from(families)), told=told)
        found = dataclasses.replace(found, masked=told != "missing" and self.draw(st.integers(0, 5)) == 0)
        if not found.is_hidden:
            return found
        rows = math.prod(self.sizes[plate] for plate in found.plates) * math.prod(scan.length for scan in scans)
        joint = self.joint * FAMILIES[found.family].count ** rows
        elsewhere = any(scan.hidden not in (None, found.plates) for scan in scans)
        if joint > JOINT or elsewhere:
            return dataclasses.replace(found, family="Normal")
        self.joint = joint
        for scan in scans:
            scan.hidden = found.plates
        return found

    def parents(self, reader: Statement, scans: tuple[_OpenScan, ...]) -> tuple[Parent, ...]:
        found = []
        for _ in range(self.draw(st.integers(0, 2))):
            own = [Parent(name, 0.0) for name in self.made if self.may_read(reader, name, scans, False)]
            own += [Parent(name, 0.0, True) for name in self.made if self.may_read(reader, name, scans, True)]
            if own:
                parent = self.draw(st.sampled_from(own))
                found.append(dataclasses.replace(parent, slope=self.draw(st.sampled_from([1.0, -0.7, 0.4]))))
        return tuple(found)

    def may_read(self, reader: Statement, name: str, scans: tuple[_OpenScan, ...], lag: bool) -> bool:
        parent, around = self.made[name]
        is_open = len(around) <= len(scans) and all(a is b for a, b in zip(around, scans))
        if parent.kind != "sample" or (name == reader.name and not lag) or (lag and not (around and is_open)):
            return False
        if parent.told == "missing" and parent.family not in CONTINUOUS:
            return False  # what is left out has no value
        if not parent.is_hidden:
            return True
        # The support of a site has one value in the sum, and so has what is missing of it in all rows.
        if not FAMILIES[reader.family].fixed_support or (reader.told == "missing" and parent.plates):
            return False
        return is_open and set(parent.plates) <= set(reader.plates)
