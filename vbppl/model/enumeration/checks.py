"""What cannot be summed out, told before any table is made; and where sites and tables stand."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.model.enumeration.elimination import Variable, check_size
from vbppl.model.enumeration.support import Support
from vbppl.model.enumeration.tables import Tabulated
from vbppl.model.missing.statement import SUFFIX
from vbppl.model.primitives import Site
from vbppl.model.shapes import Frame


def plates_of(sites: Iterable[Site]) -> dict[str, Frame]:
    """Each plate as it is first opened, in the order of their dims, so that tables need not be transposed."""
    frames = {frame.name: frame for site in sites for frame in reversed(site.frames)}
    return dict(sorted(frames.items(), key=lambda pair: pair[1].dim))


def variables_of(kept: Mapping[str, Site], supports: Mapping[str, Support]) -> list[Variable]:
    """The discrete sites, whose plates are in the order of all."""
    order = list(plates_of(kept.values()))
    found = []
    for name, support in supports.items():
        around = dict(support.plates)
        found.append(Variable(name, support.count, tuple(plate for plate in order if plate in around)))
    return found


def check(table: Tabulated, kept: Mapping[str, Site], supports: Mapping[str, Support]) -> None:
    """Refuse what cannot be summed out, before any table is made."""
    densities, numbers, more = table.depends
    variables = {variable.name: variable for variable in variables_of(kept, supports)}

    def met(bits: int) -> list[Variable]:
        return [variables[name] for at, name in enumerate(table.names) if bits >> at & 1]

    for name, bits in densities.items():
        site, around = kept[name], {frame.name for frame in kept[name].frames}
        for variable in met(bits):
            if outside := [plate for plate in variable.plates if plate not in around]:
                raise _outside(site, variable, outside)
        if bits:
            shape = table.shapes[0][name].shape
            check_size(met(bits), int(np.prod(shape)), name)
    for name, bits in ((name, _union(each)) for name, each in numbers.items()):
        site = kept[name]
        if bits and (site.kind in ("param", "mutable") or (site.kind == "sample" and not site.observed)):
            what = "value" if site.kind == "sample" else "state"
            if _union(numbers[name][::2] if site.kind == "sample" else numbers[name]):
                raise _moved(name, what, met(bits)[0].name)
    for path, bits in jax.tree.leaves_with_path(more):
        if bits:
            names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in kept]
            raise _moved(names[0] if names else None, "value", met(bits)[0].name)


def _union(bits: Any) -> int:
    return functools.reduce(int.__or__, jax.tree.leaves(bits), 0)


def _outside(site: Site, variable: Variable, plates: Sequence[str]) -> ModelError:
    plate = plates[0]
    if site.name.endswith(SUFFIX):
        statement = site.name.removesuffix(SUFFIX)
        return ModelError(
            f"what is missing of it, '{site.name}', depends on the discrete site '{variable.name}', which is summed "
            f"out row by row, and the missing numbers of all rows of plate '{plate}' are one site.",
            site=statement,
            mend="Leave out what was not seen, dist.mask(m) in the place of obs_mask=m; predict draws it.",
        )
    return ModelError(
        f"it stands outside of plate '{plate}', and depends on the discrete site '{variable.name}' inside: all rows of "
        f"'{variable.name}' meet in it, and their joint values are too many to sum.",
        site=site.name,
        mend=f"Put '{site.name}' into plate '{plate}', or let it depend on what '{variable.name}' depends on, such as "
        "its probabilities.",
    )


def _moved(site: str | None, what: str, discrete: str) -> ModelError:
    how = "support" if what == "value" else "state"
    return ModelError(
        f"its {how} depends on the discrete site '{discrete}', which is summed out: it has no one {what} in the sum.",
        site=site,
        mend=f"Give it a {how} that is the same for all values of '{discrete}'."
        if what == "value"
        else f"Compute it without '{discrete}'.",
    )
