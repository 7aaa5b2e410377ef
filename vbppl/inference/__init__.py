"""Solvers: how a guide is fitted to a target, and what they all give back.

A solver is a function from a problem, which holds all it needs, and a watch, which may cut it short, to one `Solution`
for each fit. Inside it is a generator of states, frozen values that say where the fit stands, so that an interrupt, a
deadline and a checkpoint are the same thing to all of them: the last whole state.

In order:

- `solution`: what a solver gives back, and what it tells on the way.
- `bound`: the bound and draws from fresh noise, for any guide: every choice between fits is made by it.
- `redrawn`: points of which each block was drawn several times given the hyperparameters, and what they weigh.
- `initialization`: where a fit begins.
- `deterministic`: on fixed draws to the end, or from the path to a mode.
- `stochastic`: by noisy steps: minibatches, learnt params, networks.
- `sampling`: Markov chains from where a fit ended.

To add a solver, see the page of `vbppl/fitting`; to add an objective or a stop rule, that of the last folder.
"""

from vbppl.inference.solution import Progress, Status
from vbppl.inference.stochastic.early_stopping import Validation
from vbppl.inference.stochastic.objectives import Elbo, ImportanceWeighted

# What a fit by noisy steps is told, what it ends with and says on the way.
__all__ = ["Elbo", "ImportanceWeighted", "Progress", "Status", "Validation"]
