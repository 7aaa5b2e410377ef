"""The networks inside guides, and what other data mean for them: their modes, states, values and sizes.

Two guides hold a program of their own: a guide program is one, an amortised guide has an encoder. Others have none,
and for them these functions say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import Array, PyTree
from vbppl.data.source import Source
from vbppl.distributions.families.real import Normal
from vbppl.guides.amortized import Amortized
from vbppl.guides.base import Guide, averaged
from vbppl.guides.program import ProgramGuide, over_keys
from vbppl.guides.structured import RowGuide
from vbppl.target import guide_program
from vbppl.target.density import made_params
from vbppl.target.target import Target, model_of


class Transfer(NamedTuple):
    """Draws of latent sites for a model that may have other data, by the site's name, `(draws, ...)` each.

    Attributes:
      values: on the supports.
      z: in unconstrained space.
      anew: the sites that were read off the model's own data, so that they tell something new.
    """

    values: dict[str, Array]
    z: Mapping[str, Array] = MappingProxyType({})
    anew: tuple[str, ...] = ()


def program_of(guide: Guide) -> Any:
    """The program inside the guide; None where there is none."""
    if isinstance(guide, ProgramGuide):
        return guide.program
    return guide.params if isinstance(guide, Amortized) else None


def has_training_mode(guide: Guide) -> bool:
    """Whether the guide has modules that behave otherwise in training than in evaluation."""
    program = program_of(guide)
    return program is not None and program.has_training_mode


def first_states(guide: Guide) -> dict[str, Any]:
    """What the first step finds in the guide's own modules."""
    program = program_of(guide)
    return {} if program is None else program.initial_states()


def in_training(guide: Any, states: Mapping[str, Any], raw_key: Array | None) -> Guide:
    """The guide with `states` in its modules, in training mode unless `raw_key` is None."""
    program = program_of(guide)
    if program is None:
        return guide
    field = "program" if isinstance(guide, ProgramGuide) else "params"
    return dataclasses.replace(guide, **{field: program.in_training(states, raw_key)})


def next_states(guide: Guide, phi: PyTree, noise: Array, target: Target) -> dict[str, dict[str, Any]]:
    """What runs at the draws leave in the modules of guide and model: floats averaged over the draws."""
    if isinstance(guide, ProgramGuide):
        one = lambda key: guide_program.next_states(guide.program, phi, target, key)  # noqa: E731
        return averaged(over_keys(noise, one))
    shown, z = isinstance(guide, RowGuide), guide.draw(phi, noise, target).z
    model = averaged(jax.vmap(lambda one: target.run(one, shown=shown).states)(z))
    if not isinstance(guide, Amortized):
        return {"guide": {}, "model": model}
    data = guide.shown(target, target.rows)
    encoder = guide_program.network_states(guide.params, phi, lambda params: guide.encoder(params, data))
    return {"guide": encoder, "model": model}


def param_values(guide: Guide, phi: PyTree) -> dict[str, Any]:
    """What is learnt beside the distribution of the latent sites, by name, shaped like its `init`."""
    program = program_of(guide)
    return {} if program is None else made_params(program, phi)


def network_size(guide: Guide, phi: PyTree) -> int:
    """How many numbers of `phi` every row passes through."""
    if program_of(guide) is None:
        return 0
    through = phi if isinstance(guide, ProgramGuide) else phi[guide_program.NETWORK]
    return sum(np.size(leaf) for leaf in jax.tree.leaves(through))


def with_data(guide: Guide, program: Any) -> Guide:
    """The guide at other data: a guide program applied to them. Others read the model's own data."""
    if isinstance(guide, ProgramGuide):
        return ProgramGuide(guide_program.reapplied(guide.program, program))
    if program is not None:
        raise TypeError(f"a {type(guide).__name__} guide reads the model's own data: leave guide out.")
    return guide


def encode(guide: Guide, phi: PyTree, data: Any) -> Normal:
    """What the encoder says of new rows, in unconstrained space: a Normal of batch shape `(rows, ...)`.

    Raises:
      TypeError: the guide has no encoder.
    """
    if not isinstance(guide, Amortized):
        raise TypeError(f"a {type(guide).__name__} guide has no encoder; fit with guide=vb.Amortized(...).")
    loc, scale = guide.encoded(phi, jax.tree.map(jnp.asarray, data))
    return Normal(loc, jnp.broadcast_to(scale, loc.shape))


def check_rows(guide: Guide, target: Target, rows: PyTree) -> None:
    """Refuse rows whose arrays are not like those that the guide's encoder reads of the model."""
    if not isinstance(guide, Amortized):
        return
    read = guide_program.read(model_of(target), guide.reads)
    read = read.unread((1,)) if isinstance(read, Source) else read
    known, given = (jax.tree.map(lambda leaf: ("rows", *jnp.shape(leaf)[1:]), each) for each in (read, rows))
    if known != given or not all(map(jnp.ndim, jax.tree.leaves(rows))):
        raise ModelError(
            "rows are not like those that the encoder has read.",
            details=f"read:  {known}\ngiven: {jax.tree.map(jnp.shape, rows)}".replace("'", ""),
            mend="Give the same arrays as in the fit, of any number of rows along the first axis.",
        )


def at_other_data(
    guide: Guide, phi: PyTree, target: Target, model: Any, rng: np.random.Generator, draws: int
) -> Transfer | None:
    """Draws for `model`, the fitted one or the same with other data, where the guide reads something off its data.

    None where it does not: what it says of the latent sites is then the same for all.
    """
    if isinstance(guide, Amortized):
        z = guide.apart(phi, target, rng, draws)
        loc, scale = _encoded(guide, phi, model)
        noise = rng.standard_normal((draws, *loc.shape)).astype(loc.dtype)
        return Transfer({}, z | {guide.site: loc + scale * noise}, (guide.site,))
    if isinstance(guide, ProgramGuide):
        again = guide_program.moved(guide.program, phi, target, model)
        if again is not None:
            values = _draw_alone(again, phi, guide.noise(target).independent(rng, draws))
            return Transfer(values, anew=tuple(s.name for s in target.layout.slots if s.plates))
    return None


@jax.jit
def _encoded(guide: Amortized, phi: PyTree, model: Any) -> tuple[Array, Array]:
    encoding = encode(guide, phi, guide_program.read(model, guide.reads))
    return jnp.asarray(encoding.loc), jnp.asarray(encoding.scale)


@jax.jit
def _draw_alone(program: Any, phi: PyTree, raw_keys: Array) -> dict[str, Array]:
    return over_keys(raw_keys, lambda key: guide_program.latent_values(program, phi, key, {}))
