"""Each argument of each public function, given wrong kinds: refused by name, not in the depth and not in silence.

The parameters of distributions are asked in `tests/distributions/test_parameters.py`.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import wrong_kinds

import vbppl as vb
from vbppl.fitting.calibration import Calibration
from vbppl.posterior.report import Report

# What is no wrong kind for an argument, of all functions or of one: `None` where it is a default, numbers where values
# are meant.
NUMBERS = {"-1", "2.5", "nan"}
MEANT = {
    "name": {"a string"},
    "obs": {"None", *NUMBERS},
    "init": set(wrong_kinds.WRONG) - {"None"},  # any pytree
    "value": {"None", *NUMBERS, "an array"},
    "log_weight": {*NUMBERS, "an array"},
    "dim": {"None", "-1"},
    "seconds": {"None", "2.5"},
    "q": {"an array"},
    "checkpoint": {"None", "a string"},
    "Source data": {"an array"},
    "shard data": {"an array", "a list"},
    "subsample array": NUMBERS,  # each row's
    "mutable init": {"a list"},
    "sample obs_mask": {"None"},
    "scan init": {"None", "an array", *NUMBERS},
    "scan xs": {"None"},
    "scan length": {"None"},
    "Amortized params": {"-1", "2.5", "an array"},
    "Elbo warm_up": {"2.5"},
    "Elbo free_bits": {"2.5"},
    "Target.log_density rows": {"None"},
    "Model.shapes at": {"None"},
    "write_report path": {"a string"},
    "Mixture components": {"None"},
    "refine target_accept": {"None"},
    **dict.fromkeys(("save path", "load path"), {"a string"}),
    "load guide": {"None"},
    "to_arviz n": {"None"},
    **dict.fromkeys(
        ("batch_size", "callback", "constraint", "dims", "draws", "fitted", "kind", "method", "model"), {"None"}
    ),
    **dict.fromkeys(("objective", "optimizer", "params", "plate", "precision", "progress", "rank", "start"), {"None"}),
    **dict.fromkeys(("ax", "axes", "reference", "statistic", "rows", "groups", "plot.predictive site"), {"None"}),
    **dict.fromkeys(("steps", "subsample_size", "support", "validation", "values"), {"None"}),
    **dict.fromkeys(("Validation guide", "Posterior.log_evidence guide", "Posterior.amortisation_gap guide"), {"None"}),
}
CALLS = {"language": wrong_kinds.language, "guides": wrong_kinds.guides, "answers": wrong_kinds.answers}
CALLS["pictures"] = wrong_kinds.pictures

# What is public, but not asked here, and why.
LEFT_OUT = {
    "a user raises none": "ModelError VbpplWarning",
    "made by the functions that are asked": "Model Target Posterior Progress Status",
    "between the wings": "Model.in_training Model.loaded Model.of Model.trace Model.with_arrays Report.beside "
    "Report.unfinished Report.without Source.following Source.named Source.over Source.read Source.same_data "
    "Source.share Source.unread Target.complete Target.of Target.replace Target.run Target.showing Target.with_lengths",
}
METHODS = (vb.Model, vb.Target, vb.Source, vb.Posterior, Calibration, Report)


@pytest.mark.parametrize("group", [*list(CALLS)[:-1], pytest.param("pictures", marks=pytest.mark.slow)])
def test_wrong_kinds_are_refused_by_name(group):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        raw, accepted = [], []
        for function, argument, kind, error in wrong_kinds.tried(CALLS[group]()):
            meant = MEANT.get(f"{function} {argument}", MEANT.get(argument, ()))
            if error is None and kind not in meant:
                accepted.append((function, argument, kind))
            if error is not None and not wrong_kinds.is_told(error, function, argument):
                raw.append((function, argument, kind, error))
    assert not accepted
    assert not raw


def is_own(thing: Any) -> bool:
    return inspect.isfunction(thing) and thing.__module__ == vb.plot.__name__


def public() -> dict[str, Any]:
    """All that a user may call, by name."""
    names = {name: getattr(vb, name) for name in vb.__all__ if callable(getattr(vb, name))}
    names |= {name: getattr(module, name) for module in (vb.guides, vb.inference) for name in module.__all__}
    names |= {f"plot.{name}": thing for name, thing in vars(vb.plot).items() if is_own(thing)}
    for owner in METHODS:
        members = inspect.getmembers(owner, callable)
        names |= {f"{owner.__name__}.{name}": member for name, member in members if name[0] != "_"}
    return names


def test_whatever_is_public_is_asked_or_left_out_for_a_reason():
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    asked = {(name, argument) for group in CALLS.values() for name, (_, good) in group().items() for argument in good}
    wanted = {
        (name, parameter.name)
        for name, thing in public().items()
        if name not in left_out
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.name != "self" and parameter.kind != parameter.VAR_KEYWORD
    }
    assert not wanted - asked
    assert not asked - wanted
    assert left_out <= set(public())
