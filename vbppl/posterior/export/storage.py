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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive, devices
from vbppl.core.errors import ModelError, of_kind
from vbppl.core.types import PathLike, PyTree
from vbppl.guides.base import Guide, Start
from vbppl.guides.networks import in_training, program_of
from vbppl.guides.program import ProgramGuide
from vbppl.inference.solution import Solution
from vbppl.model.arguments import name_of, told
from vbppl.model.model import Model, check_applied
from vbppl.posterior.export import same_model
from vbppl.posterior.export.encoding import NotStorable, decoded, encoded
from vbppl.posterior.posterior import Posterior
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
        found = {name: decoded(meta[name], arrays) for name in ("guide", "phi", "target", "in double", "points")}
        rest = {name: decoded(meta["solution"][name], arrays) for name in KEPT}
        report, corrects, of_model, by = (meta[n] for n in ("report", "corrects", "model", "written by"))
        report = decoded(report, arrays)
    if isinstance(model, Model):  # what was read whole for the fit is read whole again
        model = model.loaded([name for name in model.sources if name not in found["target"]["sources"]])
    target = Target.of(model)
    same_model.check(path, of_model, target.model)
    target, double = _fitted(found["target"], target), None
    if found["in double"]:
        with jax.enable_x64(True):
            double = jax.tree.map(_on_host, _fitted(found["in double"], Target.of(model)))
    guide = _guide(path, found["guide"], guide)
    phi = _phi(found["phi"], guide, "given" in found["guide"], target)
    solution = Solution(target=target, guide=guide, phi=phi, in_double=double, **rest)
    then = same_model.Points(**found["points"]) if found["points"] else None
    same_model.check_densities(path, then, by, of_model, solution)
    return Posterior(solution, report, corrects)


KEPT = ("bounds", "status", "other_modes", "notes")  # of a solution, as they are


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
    by, model = {"vbppl": _version(), **same_model.written_by()}, same_model.fingerprint(solution.target.model)
    return {"written by": by, "model": model, "corrects": posterior.corrects, **meta}, arrays


def _version() -> str:
    try:
        return importlib.metadata.version("vbppl")
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def _learnt(target: Target) -> dict[str, Any]:
    """What a fit has learnt and chosen of a density; all else follows from the model."""
    layout = target.layout
    return {
        "params": target.params,
        "states": target.model.states,
        "coordinates": target.coordinates,
        "movable": layout.movable,
        "decentred": layout.fixed_decentred,
        "by_quantiles": layout.by_quantiles,
        "shown": {plate.name: plate.subsample_size for plate in layout.plates},
        "sources": tuple(target.sources),
    }


def _fitted(learnt: Mapping[str, Any], target: Target) -> Target:
    """The density of a model as it was fitted."""
    _check_shapes("the model's params", learnt["params"], target.params)
    seen = {"movable": learnt["movable"], "fixed_decentred": learnt["decentred"]}
    seen["by_quantiles"] = learnt.get("by_quantiles", ())  # which files of before do not have
    layout = dataclasses.replace(target.layout.showing(learnt["shown"]), **seen)
    target = target.replace(params=learnt["params"], coordinates=learnt["coordinates"], layout=layout)
    return in_mode(target, learnt["states"], None)


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
            raise ModelError(
                f"{path} holds a posterior with another guide.",
                details="\n".join(f"{name}: {text}" for name, text in differ.items()),
                mend="Leave guide= out: the file has the guide.",
            )
        return whole
    if guide is None:
        raise ModelError(
            f"{path} holds a posterior whose guide has code, which no file has: {form['why']}.",
            mend="Give the guide of the fit anew: vb.load(path, model, guide=...).",
        )
    if differ := same_model.differences(form["given"], _given_told(guide)):
        lines = [f"{name}: {text}" for name, text in differ.items()]
        raise ModelError(
            f"{path} holds a posterior with another guide.",
            details="\n".join(lines[:1] if "class" in differ else lines),
            mend="Give the guide that the fit was given.",
        )
    return in_training(guide, form["states"], None)


def _phi(form: Mapping[str, Any], guide: Guide, is_given: bool, target: Target) -> PyTree:
    """The parameters; of a guide that is given anew with its structure, and of its shapes."""
    comes_once = any(source.is_iterator for source in target.sources.values())  # then no encoder can be tried
    if not is_given or ("whole" in form and comes_once):
        return form["whole"]
    like = guide.init(target, Start(np.zeros(target.dim, jnp.result_type(float))))
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


def _unlike(what: str, then: str, now: str) -> ModelError:
    return ModelError(
        f"{what}: {then} in the file, {now} here.",
        mend="Make networks and params of the sizes that the fit had.",
    )
