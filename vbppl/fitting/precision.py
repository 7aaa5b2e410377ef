"""In which precision a fit is computed: the session's, and in double precision from where rounding limits it.

In 32 bits a sum of a million terms is known to a tenth of a nat, a place at 10^5 to a hundredth, and a kernel that is
nearly singular has no Cholesky factor. Where such a fit is not good, or its bound is that large, some draws are
evaluated once more beside where they lie: by the gradients at both points one knows by how much the log density should
differ. What is left is rounding. Nothing is compiled for that, and double precision is for this fit alone. Draws that
have no density at all are asked for it in double precision, whatever the verdict: weights of the others cannot tell
that a part of the posterior is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.watch import Watch
from vbppl.fitting.escalate import goes_on_at_once
from vbppl.fitting.plan import Method, Plan
from vbppl.fitting.prepare import judge_solution, prepare
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Solution, searched_both
from vbppl.model.model import Model
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import AnyReport, Report
from vbppl.target.axes import coordinate_name
from vbppl.target.batched import HEAVY, evaluate
from vbppl.target.plain import is_plain
from vbppl.target.target import Target, in_mode, model_of, parameterisations_of, reparameterised, seen_by_quantiles

LARGE = 0.05  # nats that the last place of a bound is worth, above which a good verdict is no evidence
NOISE = 0.1  # nats by which rounding may move a log density
DIVERGED = 1e12  # nats, or in unconstrained space
COARSE = 0.05  # sds between a place and the next one that the dtype has
TOO_COARSE = 0.25  # the same, beyond which no answer can be given in it
POINTS, STEP = 64, 0.03  # draws that are looked at; how far on the way to the next one is looked again
LOST = 0.01  # of the guide's draws: so many without a density are asked whether they have one in double precision

WENT_ON = ", so it went on in float64 (precision='session' leaves that out)"


@contextlib.contextmanager
def computing_in(precision: str | None) -> Iterator[None]:
    """Compute in double precision if it is "float64", for this block alone; what is not finite is told by the status.

    Half of a fit is on the host, so what it sends to the device is meant, whatever a guard says of the user's own code.
    """
    double = jax.enable_x64(True) if precision == "float64" else contextlib.nullcontext()
    with np.errstate(all="ignore"), jax.transfer_guard("allow"), double:
        yield


def requested_precision(method: Method, precision: str) -> str | None:
    """The precision that a whole fit is to have; None for the session's."""
    double = precision == "float64" or (isinstance(method, Deterministic) and method.precision == "float64")
    return "float64" if double else None


def continued_in_float64(
    plan: Plan, problem: Problem, solution: Solution, report: AnyReport, model: Model | Target, watch: Watch
) -> tuple[Problem, Solution, AnyReport]:
    """The same, or what double precision makes of it from there, where rounding limits it."""
    may = isinstance(plan.settings, Deterministic) and jnp.result_type(float) != np.float64
    if not may or solution.status.was_cut_short or watch.is_over or not isinstance(report, Report) or report.cut_short:
        return problem, solution, report
    if not (limit := limit_of(solution, report) or _lost_draws(solution, report, model)):
        return problem, solution, report
    with computing_in("float64"):
        # The user's own data, which were rounded too.
        double = prepare(plan, [Target.of(model)], problem.raw_keys)
        is_place = solution.status.converged and bool(np.isfinite(report.elbo.value))  # else there may be better ones
        if is_place:
            loc, scale = solution.guide.frame(_in_double(solution.phi), solution.target)
            place = np.stack([loc, np.log(np.maximum(scale, 1e-300))])[None]
            given = parameterisations_of(solution.target)[None]
            double = dataclasses.replace(double, start=place, parameterisations=given, tries_pseudo_data=False)
        double = dataclasses.replace(double, precision="float64")
        try:
            (after,) = plan.solve(double, watch)
        except InitializationError as error:  # the first half has an answer, with its own verdict
            said = f"{limit}; in float64 no start was found: {error.what}"
            return problem, solution.noted("precision", said), report
        if after.status.was_cut_short:
            return problem, solution, report
        after = _joined(solution, after, is_place).noted("precision", f"{limit}{WENT_ON}")
        after, again = judge_solution(after, problem.raw_keys[0], watch, lambda: goes_on_at_once(plan, double, after))
    return (problem, solution, report) if again.cut_short else (double, after, again)


def limit_of(solution: Solution, report: Report) -> str:
    """How rounding limits a fit in the session's dtype, in words; "" where it does not."""
    dtype, target = jnp.result_type(float), solution.target
    eps, draws = float(np.finfo(dtype).eps), report.draws
    z = draws.z[draws.own][:POINTS].astype(np.float64)
    last_place = eps * abs(report.elbo.value)
    # Of many data the optimum is known by its gradients: a good verdict is then worth more than a second fit.
    is_good = report.verdict in ("good", "corrected") and not (last_place > LARGE and target.data_size <= HEAVY)
    # A density that has been followed to infinity is rounded there too, but that is not what is wrong with it.
    sizes = np.abs(np.concatenate([z.ravel(), draws.log_p[np.isfinite(draws.log_p) & draws.own]]))
    if len(z) < 2 or np.median(sizes) > DIVERGED or sizes[: z.size].max() > DIVERGED:
        return ""
    coarse = eps * np.abs(z).mean(axis=0) / np.maximum(z.std(axis=0), 1e-300)
    # No report sees that draws have few places to lie at: density and guide are asked at these places alone.
    if (worst := int(coarse.argmax())) >= 0 and coarse[worst] > (TOO_COARSE if is_good else COARSE):
        name, wide = coordinate_name(target, worst), f"{coarse[worst]:.2g}" if coarse[worst] < 100 else "over 100"
        return f"at {z[:, worst].mean():.4g} the places of {name} lie {wide} sd apart in {dtype}"
    if is_good:
        return ""
    # A draw and a point on the way to the next one, as the density sees them.
    beside = (z + STEP * (np.roll(z, 1, axis=0) - z)).astype(dtype).astype(np.float64)
    log_p, gradient = (np.split(each, 2) for each in evaluate(target, np.concatenate([z, beside])))
    expected = ((gradient[0] + gradient[1]) / 2 * (beside - z)).sum(axis=1)
    off = np.abs(log_p[1] - log_p[0] - expected)
    # Nine in ten of a normal's lie within 1.64 sds; where places are very coarse, two may be equal by chance.
    noise = float(np.quantile(off[np.isfinite(off)], 0.9)) / 1.64 if np.isfinite(off).any() else 0.0
    noise = max(noise, last_place / 4) if np.isfinite(last_place) else noise
    return f"rounding in {dtype} moves the log density by {noise:.2g} nats" if noise > NOISE else ""


def _lost_draws(solution: Solution, report: Report, model: Model | Target) -> str:
    """How many of the guide's draws have a density in double precision alone, in words; "" where few or none have."""
    draws, dtype = report.draws, jnp.result_type(float)
    if not draws.lost > LOST:
        return ""
    z = draws.z[draws.own & ~np.isfinite(draws.log_p)][:POINTS]
    with jax.enable_x64(True):
        log_p, _ = evaluate(_seen_alike(model, solution.target), z.astype(np.float64))
    share = draws.lost * float(np.mean(np.isfinite(log_p)))
    return f"{share:.0%} of the guide's draws have no density for rounding in {dtype}" if share > LOST else ""


def _seen_alike(model: Model | Target, target: Target) -> Target:
    """The density of a model in the coordinates of a target that was made from it, in the precision of the moment."""
    plain = seen_by_quantiles(Target.of(model), target.layout.by_quantiles)
    return reparameterised(plain, parameterisations_of(target)).replace(params=target.params)


def _in_double(phi: Any) -> Any:
    """The parameters of any guide in double precision."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), phi)


def _joined(before: Solution, after: Solution, is_place: bool) -> Solution:
    """The second half of a fit, with what the first half has found and both have cost."""
    one, two = before.status, after.status
    costs = {name: getattr(one, name) + getattr(two, name) for name in ("steps", "gradients", "seconds", "compiling")}
    modes = searched_both(before.other_modes, after.other_modes) if is_place else after.other_modes
    kept = tuple(note for note in before.notes if note.topic == "parameterisation" and is_place)
    return dataclasses.replace(
        after,
        bounds=np.concatenate([before.bounds, after.bounds]),
        status=dataclasses.replace(two, **costs),
        other_modes=modes,
        notes=(*kept, *after.notes),
    )


def in_session_precision(posterior: Posterior, model: Model | Target) -> Posterior:
    """The same posterior in the session's dtype; its report is that of the fit, as far as that dtype bears."""
    dtype = jnp.result_type(float)
    floats = [leaf for leaf in jax.tree.leaves(posterior.phi) if jnp.issubdtype(np.asarray(leaf).dtype, np.floating)]
    if all(np.asarray(leaf).dtype == dtype for leaf in floats):
        return posterior
    held = {} if is_plain(posterior.target.model) else model_of(posterior.target).states
    phi, params, states = jax.tree.map(
        lambda leaf: np.asarray(leaf, dtype) if jnp.issubdtype(np.asarray(leaf).dtype, np.floating) else leaf,
        (posterior.phi, posterior.target.params, held),
    )
    target = _seen_alike(model, posterior.target).replace(params=params)
    double = jax.tree.map(
        lambda leaf: (
            np.asarray(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) and devices.mesh_of(leaf) is None else leaf
        ),
        posterior.target,
    )
    solution = dataclasses.replace(posterior.solution, target=in_mode(target, states, None), phi=phi, in_double=double)
    return dataclasses.replace(posterior, solution=solution, report=as_rounded(posterior.report, solution, dtype))


def as_rounded(report: AnyReport, solution: Solution, dtype: Any) -> AnyReport:
    """A report that is poor where the session's dtype has too few places for the answer."""
    if not isinstance(report, Report):
        return report
    loc, scale = (np.asarray(part, np.float64) for part in solution.guide.frame(solution.phi, solution.target))
    apart = np.spacing(np.abs(loc).astype(dtype)) / np.maximum(scale, 1e-300)
    if not len(apart) or not apart.max() > TOO_COARSE:
        return report
    name = coordinate_name(solution.target, int(apart.argmax()))
    reason = f"in {dtype}, which the posterior is given back in, the places of {name} lie {apart.max():.2g} sd apart"
    advice = "jax.enable_x64(True) around the fit and all that is asked of the posterior; or data less far from zero"
    return dataclasses.replace(
        report, verdict="poor", reasons=(reason, *report.reasons), advice=(advice, *report.advice)
    )
