"""Minibatches: which plates are shown in part, whence their rows come, and whether the batches add up.

A minibatch density is right if its mean over batches is the density of all rows. Then also the density
of two batches taken as one equals the mean of their two densities, site by site, and to rounding: that
is what `check_batches` looks at, before the first step. A site fails if it stands outside the plate but is
made of the rows that the plate shows, if a factor is not in the plate, if rows are weighed by hand as
well, or if a row's density depends on what other rows are shown with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, VbpplWarning, whole_number
from vbppl.core.keys import host_generator
from vbppl.core.types import Array, PyTree
from vbppl.data import rows as rows_of
from vbppl.data.prefetch import Prefetcher
from vbppl.data.shuffle import Minibatches
from vbppl.data.source import Source
from vbppl.target.target import Target, loaded

FEW = 1024  # rows
AnyGuide = TypeVar("AnyGuide")


def minibatches_of(target: Target, batch_size: int | Mapping[str, int] | None) -> Minibatches:
    """The plates shown in part: by `batch_size`, or by the model's own `subsample_size`."""
    plates = {plate.name: plate for plate in target.layout.plates}
    if batch_size is not None and not isinstance(batch_size, Mapping):
        batch_size = whole_number("batch_size", batch_size)
        if len(plates) != 1:
            raise ModelError(
                f"batch_size={batch_size} needs a model with one plate; this one has {', '.join(plates) or 'none'}.",
                mend="Name the plate: batch_size={'rows': 256}.",
            )
        batch_size = dict.fromkeys(plates, batch_size)
    sizes = {name: plate.subsample_size for name, plate in plates.items()} | dict(batch_size or {})
    for name, size in sizes.items():
        size = None if size is None else whole_number(f"batch_size of plate '{name}'", size)
        if name not in plates:
            raise ModelError(f"batch_size names '{name}', but the model's plates are {', '.join(plates) or 'none'}.")
        if size is not None and not 0 < size <= plates[name].size:
            raise ModelError(f"plate '{name}' has {plates[name].size} rows; it cannot show {size}.")
    shown = ((n, plates[n].size, s) for n, s in sizes.items() if s is not None and s < plates[n].size)
    return Minibatches(tuple(shown))


def resolve_sources(target: Target, guide: AnyGuide, stream: Minibatches) -> tuple[Target, AnyGuide]:
    """The target that shows the stream's rows, and its guide; sources of plates that show all rows are read whole.

    Both call a source by the name that the model has for it.
    """
    if not target.sources:
        return target.with_lengths(_lengths(stream)), guide
    shown = {name for name, _, _ in stream.plates}
    parted = {name for plate in target.layout.plates if plate.name in shown for name in plate.sources}
    whole = set(target.sources) - parted
    target = loaded(target, whole) if whole else target

    def same(leaf: Any) -> Any:
        if not isinstance(leaf, Source):
            return leaf
        known = [source for source in target.sources.values() if source.same_data(leaf)]
        return known[0] if known else leaf.load()

    return target.with_lengths(_lengths(stream)), jax.tree.map(
        same, guide, is_leaf=lambda leaf: isinstance(leaf, Source)
    )


def _lengths(stream: Minibatches) -> dict[str, int]:
    return {name: length for name, _, length in stream.plates}


def prefetcher_of(target: Target, stream: Minibatches, raw_key: np.ndarray) -> Prefetcher | None:
    """What reads the rows of the sources; None where all data are in memory."""
    sources = {
        plate.name: [target.sources[name] for name in plate.sources] for plate in target.layout.plates if plate.sources
    }
    return Prefetcher(stream, sources, raw_key) if sources else None


def few_rows(target: Target, stream: Minibatches, raw_key: np.ndarray) -> Target:
    """The density of rows that stand for all when a fit looks for its start: about `FEW` of each plate shown in part.

    It costs what it costs whatever the number of rows.
    """
    plates = tuple((name, size, min(size, max(length, FEW))) for name, size, length in stream.plates)
    rows = first_rows(target, Minibatches(plates), raw_key, 1)
    return target.showing(jax.tree.map(lambda leaf: leaf[0], rows)) if rows else target


def at_rest(target: Target, stream: Minibatches, z: np.ndarray) -> np.ndarray:
    """A start, `(dim,)`, with the local values of plates shown in part at the origin: few of them were seen."""
    shown, z = {name for name, _, _ in stream.plates}, z.copy()
    for slot in target.layout.slots:
        if shown & set(slot.plates):
            z[slot.start : slot.stop] = 0.0
    return z


def check_batches(target: Target, stream: Minibatches, z: np.ndarray, raw_key: np.ndarray) -> None:
    """Say so, naming the site, unless batches add up near `z`, `(dim,)`; see the head of this file.

    Warns where the density of a site at two batches is not the mean of those at each, as with a network that
    normalises over the rows shown.

    Raises:
      ModelError: it is their sum: the site is not weighed at all.
    """
    if not stream.plates:
        return
    rows = first_rows(target, stream, raw_key, 2)
    # A little way off: where all values are near 0 some mistakes make no difference.
    z = z + host_generator(raw_key, "check").uniform(-1, 1, z.shape).astype(z.dtype)
    for name, size, length in stream.plates:
        if 2 * length > size:
            continue  # two batches would share rows
        apart, together = _apart_and_together(target, z, rows, name)
        for site, values in apart.items():
            mean, whole = np.mean(values, dtype=np.float64), float(together[site])
            rounding = 100 * float(jnp.finfo(jnp.result_type(float)).eps) * max(1.0, *np.abs(values), abs(whole))
            if np.isfinite([mean, whole]).all() and abs(mean - whole) > rounding:
                _say_does_not_add_up(site, (name, size, length), values, whole)
    _check_observed(target, stream)


def _check_observed(target: Target, stream: Minibatches) -> None:
    """Say so if no statement about data stands in a plate that is shown in part."""
    plates = {name for name, _, _ in stream.plates}
    outside = [name for name, own in target.layout.data_plates if not plates & set(own)]
    if len(outside) == len(target.layout.data_plates):
        first = next(iter(plates))
        where = f"None of the model's observed sites and factors ({', '.join(outside) or 'there are none'})"
        warnings.warn(
            VbpplWarning(f"{where} stands in plate '{first}': batch_size makes the steps no cheaper."), stacklevel=2
        )


def _say_does_not_add_up(site: str, plate: tuple[str, int, int], apart: np.ndarray, together: float) -> None:
    name, size, length = plate
    problem = f"its log density over batches of plate '{name}' does not add up to that of all rows: "
    details = f"batch 1:          {apart[0]:.6g} nats\nbatch 2:          {apart[1]:.6g} nats\n"
    details += f"both as a batch:  {together:.6g} nats, but must be their mean, {np.mean(apart):.6g}"
    if abs(together / np.sum(apart) - 1) < 1e-3:
        raise ModelError(
            f"{problem}it counts each row once, not {size / length:g} times, as {length} of {size} rows must.",
            site=site,
            details=details,
            mend="State it inside the plate, which weighs it, with vb.subsample(...) of whole arrays.",
        )
    said = ModelError(
        f"{problem}what a row counts depends on the rows that are shown with it.",
        site=site,
        details=details,
        mend="Take rows by vb.subsample(...) of whole arrays, and make no average over the rows shown.",
    )
    warnings.warn(VbpplWarning(str(said)), stacklevel=2)


def _apart_and_together(
    target: Target, z: np.ndarray, rows: Mapping[str, PyTree], plate: str
) -> tuple[dict[str, np.ndarray], dict[str, Array]]:
    """Each site's log density at two batches of `plate`, `(2,)`, and at both as one; the other plates show one."""
    first = jax.tree.map(lambda leaf: leaf[0], dict(rows))
    joined = jax.tree.map(lambda leaf: np.concatenate(leaf), rows[plate])
    second = first | {plate: jax.tree.map(lambda leaf: leaf[1], rows[plate])}
    apart = [_by_site(target.showing(shown), z) for shown in (first, second)]
    together = _by_site(target.showing(first | {plate: joined}), z)
    return {name: np.array([float(part[name]) for part in apart]) for name in together}, together


@jax.jit
def _by_site(target: Target, z: Array) -> dict[str, Array]:
    return target.run(z).by_site()


def first_rows(target: Target, stream: Minibatches, raw_key: np.ndarray, steps: int) -> dict[str, Any]:
    """Rows for a first look, `(steps, rows shown)`: other ones than the fit's, so that its iterators may begin anew."""
    plates, key = {plate.name: plate for plate in target.layout.plates}, host_generator(raw_key, "first rows")
    rows = {}
    for name, size, length in stream.plates:
        wanted = min(steps * length, size // length * length)
        chosen = key.choice(size, wanted, replace=False) if size < 2**22 else key.integers(0, size, wanted)
        indices = np.sort(chosen).astype(np.int32)
        plate = plates[name]
        shown = rows_of.shown(plate, target.sources, indices) if plate.sources else indices
        rows[name] = jax.tree.map(lambda leaf, n=length: leaf.reshape(-1, n, *leaf.shape[1:]), shown)
    return rows
