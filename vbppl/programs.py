"""The waist's second face: a guide written as a program, beside the model's density.

A guide program is run like a model, with its own params. Where a latent site has a closed-form
Kullback-Leibler divergence between its distributions in guide and model, the bound uses it:

    E_q[log p - log q] = E_q[log p(y | x)] - E_q[KL(q(x | before) || p(x | before))],

which is right only if nothing that the model's prior of the site depends on is drawn after the
site in the guide; the order of the statements is checked for that, and where it fails the site's
`log p - log q` is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.aliases import Array
from vbppl.distributions.kl import has_kl, kl_divergence
from vbppl.errors import ModelError
from vbppl.language import Interpreter, Site
from vbppl.models import Model
from vbppl.target import Target, with_params, with_rows
from vbppl.trace import from_prior, given, log_density, required, values_of


def bound(program: Model, phi: Any, target: Target, key: Array, rows: Mapping[str, Array]) -> Array:
    """One draw's term of the evidence lower bound, a scalar, with closed forms where they hold."""
    q, p = _side_by_side(program, phi, phi, target, key, rows)
    closed = _closed_forms(q, p)
    terms = []
    for name, site in p.items():
        if name in closed:
            terms.append(-jnp.sum(kl_divergence(q[name].dist, site.dist)) * site.scale)
        elif site.kind in ("sample", "factor"):
            terms.append(log_density(site) - (log_density(q[name]) if name in q else 0.0))
    return sum(terms, jnp.zeros(()))


def log_weight(
    program: Model, phi: Any, density_phi: Any, target: Target, key: Array, rows: Mapping[str, Array]
) -> Array:
    """`log p(x) - log q(x)` at one draw made with `phi`, where `q` is at `density_phi`: a scalar."""
    q, p = _side_by_side(program, phi, density_phi, target, key, rows)
    return sum((log_density(s) for s in p.values()), jnp.zeros(())) - sum(log_density(s) for s in q.values())


def draw(program: Model, phi: Any, target: Target, key: Array) -> dict[str, Array]:
    """One draw of all latent and deterministic sites of the model."""
    q = program.trace(_reads_params(phi, {}, from_prior(key)))
    p = target.model.trace(given(values_of(q), _reads_params(target.params, {}, required)))
    return values_of({name: site for name, site in p.items() if not site.observed})


def log_prob(program: Model, phi: Any, values: Mapping[str, Any]) -> Array:
    """The guide's log density at `values`, a scalar."""
    q = program.trace(given(values, _reads_params(phi, {}, required)))
    return sum((log_density(site) for site in q.values()), jnp.zeros(()))


def param_values(program: Model, phi: Any) -> dict[str, Any]:
    """The guide's params on their supports, shaped like their `init`."""
    return _param_values(program, phi)


@jax.jit
def _param_values(program: Model, phi: Any) -> dict[str, Any]:
    sites = program.trace(_reads_params(phi, {}, from_prior(jax.random.key(0))))
    return {site.name: site.value for site in sites.values() if site.kind == "param"}


def check(program: Model, target: Target, sites: Mapping[str, Site]) -> None:
    """The guide must sample exactly the model's latent sites, each with the model's shape."""
    latent = {slot.name: slot.shape for slot in target.layout.slots}
    drawn = {s.name: s.shape for s in sites.values() if s.kind == "sample" and not s.observed}
    for name in (*latent, *drawn):
        if latent.get(name) != drawn.get(name):
            names = dict.fromkeys((*latent, *drawn))
            rows = (f"{n}: model {latent.get(n, 'has none')}, guide {drawn.get(n, 'has none')}" for n in names)
            raise ModelError(
                "model and guide disagree about this latent site.",
                site=name,
                details="\n".join(rows),
                mend="Sample each latent site of the model once in the guide, under the same name and shape.",
            )
        if not sites[name].dist.has_rsample:
            raise ModelError(
                f"draws of {type(sites[name].dist).__name__} are not differentiable in its parameters.",
                site=name,
                mend="Use a distribution whose draws are, such as a Normal or a transformed Normal, in the guide.",
            )


def _side_by_side(
    program: Model, phi: Any, density_phi: Any, target: Target, key: Array, rows: Mapping[str, Array]
) -> tuple[dict[str, Site], dict[str, Site]]:
    """The latent sites of one guide run, and the model's sites at the same values and rows."""
    q = program.trace(_reads_params(phi, rows, from_prior(key)))
    values = {name: site.value for name, site in q.items() if site.kind == "sample"}
    if density_phi is not phi:
        q = program.trace(given(values, _reads_params(density_phi, rows, required)))
    p = target.model.trace(given(values, _reads_params(target.params, rows, required)))
    return {name: site for name, site in q.items() if site.kind == "sample"}, p


def _closed_forms(q: Mapping[str, Site], p: Mapping[str, Site]) -> set[str]:
    """The sites whose divergence may stand in closed form: see the head of this file."""
    drawn, latent, closed = list(q), [name for name in p if name in q], set()
    for name in latent:
        parents_may_be = latent[: latent.index(name)]
        if all(drawn.index(parent) < drawn.index(name) for parent in parents_may_be):
            if has_kl(q[name].dist, p[name].dist) and q[name].frames == p[name].frames:
                closed.add(name)
    return closed


def _reads_params(params: Mapping[str, Any], rows: Mapping[str, Array], interpreter: Interpreter) -> Interpreter:
    def interpret(site: Site) -> Site:
        if site.kind == "param":
            return with_params(site, params[site.name])
        return with_rows(site, rows) if site.kind == "plate" else interpreter(site)

    return interpret
