"""Each argument of each public function, given wrong kinds: refused by name, not in the depth and not in silence.

The parameters of distributions are asked in `tests/distributions/test_parameters.py`.
"""

from __future__ import annotations

import warnings

import pytest
import wrong_kinds

import vbppl as vb

# What is no wrong kind for an argument: `None` where it is a default, numbers where values are meant.
NUMBERS = {"-1", "2.5", "nan"}
MEANT = {
    "name": {"a string"},
    "obs": {"None", *NUMBERS},
    "init": set(wrong_kinds.WRONG) - {"None"},  # any pytree
    "value": {"None", *NUMBERS, "an array"},
    "log_weight": {*NUMBERS, "an array"},
    "dim": {"None", "-1"},
    "validation": {"None"},
    "seconds": {"None", "2.5"},
    "q": {"an array"},
    "checkpoint": {"None", "a string"},
    **{
        key: {"None"} for key in ("constraint", "subsample_size", "support", "draws", "model", "params", "rank", "kind")
    },
    **{key: {"None"} for key in ("precision", "optimizer", "objective", "batch_size", "start", "progress", "callback")},
    **{key: {"None"} for key in ("method", "steps", "values")},
}
CALLS = {"language": wrong_kinds.language, "guides": wrong_kinds.guides, "answers": wrong_kinds.answers}

# Still open: an array in the place of a word, whose truth NumPy calls ambiguous; and what is accepted or told badly.
OPEN = {
    "sample sample_shape", "plate size", "plate subsample_size", "plate dim", "subsample array", "subsample event_dim",
    "Model.sample params", "MAP space", "Deterministic kind", "Deterministic precision",
    "Stochastic sticking_the_landing", "Stochastic average", "fit guide", "fit method", "fit progress",
    "fit_many guide", "fit_many method", "fit_many seeds", "calibrate guide",
    "Posterior.covariance name", "Posterior.linear_response name", "Posterior.summary name",
}  # fmt: skip


@pytest.mark.parametrize("group", CALLS)
def test_wrong_kinds_are_refused_by_name(group):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        raw, accepted = [], []
        for function, argument, kind, error in wrong_kinds.tried(CALLS[group]()):
            if f"{function} {argument}" in OPEN:
                continue
            if error is None and kind not in MEANT.get(argument, ()):
                accepted.append((function, argument, kind))
            if error is not None and not wrong_kinds.is_told(error, function, argument):
                raw.append((function, argument, kind, error))
    assert not accepted
    assert not raw


def test_each_open_case_is_a_call_of_these():
    calls = {
        f"{function} {argument}"
        for group in CALLS.values()
        for function, (_, good) in group().items()
        for argument in good
    }
    assert OPEN <= calls
