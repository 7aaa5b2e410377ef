"""`refine`: from a posterior to draws of Markov chains that start from it, where a guide is not enough."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, NotConvergedWarning, PoorFitWarning, of_kind, whole_number
from vbppl.core.keys import host_generator, raw_key
from vbppl.core.types import Seed
from vbppl.fitting.call import call_of
from vbppl.fitting.plan import FULL_RANK_DIM, check_call
from vbppl.fitting.precision import as_rounded, computing_in
from vbppl.fitting.progress import watching
from vbppl.guides.gaussian import normal_of
from vbppl.guides.networks import program_of
from vbppl.inference import bound, sampling
from vbppl.inference.sampling import Frame
from vbppl.inference.solution import Note
from vbppl.posterior.mcmc.report import ChainReport, judge_chains
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import Unjudged
from vbppl.posterior.weighted_draws import Ellipsoid
from vbppl.target.batched import evaluate
from vbppl.target.target import Target, error_somewhere

DRAWS = 512  # of the posterior: from some of them the chains start
SPREAD = 1.5  # by how much further from its mean they start than it reaches
ACCEPT = 0.9, 0.99  # the average acceptance probability, and that where paths diverge
TRIED = 16  # places that are looked at for each start


def refine(
    posterior: Posterior,
    n: int = 1000,
    *,
    chains: int = 4,
    seed: Seed = 0,
    target_accept: float | None = None,
    seconds: float | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Draw from the posterior itself by Markov chains that start from a fit, and say whether they agree.

    BlackJAX's NUTS (`pip install "vbppl[refine]"`) on the density as it was fitted. Its chains start from draws of the
    fit, spread out by half, and its metric is the fit's covariance, so that the warm-up is short: 300 steps. Params of
    the model stay as they were learnt. A second call with data of equal shapes and as many chains compiles nothing.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 0.5), obs=y)
    >>> refined = vb.refine(vb.fit(one_number(np.array(10.0))), n=500)
    >>> refined.check().verdict, bool(abs(refined.mean()["x"] - 8.0) < 0.1)
    ('good', True)

    Args:
      posterior: what `vb.fit` gave back; a refined one goes on from its draws.
      n: draws of each chain after the warm-up, at least 4.
      chains: how many; two or more can show that they disagree.
      seed: an int or a JAX key; the same seed gives the same bits on the same machine.
      target_accept: the average acceptance probability that the step size is adapted to; None for 0.9, and where paths
        diverge all once more with 0.99, by shorter steps.
      seconds: by the clock, after which the draws so far are returned; compiling is not cut short. Ctrl-C does the
        same.
      progress: as in `vb.fit`.

    Returns:
      a posterior that speaks of the draws of all chains in all that it says: `sample`, `summary` (with R-hat and
      effective sample sizes), `predict`, `expectation` and so on; `check()` is the report on the chains, and
      `uncorrected()` the guide alone, with its own report. The posterior that was given, where the time was over before
      the first draw.

    Raises:
      ModelError: the posterior cannot be refined: its guide has a program that reads the data, the data are read in
        parts, or no start has a finite density.
      TypeError: it is no posterior, or a point.
      ModuleNotFoundError: BlackJAX is not installed.
    """
    _check(posterior)
    accept = ACCEPT if target_accept is None else (_probability(target_accept),)
    n, chains = whole_number("n", n, 4), whole_number("chains", chains)
    check_call(seconds, progress, None, "auto", {})
    sampling.blackjax()
    raw, solution, dtype = raw_key(seed), posterior.solution, jnp.result_type(float)
    in_double = solution.in_double is not None
    with watching(progress, None, seconds) as watch, computing_in("float64" if in_double else None):
        watch.doing("compiling")
        target = solution.in_double if in_double else solution.target
        start, frame = _start(posterior, target, host_generator(raw, "refine"), chains)
        found, notes = sampling.sample(target, start, frame, n, raw, accept[0], watch), ()
        if found.diverged.any() and len(accept) > 1 and not found.cut_short:
            lost = f"{found.diverged.sum():,} paths diverged with {accept[0]}, so all was drawn again with {accept[1]}"
            found, notes = found.again(target, n, accept[1], raw, watch), (Note("target_accept", lost),)
        watch.doing("judging")
        began = time.perf_counter()
        report = judge_chains(solution, posterior.report.of_guide, target, found, notes) if len(found) else None
    if report is None:
        text = f"{found.cut_short} in the warm-up, after {found.steps:,} steps, before the first draw"
        warnings.warn(NotConvergedWarning(f"vb.refine: {text}; the posterior is as it was."), stacklevel=2)
        return posterior
    # The chains may have moved in double precision; what is held is the session's.
    draws = dataclasses.replace(report.draws, z=report.draws.z.astype(dtype))
    report = dataclasses.replace(report, draws=draws, seconds=time.perf_counter() - began)
    given = {"n": n, "chains": chains, "target_accept": target_accept, "seconds": seconds}
    call = call_of(refine, "posterior", seed, given)
    report = as_rounded(report, solution, dtype) if in_double else report
    refined = Posterior(solution, report, calls=(*posterior.calls, *call))
    _warn(refined)
    return refined


def _probability(accept: Any) -> float:
    """The acceptance probability asked for."""
    number = isinstance(accept, (int, float, np.number)) and not isinstance(accept, bool)
    of_kind("target_accept", accept, number, "a number between 0 and 1")
    if not 0 < accept < 1:
        raise ValueError(f"target_accept must lie between 0 and 1, not {accept}.")
    return float(accept)


def _check(posterior: Posterior) -> None:
    """Refuse what has no chains to draw, by its kind alone."""
    of_kind("posterior", posterior, isinstance(posterior, Posterior), "what vb.fit gives back")
    guide, target = posterior.guide, posterior.target
    if isinstance(posterior.report, Unjudged):
        raise TypeError(f"{posterior.report.why}: fit another guide first, vb.fit(model).")
    if program_of(guide) is not None:
        raise ModelError(
            f"a {type(guide).__name__} holds a program of the user's, of which chains for these data say nothing.",
            mend="Refine a fit of the same model with guide='auto'.",
        )
    if target.sources:
        raise ModelError(
            f"the data are read in parts ({', '.join(target.sources)}), and each step of a chain needs them all.",
            mend="Load them: np.asarray(...), and fit again.",
        )
    if not target.dim:
        raise ModelError(f"{target} has no latent sites, so there is nothing to draw.")


def _start(posterior: Posterior, target: Target, rng: np.random.Generator, chains: int) -> tuple[np.ndarray, Frame]:
    """Where the chains start, `(chains, dim)`, and the frame in which they move, by the posterior's best answer."""
    guide, phi, dim = posterior.guide, posterior.phi, target.dim
    if posterior.is_corrected:
        draws = posterior.report.draws  # pyright: ignore[reportAttributeAccessIssue] -- an unjudged one is not corrected
        all_z, weights, normal = draws.z.astype(np.float64), draws.weights, None
        z = all_z[draws.chosen(rng, DRAWS)]
    else:
        z = np.asarray(bound.weighed_draws(guide, phi, posterior.target, rng, DRAWS).z, np.float64)
        all_z, weights = z, np.full(len(z), 1 / len(z))
        normal = normal_of(guide, phi) if dim <= FULL_RANK_DIM else None
    if dim > FULL_RANK_DIM:
        loc = weights @ all_z
        frame = Frame(loc, np.sqrt(weights @ (all_z - loc) ** 2))
    else:
        around = Ellipsoid(*normal) if normal else Ellipsoid.around(all_z, weights)
        frame = Frame(around.loc, around.factor)
    # Spread out first, then as they are: beyond a wall of the density nothing can start.
    z = z[: TRIED * chains]
    places = np.concatenate([frame.loc + SPREAD * (z - frame.loc), z])
    log_p, gradient = evaluate(target, places)
    sound = np.flatnonzero(np.isfinite(log_p) & np.isfinite(gradient).all(axis=1))
    if len(sound) < chains:
        raise error_somewhere(target, z[0]) or ModelError(
            f"no chain can start: of {len(places)} places among the draws {len(sound)} have a finite density.",
            mend="See posterior.check() for what is wrong with the fit, and fit again.",
        )
    return places[sound[:chains]], frame


def _warn(refined: Posterior) -> None:
    """Say aloud what a user must not overlook."""
    report = refined.report
    if isinstance(report, ChainReport) and report.cut_short:
        warnings.warn(NotConvergedWarning(f"vb.refine: {report.status}."), stacklevel=3)
    elif report.verdict == "poor":
        why = "; ".join(report.reasons)
        warnings.warn(PoorFitWarning(f"the chains of vb.refine are poor: {why}. See posterior.check()."), stacklevel=3)
