"""The tasks of sbibm that have a likelihood: can a classifier tell draws of a fit from reference draws?

The tasks, observations and reference draws are those of Lueckmann, Boelts, Greenberg, Goncalves and Macke (2021,
"Benchmarking simulation-based inference"), read from the files of the package `sbibm`, which is never imported:
`pip install --no-deps sbibm`. C2ST is the accuracy of a cross-validated classifier as their benchmark defines it, with
1,000 draws of each kind: 0.5 where it learns nothing, 1 where it is always right. Beside it the best of the benchmark's
published table, of methods that have no likelihood but simulate: what a likelihood is worth, not a race.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.harness import Measurement, Row, finished, markdown, median, spread
from benchmarks.machine import Clock

PACKAGES = "sbibm", "sbibm_jax"  # either has the files
DRAWS = 1_000
OBSERVATIONS = 3  # of ten
QUICK = ("gaussian_mixture", "two_moons")

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: as the benchmark has it.
      model: of the columns of an observation.
      goal: the C2ST that is wanted.
      published: the best mean C2ST of ten observations in the benchmark's own table, of methods that have no likelihood
        and 10^5 simulations.
      raw: the observation before it is summarised.
    """

    name: str
    model: Callable[[np.ndarray], vb.Model]
    goal: float
    published: float
    raw: bool = False


@vb.model
def gaussian_linear(x):
    """A normal mean under a normal prior."""
    theta = vb.sample("theta", dist.Normal(jnp.zeros(len(x)), jnp.sqrt(0.1)).to_event(1))
    vb.sample("x", dist.Normal(theta, jnp.sqrt(0.1)).to_event(1), obs=x)


@vb.model
def gaussian_linear_uniform(x):
    """A normal mean within walls."""
    theta = vb.sample("theta", dist.Uniform(-jnp.ones(len(x)), jnp.ones(len(x))).to_event(1))
    vb.sample("x", dist.Normal(theta, jnp.sqrt(0.1)).to_event(1), obs=x)


@vb.model
def bernoulli_glm(spikes, design, precision):
    """Spikes of a neuron after a stimulus: an offset, and a filter that is smooth."""
    prior = dist.MultivariateNormal(jnp.zeros(design.shape[1]), precision_matrix=precision)
    theta = vb.sample("theta", prior)
    with vb.plate("time", len(spikes)):
        vb.sample("spikes", dist.Bernoulli(logits=design @ theta), obs=spikes)


@vb.model
def gaussian_mixture(x):
    """One point of a narrow or a wide normal about the same mean: two nested scales."""
    theta = vb.sample("theta", dist.Uniform(jnp.full(len(x), -10.0), jnp.full(len(x), 10.0)).to_event(1))
    each = dist.Normal(theta, jnp.array([[1.0], [0.1]])).to_event(1)
    vb.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.5])), each), obs=x)


@vb.model
def two_moons(x):
    """A crescent, seen through an absolute value: two of them, thin, with cut ends."""
    theta = vb.sample("theta", dist.Uniform(-jnp.ones(2), jnp.ones(2)).to_event(1))
    u = x[0] + jnp.abs(theta[0] + theta[1]) / jnp.sqrt(2.0) - 0.25
    v = x[1] - (theta[1] - theta[0]) / jnp.sqrt(2.0)
    inside = u > 0
    radius = jnp.sqrt(jnp.where(inside, u, 1.0) ** 2 + v**2)
    ring = dist.Normal(0.1, 0.01).log_prob(radius) - jnp.log(jnp.pi * radius)
    vb.factor("x", jnp.where(inside, ring, -jnp.inf))


@vb.model
def slcp(x):
    """Four points of a normal whose scales are squares: four modes, and walls."""
    theta = vb.sample("theta", dist.Uniform(jnp.full(5, -3.0), jnp.full(5, 3.0)).to_event(1))
    first, second, rho = theta[2] ** 2, theta[3] ** 2, jnp.tanh(theta[4])
    both = rho * first * second
    covariance = jnp.array([[first**2 + 1e-6, both], [both, second**2 + 1e-6]])
    with vb.plate("point", len(x)):
        vb.sample("x", dist.MultivariateNormal(theta[:2], covariance_matrix=covariance), obs=x)


def glm_of(spikes: np.ndarray) -> vb.Model:
    """The model with its stimulus (white noise of a known seed) and the prior's precision."""
    stimulus, lags = np.random.RandomState(42).randn(100).astype(np.float32), 9
    design = np.ones((100, 1 + lags), np.float32)
    for lag in range(lags):
        design[:, 1 + lag] = np.concatenate([np.zeros(lag), stimulus[: 100 - lag]])
    step = np.eye(lags) - np.eye(lags, k=-1)
    rough = step @ step + np.diag(np.sqrt(np.arange(lags) / lags))
    precision = np.zeros((1 + lags, 1 + lags))
    precision[0, 0], precision[1:, 1:] = 0.5, rough.T @ rough
    return bernoulli_glm(spikes, design, precision)


TASKS = (
    Task("gaussian_linear", gaussian_linear, 0.54, 0.506),
    Task("gaussian_linear_uniform", gaussian_linear_uniform, 0.54, 0.506),
    Task("bernoulli_glm", glm_of, 0.54, 0.522, raw=True),
    Task("gaussian_mixture", gaussian_mixture, 0.54, 0.533),
    Task("two_moons", two_moons, 0.54, 0.530),
    Task("slcp", lambda x: slcp(x.reshape(4, 2)), 0.58, 0.578),
)


def files(name: str) -> Path:
    """Where the package keeps a task's files; the package is found and not imported."""
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found and found.submodule_search_locations:
            return Path(found.submodule_search_locations[0], "tasks", name, "files")
    raise ModuleNotFoundError(
        "the observations and reference draws are in the package sbibm: pip install --no-deps sbibm (18 MB, no other "
        "package is needed to read them)"
    )


def measurements(full: bool) -> list[Measurement]:
    """Observation by observation."""
    return [
        Measurement("sbibm", "vbppl", "auto", {"task": task.name, "observation": 1 + number}, 600.0)
        for number in range(OBSERVATIONS if full else 1)
        for task in TASKS
        if full or task.name in QUICK
    ]


def measure(seed: int, task: str, observation: int) -> dict[str, Any]:
    """Fit by `vb.fit` as it is, and compare with the reference draws."""
    asked = next(one for one in TASKS if one.name == task)
    folder = files(task) / f"num_observation_{observation}"
    x = _columns(folder / ("observation_raw.csv" if asked.raw else "observation.csv"))[0]
    reference = _columns(folder / "reference_posterior_samples.csv.bz2")
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)  # the verdict says the same
        posterior = vb.fit(asked.model(x), seed=seed)
    costs, card = clock.read(), posterior.check()
    draws = np.asarray(posterior.sample(DRAWS, seed=seed + 1)["theta"], float)
    found = {"guide": type(posterior.guide).__name__, "says": card.verdict, "gradients": posterior.status.gradients}
    return {**found, **costs, "c2st": c2st(reference[:DRAWS], draws)}


def c2st(x: np.ndarray, y: np.ndarray, seed: int = 1) -> float:
    """How often a classifier tells draws `x` from draws `y`: five folds, two hidden layers of ten units a dimension."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, sd, units = x.mean(axis=0), x.std(axis=0, ddof=1), 10 * x.shape[1]
    rows = (np.concatenate([x, y]) - mean) / sd
    kind = np.repeat([0, 1], [len(x), len(y)])
    classifier = MLPClassifier((units, units), activation="relu", solver="adam", max_iter=10_000, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_score(classifier, rows, kind, cv=folds, scoring="accuracy")))


def table(rows: list[Row]) -> str:
    """A line for each task."""
    head = ("task", "verdict", "C2ST", "goal", "published", "gradients", "CPU-s", "guide")
    lines = []
    for task in TASKS:
        some = finished(rows, task=task.name)
        if some:
            missed = "" if np.mean([row["c2st"] for row in some]) <= task.goal else " **missed**"
            verdicts = [row["says"] for row in some]
            lines.append(
                (
                    task.name,
                    ", ".join(f"{verdict} {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts)),
                    spread(some, "c2st", ".3f") + missed,
                    f"{task.goal:g}",
                    f"{task.published:g}",
                    spread(some, "gradients", ",.0f"),
                    spread(some, "cpu"),
                    "; ".join(dict.fromkeys(row["guide"] for row in some)),
                )
            )
    failed = [f"{row['task']}, observation {row['observation']}: {row['failed']}" for row in rows if "failed" in row]
    done = finished(rows)
    closing = f"Median {median(done, 'cpu'):.1f} CPU-s a fit." if done else ""
    return "\n\n".join(filter(None, [markdown(head, lines, texts=2), closing, *failed]))


def _columns(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
