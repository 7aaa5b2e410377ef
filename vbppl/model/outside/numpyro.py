"""NumPyro's effect handlers around statements of ours, and its words that there are not here.

Of the handlers `mask` and `scale` are heard, which belong to a statement's distribution; others that mean something
would do nothing, and are refused with what to write in their place.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vbppl.core.errors import ModelError

# What these ask for is done anyway, or is no part of a density: coordinates, summing out, keys, records.
IDLE = {"reparam", "infer_config", "seed", "trace", "block"}
HEARD: Mapping[str, str] = {"mask": "mask", "scale": "weighted"}  # which method of a distribution is the same
MEND = "See docs/porting.md for what it is in vbppl's words."
HANDLERS: Mapping[str, str] = {
    "mask": "Write it into the weight: vb.factor(name, jnp.where(m, log_weight, 0.0)).",
    "scale": "Write it into the weight: vb.factor(name, w * log_weight).",
    "condition": "Leave it out, and condition the model: my_model(x).condition(y=y).",
    "substitute": "Leave it out, and condition the model: my_model(x).condition(mu=0.3).",
    "do": "Leave it out, and write my_model(x).do(mu=0.3).",
    "scope": 'Run the part as a model: vb.sample("part", other_model(x)), with other_model under @vb.model.',
    "plate": "Write vb.plate.",
}
WORDS: Mapping[str, str] = {
    "module": "vb.param(name, module) takes a module as it is",
    "plate_stack": "two plates are one in the other",
    "infer": "vb.fit(my_model(x)) is what SVI is, and vb.refine(posterior) what MCMC is",
    "optim": "vb.Stochastic(optimizer=...) takes any optimizer of Optax",
    "mask": "write it at the distribution, dist.Normal(mu, 1.0).mask(m)",
}


def handlers_around() -> int:
    """How many effect handlers of NumPyro that mean something stand around."""
    return len(_handlers())


def heard(name: str, dist: Any, around: int, around_step: int) -> Any:
    """`dist`, masked and weighted as NumPyro's `mask` and `scale` say that were opened within the run.

    Args:
      name: of the site.
      dist: a distribution.
      around: how many handlers stood around the run.
      around_step: the same of the step of a scan, or of the run: what lies between is of all steps at once.
    """
    for number, handler in enumerate(_handlers()[around:], around):
        if (kind := type(handler).__name__) in HEARD:
            value = getattr(handler, kind)
            if number < around_step and np.ndim(value):
                mend = f"Give each step its own, among the xs, and write {kind} in the step."
                raise ModelError(f"NumPyro's {kind} of many numbers stands around a scan.", site=name, mend=mend)
            dist = getattr(dist, HEARD[kind])(value)
    return dist


def check_handlers(kind: str, site: str, around: int) -> None:
    """Refuse a statement inside a handler of NumPyro's that was opened within the run: it would do nothing, unsaid."""
    names = [type(handler).__name__ for handler in _handlers()[around:]]
    if deaf := [name for name in names if name not in HEARD or kind == "factor"]:
        what = f"NumPyro's {deaf[-1]} stands around the {kind} statement, and does nothing to it."
        raise ModelError(what, site=site, mend=HANDLERS.get(deaf[-1], MEND))


def refuse_handlers(what: str, wrapped: Any = None) -> None:
    """Refuse a call that no handler reaches: any around it, or with `wrapped` one that was made of that function.

    Where NumPyro runs a model of its own, which it traces, what is around is for that one.
    """
    around = _stack()
    kinds = [type(handler).__name__ for handler in around]
    if "trace" in kinds if wrapped is None else not (around and around[-1].fn is wrapped):
        return
    if deaf := [kind for kind in kinds if kind not in IDLE]:
        mend = "Open it within the model, around the statements." if deaf[-1] in HEARD else HANDLERS.get(deaf[-1], MEND)
        raise ModelError(f"NumPyro's {deaf[-1]} stands around {what}, and does nothing to it.", mend=mend)


def _stack() -> Sequence[Any]:
    return getattr(sys.modules.get("numpyro.primitives"), "_PYRO_STACK", ())


def _handlers() -> list[Any]:
    return [handler for handler in _stack() if type(handler).__name__ not in IDLE]


def of_numpyro(name: str) -> Any:
    """NumPyro's own `handlers`, where it is installed; else an error that says what there is."""
    if name == "handlers" and importlib.util.find_spec("numpyro") is not None:
        return importlib.import_module("numpyro.handlers")
    said = f": {WORDS[name]}. See docs/porting.md" if name in WORDS else ""
    raise AttributeError(f"module 'vbppl' has no attribute {name!r}{said}")
