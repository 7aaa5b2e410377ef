"""What the models of NumPyro's examples are applied to: a few rows of the right shapes, since many fetch their data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = tuple[tuple[Any, ...], dict[str, Any]]
rng = np.random.default_rng(0)


def counts(*shape: int) -> np.ndarray:
    """Zero, one and a few."""
    return rng.poisson(1.0, shape)


def bits(*shape: int) -> np.ndarray:
    """Zeros and ones."""
    return rng.integers(0, 2, shape)


def normal(*shape: int) -> np.ndarray:
    """Standard normal numbers."""
    return rng.normal(size=shape)


def call(*args: Any, **kwargs: Any) -> Callable[[Mapping[str, Any]], Call]:
    """These arguments, whatever the example defines."""
    return lambda of: (args, kwargs)


def annotated(*which: str) -> Callable[[Mapping[str, Any]], Call]:
    """The annotations that the example has in itself."""
    return lambda of: (tuple(dict(zip(("positions", "annotations"), of["get_data"]()))[name] for name in which), {})


def birthdays() -> dict[str, Any]:
    """Twelve days of a year."""
    days = {f"{name}_days_indicator": bits(12) for name in ("memorial", "labour", "thanksgiving")}
    sizes: dict[str, Any] = {"w0": 1.3, "L": 2.5, "M1": 4, "M2": 3, "M3": 2, "y": normal(12)}
    return {"x": normal(12), "day_of_week": np.arange(12) % 7, "day_of_year": np.arange(12) * 30, **days, **sizes}


def deaths() -> tuple[np.ndarray, ...]:
    """Two ages, three places in two regions, four years."""
    age, space, time = (np.ravel(part) for part in np.meshgrid(np.arange(2), np.arange(3), np.arange(4)))
    population = rng.integers(50, 90, age.shape)
    return age, space, time, np.array([0, 0, 1]), population, rng.binomial(population, 0.2)


HISTORIES, SEX = bits(12, 6), bits(12)
AT_BATS = np.array([45, 40, 30, 33, 50])
HITS = rng.binomial(AT_BATS, 0.3)
CHORALE = (bits(3, 6, 4).astype(np.int32), np.array([6, 3, 5], np.int32), argparse.Namespace(hidden_dim=4))
DOCUMENTS = {"vocab_size": 12, "num_topics": 3, "hidden": 4, "dropout_rate": 0.2, "batch_size": 6}
HYPERS = {"expected_sparsity": 1.0, "alpha1": 3.0, "beta1": 1.0, "alpha2": 3.0, "beta2": 1.0, "alpha3": 2.0, "c": 1.0}
DMM = {"subsample_size": 4, "latent_dim": 3, "emission_dim": 4, "transition_dim": 5, "data_dim": 6, "gru_dim": 4}
NOTES = bits(4, 5, 6)
SERIES = normal(24).cumsum()
TOY = (None, {"A": bits(15), "C": bits(15)}, 15)

# file: {model: its arguments, made of what the example defines}; the first model of a file is the one that counts.
CALLS: dict[str, dict[str, Callable[[Mapping[str, Any]], Call]]] = {
    "annotation": {
        "multinomial": annotated("annotations"),
        "dawid_skene": annotated("positions", "annotations"),
        "mace": annotated("positions", "annotations"),
        "hierarchical_dawid_skene": annotated("positions", "annotations"),
        "item_difficulty": annotated("annotations"),
        "logistic_random_effects": annotated("positions", "annotations"),
    },
    "ar2": {"ar2_for_loop": call(SERIES), "ar2_scan": call(SERIES)},
    "baseball": dict.fromkeys(
        ("fully_pooled", "not_pooled", "partially_pooled", "partially_pooled_with_logit"), call(AT_BATS, HITS)
    ),
    "bnn": {"model": call(normal(9, 3), normal(9, 1), 4)},
    "capture_recapture": {f"model_{k}": call(HISTORIES, SEX) for k in range(1, 6)},
    "covtype": {"model": call(normal(20, 3), bits(20))},
    "cvae-flax/models": {"cvae_model": call(normal(2, 14, 14), bits(2, 28, 28))},
    "dais_demo": {"model": lambda of: (of["get_data"](), {})},
    "funnel": {"model": call()},
    "gaussian_shells": {"model": call(np.array([-3.5, 0.0]), np.array([3.5, 0.0]), radius=2.0, width=0.1, enum=True)},
    "gp": {"model": call(np.linspace(-1, 1, 8), normal(8))},
    "hmcecs": {"model": call(normal(20, 3), bits(20), None)},
    "hmm": {
        "semi_supervised_hmm": call(
            np.ones(3), np.full(10, 0.1), rng.integers(0, 3, 8), rng.integers(0, 10, 8), rng.integers(0, 10, 9)
        )
    },
    "hmm_enum": dict.fromkeys(("model_1", "model_2", "model_3", "model_4", "model_6"), call(*CHORALE)),
    "holt_winters": {"holt_winters": call(SERIES, 4)},
    "horseshoe_regression": {
        "model_normal_likelihood": call(normal(9, 4), normal(9)),
        "model_bernoulli_likelihood": call(normal(9, 4), bits(9)),
    },
    "hsgp": {"birthdays_model": call(**birthdays())},
    "minipyro": {"model": call(normal(9))},
    "mortality": {"model": call(*deaths())},
    "neutra": {"dual_moon_model": call()},
    "ode": {"model": call(5, np.exp(normal(5, 2) + 2.0))},
    "prodlda": {"model": call(counts(6, 12), DOCUMENTS)},
    "proportion_test": {"model": call(normal(9, 3), bits(9))},
    "sparse_regression": {"model": call(normal(9, 4), normal(9), HYPERS)},
    "ssbvm_mixture": {"ss_model": call(rng.uniform(-3, 3, (15, 2)), 15)},
    "stein_bnn": {"model": call(normal(9, 3), normal(9), hidden_dim=4, sub_size=9)},
    "stein_dmm": {"model": call(NOTES, NOTES, np.array([5, 3, 4, 2]), **DMM)},
    "stochastic_volatility": {"model": call(normal(15))},
    "thompson_sampling": {"model": call(np.linspace(-1, 1, 8), normal(8))},
    "toy_mixture_model_discrete_enumeration": {"model": call(*TOY)},
    "ucbadmit": {"glmm": call(np.arange(12) // 2, np.arange(12) % 2, np.full(12, 40), rng.binomial(40, 0.4, 12))},
    "vae": {"model": call(bits(3, 4, 4), hidden_dim=5, z_dim=2)},
    "var2": {"var2_scan": call(normal(9, 2))},
    "zero_inflated_poisson": {"model": call(normal(15, 3), counts(15))},
}
