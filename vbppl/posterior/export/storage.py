"""`save` and `load`: a posterior in one file, without the model's code and data, which are given anew.

The file is an `.npz` archive: everything that the posterior holds as arrays by their names, and a JSON text that says
what they are (`encoding`), which model it is (`same_model`), and who has written it. Nothing in it is ever executed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive, devices
from vbppl.core.errors import ModelError, of_kind
from vbppl.core.types import PathLike, PyTree
from vbppl.distributions.location_scale import Parameterisation
from vbppl.guides.base import Guide, Start
from vbppl.guides.networks import in_training, program_of
from vbppl.guides.program import ProgramGuide
from vbppl.inference.solution import Note, NotSearched, Searched, Solution, Status
from vbppl.model.arguments import name_of, told
from vbppl.model.model import Model, check_applied
from vbppl.posterior.export import same_model
from vbppl.posterior.export.encoding import NotStorable, decoded, encoded
from vbppl.posterior.export.same_model import UnlikeError
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import VERDICTS, Report, Unjudged
from vbppl.target.target import Target, in_mode, owned

POSTERIOR = archive.Kind(
    "posterior", 1, "a stored posterior", "Give a file that vb.save of this version, or of an older one, has written."
)


def save(posterior: Posterior, path: PathLike) -> None:
    """Store a posterior in one file, whole or not at all; what the path held before is replaced.

    The file holds everything but code and data: guide, parameters, learnt params, states of modules, the bound's
    history, the report with its draws, weighted or of chains. It is an `.npz` of NumPy with a JSON text
    (`json.loads(bytes(np.load(path)["meta"]))`), and can be read without vbppl.

    >>> import tempfile, numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 0.5), obs=y)
    >>> posterior = vb.fit(one_number(np.array(10.0)), "mean_field")
    >>> path = os.path.join(tempfile.mkdtemp(), "fit.npz")
    >>> vb.save(posterior, path)
    >>> again = vb.load(path, one_number(np.array(10.0)))
    >>> bool(again.mean()["x"] == posterior.mean()["x"]), again.check().verdict
    (True, 'good')

    Args:
      posterior: what `vb.fit`, `vb.refine` or one of `vb.fit_many` gave back.
      path: of the file, in a folder that there is; `.npz` is the usual ending.

    Raises:
      TypeError: it is no posterior.
      ModelError: there is no such folder, or the posterior holds something that has no form in a file.
      OSError: the disk is full, say; the path then holds what it held before.
    """
    of_kind("posterior", posterior, isinstance(posterior, Posterior), "what vb.fit gave back")
    path = _checked(path)
    if not Path(path).absolute().parent.is_dir():
        raise ModelError(f"path={path!r}: there is no such folder.", mend="Make it first.")
    meta, arrays = _parts(posterior)
    if jax.process_index() == 0:  # where several processes work together, the others have given their share
        archive.write(path, meta, arrays, POSTERIOR)


def load(path: PathLike, model: Model | Target, guide: Any = None) -> Posterior:
    """The posterior that `vb.save` has put into a file, in any process: to the bit, in the precision of the fit.

    Args:
      path: of the file.
      model: the function that was fitted, applied to the data of the fit. Sites, shapes, plates and data must be those
        of the fit, and the log density at two points what it was: else the error names what disagrees.
      guide: where it holds code (an encoder, a function under `@vb.guide`, a class of your own), the guide that the fit
        was given, made anew; its parameters are in the file.

    Returns:
      the posterior, with the same answers; for other data ask `posterior.predict(model(...))`.

    Raises:
      ModelError: the file is damaged, foreign or newer than this version; or the model or guide is another one.
      TypeError: `model` is no model applied to its arguments.
    """
    path = _checked(path)
    if not isinstance(model, Target):
        check_applied(model, "model")
    if guide is not None:
        guide = ProgramGuide(guide.with_arrays(owned)) if isinstance(guide, Model) else guide
        of_kind("guide", guide, isinstance(guide, Guide), "the guide that the fit was given")
    meta, arrays = archive.read(path, kind=POSTERIOR)
    with archive.refused(path, POSTERIOR):
        kept = _kept(meta, arrays)
    if isinstance(model, Model):  # what was read whole for the fit is read whole again
        model = model.loaded([name for name in model.sources if name not in kept.target.sources])
    target = Target.of(model)
    # As it was given, with all the digits of its data: the target's are the session's.
    same_model.check(path, kept.model, model if isinstance(model, Model) else target.model)
    guide = _guide(path, kept.guide, guide)
    # The model runs by itself, so whatever goes wrong with it at what the file says is the file's doing.
    with archive.refused(path, POSTERIOR, passing=(UnlikeError,)):
        target, double = _fitted(kept.target, target), None
        if kept.in_double:
            with jax.enable_x64(True):
                double = jax.tree.map(_on_host, _fitted(kept.in_double, Target.of(model)))
        _check_draws(kept, target.dim)
    like = _started(kept, guide, target)  # the user's own code: what it raises is told as it is
    with archive.refused(path, POSTERIOR, passing=(UnlikeError,)):
        phi = _phi(kept.phi, like)
        of_fit = {name: getattr(kept, name) for name in KEPT}
        solution = Solution(target=target, guide=guide, phi=phi, in_double=double, **of_fit)
        same_model.check_densities(path, kept.points, kept.by, kept.model, solution)
    return Posterior(solution, kept.report, kept.corrects, kept.calls)


class Learnt(NamedTuple):
    """What a fit has learnt and chosen of a density, by the words of format 1; all else follows from the model."""

    params: Mapping[str, Any]
    states: Mapping[str, Any]
    parameterisations: Mapping[str, Parameterisation]
    movable: tuple[str, ...]
    fixed_noncentred: tuple[str, ...]
    shown: Mapping[str, int | None]
    sources: tuple[str, ...]
    by_quantiles: tuple[str, ...]


KEPT = ("bounds", "status", "other_modes", "notes")  # of a solution, as they are


class Given(NamedTuple):
    """What a file says of a guide with code: what it was given, why it has no form in a file, its modules' states."""

    given: Mapping[str, str]
    why: str
    states: Mapping[str, Any]


class Kept(NamedTuple):
    """What a file holds, each of its type; `guide` and `phi` by what they are: whole, given anew, leaves alone."""

    guide: Mapping[str, Any]
    phi: Mapping[str, Any]
    target: Learnt
    in_double: Learnt | None
    points: same_model.Points | None
    bounds: np.ndarray
    status: Status
    other_modes: Searched | NotSearched
    notes: tuple[Note, ...]
    report: Report | Unjudged
    corrects: bool
    calls: tuple[str, ...]
    model: same_model.Told
    by: Mapping[str, str]


def _kept(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Kept:
    """What stands in a file.

    Raises:
      KeyError, TypeError, ValueError: it is not what a posterior has.
    """
    parts = ("guide", "phi", "target", "in double", "points", "report")
    found = {name.replace(" ", "_"): decoded(meta[name], arrays) for name in parts}
    found |= {name: decoded(meta["solution"][name], arrays) for name in KEPT}
    for name, kind in (("target", Learnt), ("in_double", Learnt), ("points", same_model.Points)):
        found[name] = None if found[name] is None and name != "target" else archive.typed(kind, found[name])
    said = {"corrects": meta["corrects"], "model": meta["model"], "by": meta["written by"]}
    kept = archive.typed(Kept, {**found, **said, "calls": decoded(meta["calls"], arrays)})
    if lacking := [name for name in ("function", "outside", *same_model.COMPARED) if name not in kept.model]:
        raise KeyError(lacking[0])
    kept.model["function"]["name"]  # which messages say
    if "whole" in kept.guide and not isinstance(kept.guide["whole"], Guide):
        raise TypeError("its guide is none")
    if "whole" not in kept.guide:
        archive.typed(Given, {name: kept.guide[name] for name in Given._fields})
    if kept.report.verdict not in (*VERDICTS, "unjudged"):
        raise ValueError(f"its verdict is {kept.report.verdict!r:.80}")
    return kept


def _check_draws(kept: Kept, dim: int) -> None:
    """Refuse draws and bounds that are none of this density, or of which some numbers are missing."""
    if kept.bounds.ndim != 1 or kept.bounds.dtype.kind != "f":
        raise ValueError(f"its bounds are {kept.bounds.dtype}{list(kept.bounds.shape)}")
    report: Any = kept.report
    while report is not None:
        draws = getattr(report, "draws", None)
        if draws is not None:
            shapes = {name: np.shape(each) for name, each in vars(draws).items() if np.ndim(each)}
            off = [name for name, shape in shapes.items() if shape != (len(draws.z), dim)[: 1 + (name == "z")]]
            if off or np.ndim(draws.z) != 2 or report.chains < 0 or (report.chains and len(draws.z) % report.chains):
                raise ValueError(f"its draws have the shapes {shapes}, of {dim} dims and {report.chains} chains")
            kinds = {name: each.dtype.kind for name, each in vars(draws).items() if name in shapes}
            if off := [name for name, kind in kinds.items() if kind != ("b" if name == "own" else "f")]:
                raise ValueError(f"its draws' {off[0]} are of {getattr(draws, off[0]).dtype}")
        report = getattr(report, "fitted", None)


def _checked(path: PathLike) -> str:
    return os.fspath(of_kind("path", path, isinstance(path, (str, os.PathLike)), "the path of a file"))


def _parts(posterior: Posterior) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What goes into the file: JSON, and arrays."""
    solution, arrays = posterior.solution, dict[str, np.ndarray]()
    points, double = same_model.points(solution), solution.in_double
    parts = {
        "guide": _guide_told(solution.guide),
        "phi": _phi_told(solution.phi),
        "target": _learnt(solution.target),
        "in double": None if double is None else _learnt(double),
        "points": points and points._asdict(),
        "report": posterior.report,
    }
    try:
        meta = {name: encoded(part, name, arrays) for name, part in parts.items()}
        meta["solution"] = {name: encoded(getattr(solution, name), name, arrays) for name in KEPT}
    except NotStorable as error:
        raise ModelError(f"the posterior cannot be stored: {error}, which has no form in a file.") from None
    by, held = {"vbppl": _version(), **same_model.written_by()}, solution.target if double is None else double
    model = same_model.fingerprint(held.model)
    said = {"corrects": posterior.corrects, "calls": encoded(posterior.calls, "calls", arrays)}
    return {"written by": by, "model": model, **said, **meta}, arrays


def _version() -> str:
    try:
        return importlib.metadata.version("vbppl")
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def _learnt(target: Target) -> dict[str, Any]:
    layout = target.layout
    shown = {plate.name: plate.subsample_size for plate in layout.plates}
    chosen = (target.parameterisations, layout.movable, layout.fixed_noncentred, shown, tuple(target.sources))
    return Learnt(target.params, target.model.states, *chosen, layout.by_quantiles)._asdict()


def _fitted(learnt: Learnt, target: Target) -> Target:
    """The density of a model as it was fitted."""
    _check_shapes("the model's params", learnt.params, target.params)
    layout = target.layout.showing(learnt.shown)
    seen = {name: getattr(learnt, name) for name in ("movable", "fixed_noncentred", "by_quantiles")}
    layout = dataclasses.replace(layout, **seen)
    target = target.replace(params=learnt.params, parameterisations=learnt.parameterisations, layout=layout)
    return in_mode(target, learnt.states, None)


def _on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) and devices.mesh_of(leaf) is None else leaf


def _guide_told(guide: Guide) -> dict[str, Any]:
    """The guide; where it holds code, what must be alike in the one that is given anew, and its modules' states."""
    try:
        encoded(guide, "guide", {})
    except NotStorable as error:
        program = program_of(guide)
        states = {} if program is None else program.states
        return {"given": _given_told(guide), "why": str(error), "states": states}
    return {"whole": guide}


def _given_told(guide: Any) -> dict[str, str]:
    if isinstance(program := getattr(guide, "program", None), Model):
        return {
            "class": "a function under @vb.guide",
            "name": name_of(program.function),
            **told(program.arguments, program.function),
        }
    plain = (str, int, float, bool, Guide)
    texts = {name: repr(value) for name, value in vars(guide).items() if isinstance(value, plain)}
    return {"class": type(guide).__qualname__, **{name: text for name, text in texts.items() if " at 0x" not in text}}


def _phi_told(phi: PyTree) -> dict[str, Any]:
    """The parameters; of a pytree of the user's own the leaves, since the guide knows the structure."""
    try:
        encoded(phi, "phi", {})
    except NotStorable:
        return {"leaves": jax.tree.leaves(phi)}
    return {"whole": phi}


def _guide(path: str, form: Mapping[str, Any], guide: Guide | None) -> Guide:
    """The guide of the file, or the one that is given anew, with the states of its modules."""
    if "whole" in form:
        whole = form["whole"]
        differ = {} if guide is None else same_model.differences(_given_told(whole), _given_told(guide))
        if differ:
            raise UnlikeError(
                f"{path} holds a posterior with another guide.",
                details="\n".join(f"{name}: {text}" for name, text in differ.items()),
                mend="Leave guide= out: the file has the guide.",
            )
        return whole
    if guide is None:
        raise UnlikeError(
            f"{path} holds a posterior whose guide has code, which no file has: {form['why']}.",
            mend="Give the guide of the fit anew: vb.load(path, model, guide=...).",
        )
    if differ := same_model.differences(form["given"], _given_told(guide)):
        lines = [f"{name}: {text}" for name, text in differ.items()]
        raise UnlikeError(
            f"{path} holds a posterior with another guide.",
            details="\n".join(lines[:1] if "class" in differ else lines),
            mend="Give the guide that the fit was given.",
        )
    return in_training(guide, form["states"], None)


def _started(kept: Kept, guide: Guide, target: Target) -> PyTree:
    """Parameters of a guide that is given anew, for their structure and shapes; None where none are needed."""
    comes_once = any(source.is_iterator for source in target.sources.values())  # then no encoder can be tried
    if "given" not in kept.guide or ("whole" in kept.phi and comes_once):
        return None
    return guide.init(target, Start(np.zeros(target.dim, jnp.result_type(float))))


def _phi(form: Mapping[str, Any], like: PyTree) -> PyTree:
    """The parameters; of a guide that is given anew with its structure, and of its shapes."""
    if like is None:
        return form["whole"]
    phi = form.get("whole")
    if phi is None:
        structure = jax.tree.structure(like)
        if len(form["leaves"]) != structure.num_leaves:
            raise _unlike("the guide's parameters", f"{len(form['leaves'])} arrays", str(structure.num_leaves))
        phi = jax.tree.unflatten(structure, form["leaves"])
    _check_shapes("the guide's parameters", phi, like)
    return phi


def _check_shapes(what: str, found: PyTree, like: PyTree) -> None:
    """Raise a `ModelError` where two pytrees are not of one structure and of the same shapes."""

    def shapes(tree: PyTree) -> dict[str, str]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path): str(np.shape(leaf)) for path, leaf in leaves}

    for name, text in same_model.differences(shapes(found), shapes(like)).items():
        raise _unlike(f"{what}{name}", *text.removesuffix(" here").split(" in the file, "))


def _unlike(what: str, then: str, now: str) -> UnlikeError:
    return UnlikeError(
        f"{what}: {then} in the file, {now} here.",
        mend="Make networks and params of the sizes that the fit had.",
    )
