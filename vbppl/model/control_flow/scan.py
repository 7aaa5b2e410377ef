"""The word `scan`: a step with statements inside, run along a sequence.

The step is traced once, whatever the length, under a run of its own that asks the handler of the run around it: so
all that walks sites (priors, densities, conditions, posteriors) knows scans without being told. What leaves the
trace is, of each site, its value, its distribution and what the handler said of it; along a new leading axis they
make one site of the run around. The carry before each step is found first (`carries`), then everything else for all
steps side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core

from vbppl.core.errors import ModelError, of_kind, whole_number
from vbppl.core.types import Array, PyTree
from vbppl.data.source import Source
from vbppl.model.arguments import numbers_of
from vbppl.model.control_flow.chain import Chain, is_written_out
from vbppl.model.primitives import run_of


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    **foreign: Any,
) -> tuple[Any, Any]:
    """Run `step` along a sequence: a chain of states, a filter, a recursion, with `sample` statements inside.

    A site keeps its name, and its value gets the steps as its first axis. Compiling takes as long for ten thousand
    steps as for ten. Let the carry hold the states themselves: where these are known, all steps are computed side by
    side, and only what depends on its own past without end goes from one step to the next.

    Args:
      step: `(carry, x) -> (carry, y)`, in the words of the language: `sample`, `deterministic`, `factor`, `plate`,
        another `scan`; not `param`, which is stated outside.
      init: the first carry: a pytree of arrays, whose shapes stay.
      xs: a pytree of arrays; each step gets the entries of one place along their first axes. Observations come in
        here, and are given to `sample` as `obs=`; None stands for those that are not there.
      length: the number of steps, where `xs` does not tell.

    Returns:
      the last carry, and the `y` of all steps along a new first axis.

    Raises:
      ModelError: the carry changes its shape, the lengths disagree, or a statement cannot stand inside.
      TypeError: there is no argument of that name.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def local_level(n, y=None):
    ...     def step(level, y):
    ...         level = vb.sample("level", dist.Normal(level, 0.5))
    ...         vb.sample("y", dist.Normal(level, 1.0), obs=y)
    ...         return level, None
    ...
    ...     vb.scan(step, 0.0, y, length=n)
    >>> posterior = vb.fit(local_level(4, np.array([0.3, 0.9, 1.1, 1.7])), "full_rank")
    >>> print(posterior.mean()["level"].round(2))  # as the Kalman smoother says
    [0.31 0.61 0.85 1.02]
    >>> posterior.predict(local_level(6))["level"].shape  # run on by two steps
    (1000, 6)
    """
    run = run_of("scan(...)")
    for name in set(foreign) - {"history"}:  # NumPyro's: how far back it looks for discrete sites, which ours finds
        mend = FOREIGN.get(name, "Write scan(step, init, xs, length=n).")
        raise TypeError(f"scan has no argument {name}=.\n  To mend it: {mend}")
    of_kind("step", step, callable(step), "a function (carry, x) -> (carry, y)")
    leaves, structure = jax.tree.flatten(xs)
    leaves = [_entries(leaf) for leaf in leaves]
    length = _length([leaf.shape[0] for leaf in leaves], length)
    carry = jax.tree.map(lambda leaf: numbers_of("", "init", leaf), init)
    chain = Chain(run, step, structure, length)
    if is_written_out():
        return chain.write_out(carry, leaves)
    return chain.trace(carry, leaves)


# What others' scans take, and what says it here.
FOREIGN: Mapping[str, str] = {
    "reverse": "Turn xs round, x[::-1], and what comes back.",
    "unroll": "Leave it out: steps are computed side by side where that can be.",
}


def _entries(leaf: Any) -> Array:
    if isinstance(leaf, Source):
        mend = "Take the rows outside of the scan, with vb.subsample, and give it arrays."
        raise ModelError(f"xs of a scan holds '{leaf.name}', which is read in parts.", mend=mend)
    leaf = numbers_of("", "xs", leaf)
    if not leaf.ndim:
        mend = "Give xs arrays with the steps along their first axes; what is the same at each step needs no xs."
        raise ModelError("xs of a scan holds a single number, which has no steps.", mend=mend)
    return leaf


def _length(found: list[int], length: Any) -> int:
    length = length if length is None else whole_number("length", length)
    sizes = dict.fromkeys(found if length is None else (length, *found))
    if len(sizes) == 1 and next(iter(sizes)) > 0:
        return next(iter(sizes))
    if not sizes:
        raise ModelError("scan is not told how many steps there are.", mend="Give it xs, or length=n.")
    said = f"xs: {', '.join(map(str, found))}" + (f"\nlength: {length}" if length is not None else "")
    mend = "Give each array of xs the steps along its first axis, at least one, and leave length out."
    raise ModelError("scan is told different numbers of steps.", details=said, mend=mend)
