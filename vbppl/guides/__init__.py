"""Families of distributions that a fit chooses from: a guide holds choices, its parameters `phi` come from outside.

A family is two formulas in unconstrained space, `z = transform(phi, noise)` and `log_prob(phi, z)`; draws, bound and
all that is asked of a posterior follow. What a guide knows better it says: an entropy in closed form (Gaussian),
draws on the supports (program), rows of its own (structured, amortized).

In order:

- `noise.py`: what makes draws random, as a value: normals, keys, nothing.
- `base.py`: the protocol, `Guide`; where a fit begins, `Start`; what is drawn, `Draws`; guides that weigh rows.
- `gaussian.py`: mean field and full rank; Laplace and Pathfinder are full rank with another solver.
- `low_rank.py`: a diagonal and a few directions.
- `mixture.py`: several Gaussians: of modes, of widths, of parts.
- `point.py`: the mode alone.
- `structured.py`: a Gaussian for what rows share, and normals for the rows' own.
- `amortized.py`: the same, whose rows are read by an encoder.
- `program.py`: a guide written as a program.
- `networks.py`: the networks inside guides: their modes, states, values, and other data.
- `layers/`: bijections that bend the draws of any flat guide.
- `copula.py`: a Gaussian with bent margins.

To add one: a file with a `@pytree` class that has `init`, `transform` and `log_prob` (or `draw`), and its name in the
list of `tests/guides/test_protocol.py`, which holds it to the whole contract.
"""

from vbppl.guides.copula import Copula
from vbppl.guides.layers.conditional_laplace import ConditionalLaplace
from vbppl.guides.layers.conditionally_structured import ConditionallyStructured
from vbppl.guides.layers.flow import Flow
from vbppl.guides.mixture import Mixture
from vbppl.guides.structured import Structured

# Beside those that the root lists.
__all__ = ["ConditionalLaplace", "ConditionallyStructured", "Copula", "Flow", "Mixture", "Structured"]
