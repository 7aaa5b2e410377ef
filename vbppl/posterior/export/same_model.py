"""What a file says of the model that it belongs to, and what disagrees with the one that is given anew.

Three things are compared: the sites, with their distributions, shapes and plates; the arguments, whose numbers are
known by a digest; and, since code can change without either, the log density at some points, site by site: beside the
sum over many rows another prior would be rounding. Where one disagrees, what the function reads from outside its
arguments may say why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive
from vbppl.core.errors import ModelError
from vbppl.core.programs.compiling import ByWork, in_full_precision
from vbppl.core.types import PyTree
from vbppl.guides.base import Guide, in_dtype_of
from vbppl.guides.noise import Nothing
from vbppl.inference.bound import log_prob
from vbppl.inference.solution import Solution
from vbppl.model.arguments import EXACTLY, name_of, told, told_defaults, told_of
from vbppl.model.model import Model
from vbppl.model.trace import abstract_sites
from vbppl.posterior.weighted_draws import Bent, reaches_out
from vbppl.target.target import Target

POINTS, ROWS = 2, 64  # points; rows shown there, of a plate that shows a part
SAME, ALIKE = 1e-5, 1e-3  # by what share a log density may differ; on another kind of device, or in another precision
# The same, by how many nats whatever the share: a program gives the same bits again on its own machine, while another
# compiler takes sums in another order, where terms that cancel leave their rounding.
AGAIN, NATS = 1e-3, 0.05

Told = Mapping[str, Mapping[str, str]]
COMPARED = ("site", "argument", "condition", "do", "decentered")


class UnlikeError(ModelError):
    """A file is whole, but of another model, of other data or of another guide."""


def fingerprint(model: Model) -> dict[str, dict[str, str]]:
    """What is known of a model without its code, by groups, each by names: texts for a person to read."""
    rows = [site.row() for site in abstract_sites(model).values()]
    # Without the support, which the distribution implies, and which files of older tables do not have.
    sites = {name: " ".join(filter(None, (kind, what, *rest))) for name, kind, what, _, *rest in rows}
    changes = {"condition": model.conditions, "do": model.interventions}
    return {
        "function": {"name": name_of(model.function)},
        "site": sites,
        "argument": told(model.arguments, model.function) | told_defaults(model.arguments, model.function),
        **{word: {name: told_of(np.asarray(value)) for name, value in each.items()} for word, each in changes.items()},
        "decentered": dict.fromkeys(model.decentered, "yes"),
        "outside": dict(model.reads),
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What disagrees between two texts for each name, in words."""
    names = dict.fromkeys((*then, *now))
    pairs = {name: _alike(then.get(name, "nothing"), now.get(name, "nothing")) for name in names}
    return {name: _told_apart(*pair) for name, pair in pairs.items() if pair[0] != pair[1] and not _is_number(*pair)}


def _alike(one: str, other: str) -> tuple[str, str]:
    """Both without what is known of the digits beyond 32 bits, where only one of the two says it."""
    pair = one.partition(EXACTLY), other.partition(EXACTLY)
    return (one, other) if all(each[1] for each in pair) else (pair[0][0], pair[1][0])


def _is_number(one: str, other: str) -> bool:
    """Whether one is a number of Python, and the other the same as an array, as `k.max() + 1` is."""
    texts = {bool(_split(text)[1]): text for text in (one, other)}
    for kind in (np.int64, np.float64) if len(texts) == 2 else ():
        with contextlib.suppress(ValueError, OverflowError):
            one, other = _alike(told_of(kind(texts[False])), texts[True])
            return one == other
    return False


def _told_apart(then: str, now: str) -> str:
    (kind, digest), (other, _) = _split(then), _split(now)
    if digest and kind == other:
        return f"{kind} in both, but other numbers"
    return f"{kind} in the file, {other} here"


def _split(text: str) -> tuple[str, str]:
    """The kind and shape of an array, and its digest, which is empty for other things."""
    kind, _, digest = text.partition(EXACTLY)[0].rpartition(" ")
    return (kind, digest) if kind.endswith("]") and len(digest) == 16 else (text, "")


def check(path: str, found: Told, model: Model) -> None:
    """Make sure that the model is the one of the file, as far as that can be known without running it.

    Raises:
      ModelError: it is not; the message names what disagrees.
    """
    here, lines = fingerprint(model), []
    for group in COMPARED:
        lines += [f"{group} '{name}': {text}" for name, text in differences(found[group], here[group]).items()]
    if lines:
        raise UnlikeError(
            f"{path} holds a posterior of {found['function']['name']}, but not of this model with these arguments.",
            details="\n".join([*lines[:12], *["and more"][: len(lines) > 12]]),
            mend="Apply the function that was fitted to the data of the fit; other data go to posterior.predict.",
        )


class Points(NamedTuple):
    """Draws of a guide, and the log densities of the model's sites and of the guide there, in nats; of a point none."""

    z: np.ndarray
    sites: Mapping[str, tuple[float, ...]]
    guide: tuple[float, ...]

    @property
    def parts(self) -> dict[str, tuple[float, ...]]:
        """The densities that are compared, by what has them."""
        return {**{f"site '{name}'": found for name, found in self.sites.items()}, "guide": self.guide}


def points(solution: Solution) -> Points | None:
    """Some of a solution; None where its rows come in an order of their own, so that none can be asked for."""
    guide, phi, target = solution.guide, solution.phi, _shown_in_part(solution.target)
    if target is None:
        return None
    noise = guide.noise(target).independent(np.random.default_rng(0), POINTS)
    z = np.asarray(guide.draw(phi, in_dtype_of(phi, noise), target).z)[:POINTS]
    return _at(z if solution.in_double is None else z.astype(np.float64), solution)


def check_densities(path: str, then: Points | None, by: Mapping[str, str], told: Told, solution: Solution) -> None:
    """Make sure that model and guide have the densities that they had, when the file was written `by` such a machine.

    Raises:
      ModelError: they have not.
    """
    if then is None:
        return
    now, here, lines = _at(then.z, solution).parts, written_by(), []
    share = SAME if (by["device"], by["precision"]) == (here["device"], here["precision"]) else ALIKE
    nats = AGAIN if by == {"vbppl": by["vbppl"], **here} else NATS
    for what, of_then in then.parts.items():
        for before, after in zip(of_then, now[what], strict=True):
            if np.isfinite(before) and not abs(before - after) <= nats + share * abs(before):
                lines.append(f"{what}: {before:.6g} nats in the file, {after:.6g} here, at the same point")
                break
    if lines:
        which = "guide" if lines[0].startswith("guide") else "model"
        outside = differences(told["outside"], dict(solution.target.model.reads)).items()
        lines = [*lines[:12], *(f"{name}, which the model reads: {text}" for name, text in outside)]
        if by["precision"] != here["precision"]:
            lines.append(f"precision: {by['precision']} in the file, {here['precision']} here")
        raise UnlikeError(
            f"{path} holds a posterior of a {which} with another log density.",
            details="\n".join(lines),
            mend=f"The code of the {which}, or what it reads, has changed: give the one that was fitted.",
        )


def written_by() -> dict[str, str]:
    """What a file's bits depend on besides the fit."""
    return {**archive.machine(), "precision": str(jnp.result_type(float))}


def _at(z: np.ndarray, solution: Solution) -> Points:
    """The log densities at the points, in the precision of the fit."""
    target, double = _shown_in_part(solution.target), solution.in_double is not None
    of_rows = solution.guide.noise(target).is_of_rows
    with jax.enable_x64(True) if double else contextlib.nullcontext(), in_full_precision():
        exact = _shown_in_part(solution.in_double if double else solution.target)
        found = [_by_site(exact, jnp.asarray(one), shown=of_rows) for one in z]
    sites = {name: tuple(float(each[name]) for each in found) for name in found[0]}
    return Points(z, sites, _of_guide(solution.guide, solution.phi, z, target))


def _of_guide(guide: Guide, phi: PyTree, z: np.ndarray, target: Target) -> tuple[float, ...]:
    """The guide's log densities, on the host where that needs no program; none of a point."""
    if reaches_out(guide, target) and (bent := Bent.of(guide, phi, target)) is not None:
        found = bent.log_density(z.astype(np.float64))
    elif isinstance(guide.noise(target), Nothing):
        return ()
    else:
        found = log_prob(guide, phi, jnp.asarray(z, jnp.result_type(float)), target)
    return tuple(np.asarray(found, np.float64).tolist())


def _shown_in_part(target: Target) -> Any:
    """The target showing rows, spread over all, of plates that do not show all; None where an iterator gives them."""
    if any(source.is_iterator for source in target.sources.values()):
        return None
    plates = [plate for plate in target.layout.plates if plate.sources or plate.name in target.layout.shown]
    rows = {p.name: np.linspace(0, p.size - 1, min(ROWS, p.size)).astype(int) for p in plates}
    return target.showing(rows) if plates else target


_by_site = ByWork(lambda target, z, shown: target.run(z, shown=shown).by_site(), static_argnames="shown")
