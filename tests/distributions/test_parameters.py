"""What a distribution may be given, whole numbers too; and what it refuses by name, where it is written."""

from __future__ import annotations

import inspect
import traceback

import jax
import numpy as np
import pytest
from exact import EXACT

import vbppl.distributions as dist
from vbppl.core.errors import ModelError


def whole(case):
    """The first parameters at which a family is asked elsewhere that are whole numbers; None where there are none."""
    names = list(inspect.signature(case.make).parameters)
    numbers = [row for row in case.parameters() if len(row) == len(names) and all(map(np.isscalar, row))]
    given = next((row for row in numbers if all(value == int(value) for value in row)), None)
    return given and dict(zip(names, map(int, given)))


# Every family with whole numbers for its parameters, and a value: where its case has some, and these.
WHOLE = {
    name: (case.make, given, 1) for name, case in EXACT.items() if inspect.isclass(case.make) and (given := whole(case))
}
WHOLE |= {
    "Bernoulli": (dist.Bernoulli, {"probs": 1}, 1),
    "Bernoulli logits": (dist.Bernoulli, {"logits": 1}, 1),
    "Binomial": (dist.Binomial, {"total_count": 5, "probs": 1}, 5),
    "Binomial logits": (dist.Binomial, {"total_count": 5, "logits": 1}, 1),
    "Categorical": (dist.Categorical, {"probs": np.array([1, 0])}, 0),
    "Categorical logits": (dist.Categorical, {"logits": np.array([1, 0])}, 0),
    "Delta": (dist.Delta, {"v": 1, "log_density": 0}, 1),
    "Dirichlet": (dist.Dirichlet, {"concentration": np.array([1, 2])}, np.array([0.5, 0.5])),
    "Geometric": (dist.Geometric, {"probs": 1}, 0),
    "Geometric logits": (dist.Geometric, {"logits": 1}, 0),
    "LKJ": (dist.LKJ, {"dimension": 2, "concentration": 1}, np.eye(2)),
    "LKJCholesky": (dist.LKJCholesky, {"dimension": 2, "concentration": 1}, np.eye(2)),
    "MaskedDistribution": (dist.MaskedDistribution, {"base_dist": dist.Normal(0, 1), "counted": True}, 1),
    "Multinomial": (dist.Multinomial, {"total_count": 3, "probs": np.array([1, 0])}, np.array([3, 0])),
    "MultivariateNormal": (dist.MultivariateNormal, {"loc": 0, "covariance_matrix": np.eye(2, dtype=int)}, np.ones(2)),
    "CAR": (
        dist.CAR,
        {"loc": 0, "correlation": 0, "conditional_precision": 1, "adj_matrix": 1 - np.eye(3, dtype=int)},
        np.arange(3),
    ),
    "DirichletMultinomial": (
        dist.DirichletMultinomial,
        {"concentration": np.array([1, 2]), "total_count": 3},
        np.array([1, 2]),
    ),
    "GaussianRandomWalk": (dist.GaussianRandomWalk, {"scale": 1, "num_steps": 3}, np.arange(3)),
    "InverseWishart": (dist.InverseWishart, {"concentration": 4, "scale_matrix": np.eye(2, dtype=int)}, np.eye(2)),
    "LowRankMultivariateNormal": (
        dist.LowRankMultivariateNormal,
        {"loc": 0, "cov_factor": np.ones((3, 1), int), "cov_diag": np.ones(3, int)},
        np.arange(3),
    ),
    "MatrixNormal": (
        dist.MatrixNormal,
        {
            "loc": np.zeros((2, 3), int),
            "scale_tril_row": np.eye(2, dtype=int),
            "scale_tril_column": np.eye(3, dtype=int),
        },
        np.ones((2, 3)),
    ),
    "MultivariateStudentT": (
        dist.MultivariateStudentT,
        {"df": 3, "loc": 0, "scale_tril": np.eye(2, dtype=int)},
        np.ones(2),
    ),
    "OrderedLogistic": (dist.OrderedLogistic, {"predictor": 0, "cutpoints": np.array([0, 1])}, 2),
    "OrderedProbit": (dist.OrderedProbit, {"predictor": 0, "cutpoints": np.array([0, 1])}, 2),
    "Wishart": (dist.Wishart, {"concentration": 4, "scale_matrix": np.eye(2, dtype=int)}, np.eye(2)),
    "ZeroInflatedDistribution": (
        dist.ZeroInflatedDistribution,
        {"base_dist": dist.Poisson(2), "gate": 1},
        0,
    ),
    "ZeroSumNormal": (dist.ZeroSumNormal, {"scale": 1, "event_shape": (2,)}, np.zeros(2)),
    "RightCensoredDistribution": (
        dist.RightCensoredDistribution,
        {"base_dist": dist.Normal(0, 1), "censored": True},
        1,
    ),
    "LeftCensoredDistribution": (dist.LeftCensoredDistribution, {"base_dist": dist.Normal(0, 1), "censored": True}, 1),
    "IntervalCensoredDistribution": (
        dist.IntervalCensoredDistribution,
        {"base_dist": dist.Normal(0, 1), "left_censored": False, "right_censored": True},
        np.array([0, 1]),
    ),
    "TruncatedDistribution": (dist.TruncatedDistribution, {"base_dist": dist.Normal(0, 1), "low": 0, "high": 2}, 1),
    "LeftTruncatedDistribution": (dist.LeftTruncatedDistribution, {"base_dist": dist.Normal(0, 1), "low": 0}, 1),
    "RightTruncatedDistribution": (dist.RightTruncatedDistribution, {"base_dist": dist.Normal(0, 1), "high": 2}, 1),
    "TwoSidedTruncatedDistribution": (
        dist.TwoSidedTruncatedDistribution,
        {"base_dist": dist.Normal(0, 1), "low": 0, "high": 2},
        1,
    ),
}
# Parameters that are no numbers.
PARTS = {
    "ExpandedDistribution": (dist.ExpandedDistribution, {"base_dist": dist.Normal(), "batch_shape": (2,)}),
    "ImproperUniform": (
        dist.ImproperUniform,
        {"support": dist.constraints.real, "batch_shape": (), "event_shape": ()},
    ),
    "Independent": (dist.Independent, {"base_dist": dist.Normal(), "reinterpreted_batch_ndims": 0}),
    "MixtureSameFamily": (
        dist.MixtureSameFamily,
        {"mixing_distribution": dist.Categorical([0.5, 0.5]), "component_distribution": dist.Normal([0.0, 1.0], 1.0)},
    ),
    "MixtureGeneral": (
        dist.MixtureGeneral,
        {
            "mixing_distribution": dist.Categorical([0.5, 0.5]),
            "component_distributions": [dist.Normal(), dist.Laplace()],
        },
    ),
    "TransformedDistribution": (
        dist.TransformedDistribution,
        {"base_distribution": dist.Normal(), "transforms": dist.transforms.ExpTransform()},
    ),
}
OPTIONAL = {"low", "high"}  # None is no bound
WRONG = {"a string": "a", "an object": object(), "a list": ["a", object()], "a function": abs, "None": None}
CASES = {name: case[:2] for name, case in WHOLE.items()} | PARTS


def test_every_family_is_here():
    classes = {name for name in dist.__all__ if isinstance(getattr(dist, name), type)} - {"Distribution"}
    assert {name.partition(" ")[0] for name in CASES} == classes


@pytest.mark.parametrize("name", WHOLE)
def test_parameters_may_be_whole_numbers(name):
    make, given, value = WHOLE[name]
    d = make(**given)
    log_prob = jax.eval_shape(lambda d: d.log_prob(value), d)
    assert log_prob.shape == () and log_prob.dtype == np.float32
    draws = jax.eval_shape(lambda d: d.sample(jax.random.key(0), (2,)), d)
    assert draws.dtype == (np.int32 if d.is_discrete or name == "Delta" else np.float32)
    try:
        moments = jax.eval_shape(lambda d: (d.mean, d.variance), d)
    except NotImplementedError as error:
        assert "no closed form" in str(error)
    else:
        assert all(moment.shape == d.shape() for moment in moments)


@pytest.mark.parametrize("name", CASES)
def test_other_kinds_are_refused_by_name_where_they_are_written(name):
    make, given = CASES[name]
    for argument in given:
        for kind, value in WRONG.items():
            if value is None and argument in OPTIONAL | {"probs", "logits", "covariance_matrix"}:
                continue
            with pytest.raises((ModelError, TypeError)) as caught:
                make(**{**given, argument: value})
            words = argument.removesuffix("_matrix").removesuffix("_distribution")
            renamed = {"mean": "location", "mixing": "weights"}.get(words, words)
            assert (
                renamed in str(caught.value) and make.__name__ in str(caught.value) or "mixture" in str(caught.value)
            ), (
                argument,
                kind,
                str(caught.value),
            )
            assert len(traceback.extract_tb(caught.tb)) <= 6, (argument, kind)
