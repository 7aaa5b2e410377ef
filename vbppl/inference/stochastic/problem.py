"""What a stochastic solver needs, as one value, and how it is made ready."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.types import PathLike, PyTree
from vbppl.data.prefetch import Prefetcher
from vbppl.data.shuffle import Minibatches
from vbppl.guides import networks
from vbppl.guides.base import Guide, Start
from vbppl.guides.noise import Nothing
from vbppl.guides.structured import beside_rows
from vbppl.inference.initialization import mode_above
from vbppl.inference.stochastic import minibatch
from vbppl.inference.stochastic.early_stopping import EarlyStopping, StopRule
from vbppl.inference.stochastic.objectives import InTraining, Objective
from vbppl.inference.stochastic.settings import Stochastic
from vbppl.target.density import initial_states
from vbppl.target.target import Target, with_data


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is to be maximised, whence, and how.

    Attributes:
      target: the density; its params are the first ones.
      guide: the family.
      phi: its parameters to start from, on the host.
      settings: what was asked for.
      objective: what is maximised.
      raw_key: of the whole fit.
      minibatches: which rows are shown; all by default.
      prefetcher: reads the rows of data that stay on the host; None where there are none.
      objective_state: what the objective is handed at the first step.
      stop_rules: each looks after each chunk of steps; the first that says so ends the fit.
      checkpoint: a file that is written between chunks; if there is one, the fit goes on from it.
    """

    target: Target
    guide: Guide
    phi: PyTree
    settings: Stochastic
    objective: Objective
    raw_key: np.ndarray
    minibatches: Minibatches = Minibatches()
    prefetcher: Prefetcher | None = None
    objective_state: PyTree = ()
    stop_rules: tuple[StopRule, ...] = ()
    checkpoint: PathLike | None = None


def prepare(
    target: Target,
    guide: Guide,
    settings: Stochastic,
    minibatches: Minibatches,
    start: Start | Callable[[Target], Start],
    raw_key: np.ndarray,
    checkpoint: PathLike | None = None,
    warmed: Callable[[PyTree, Guide], PyTree] = lambda phi, guide: phi,
) -> Problem:
    """Make ready what the solver needs, after checking that batches add up and that the guide fits the target.

    Args:
      target: with the lengths of the rows shown; see `minibatch.resolve_sources`.
      guide: the family. Mean field becomes `Structured` beside plates whose rows are shown in part.
      settings: what was asked for.
      minibatches: which rows are shown.
      start: where to begin; or what finds it, on the density of some rows that stand for all.
      raw_key: of the whole fit.
      checkpoint: see `Problem`.
      warmed: what a warm start makes of the guide's own first parameters, such as those of a posterior.

    Raises:
      ModelError: batches do not add up, the guide does not fit the target, or no start has a finite density.
    """
    guide = beside_rows(guide, target, [name for name, _, _ in minibatches.plates])
    if callable(start):
        found = start(minibatch.few_rows(target, minibatches, raw_key))
        start = found._replace(loc=minibatch.at_rest(target, minibatches, found.loc))
    start = start._replace(loc=np.asarray(start.loc, jnp.result_type(float)))
    minibatch.check_batches(target, minibatches, start.loc, raw_key)
    if isinstance(guide.noise(target), Nothing):  # a point, which the steps find from nearby only
        start = start._replace(loc=mode_above(target, start.loc, start.generator("shakes")))
    # A posterior's parameters are warm; its noise and its optimizer's moments are not taken along.
    phi = jax.tree.map(np.asarray, warmed(guide.init(target, start), guide))
    objective, objective_state = settings.chosen_objective(), ()
    if target.layout.has_training_mode or networks.has_training_mode(guide):
        objective = InTraining(objective, raw_key)
        objective_state = {"guide": networks.first_states(guide), "model": initial_states(target)}
    rules, validation = (), settings.validation
    if validation is not None:
        beside, other = networks.with_data(guide, validation.guide), with_data(target, validation.model)
        first = {"guide": phi, "model": target.params}
        rules = (EarlyStopping(beside, other, validation, raw_key, first, objective_state, objective.warm_up_steps),)
    prefetcher = minibatch.prefetcher_of(target, minibatches, raw_key)
    given = target, guide, phi, settings, objective, raw_key, minibatches
    return Problem(*given, prefetcher, objective_state, rules, checkpoint)
