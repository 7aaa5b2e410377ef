"""A run of a model whose discrete latent sites are summed out.

The run is made once. Each discrete site has one value in all rows of its plates, and JAX's `vmap` takes all its values
side by side; only what depends on the site is computed more than once. So the density of each statement is a table: of
the values of the sites that it depends on, in each row of its plates. `elimination` sums the sites out of the product
of all tables, and what is left stands in the place of the first of them: the log of the sum in each row.

That holds where a row looks at no other row of a discrete site, as plates mean it: `mixed_rows` finds out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.keys import named
from vbppl.core.types import Array
from vbppl.model.control_flow.hidden import Counted
from vbppl.model.enumeration import elimination, in_scans
from vbppl.model.enumeration.checks import check, plates_of, variables_of
from vbppl.model.enumeration.elimination import Eliminated, Factor, Variable, eliminate
from vbppl.model.enumeration.support import Support
from vbppl.model.enumeration.tables import Tabulated
from vbppl.model.handlers import at_point, at_site, given, log_probs, parts_of
from vbppl.model.primitives import Handler, Site
from vbppl.model.shapes import Frame

SAME = 1e-3  # of a log density: what rounding may change

# A run under a changed handler: its sites, and what else it leaves, a pytree of arrays.
Once = Callable[[Callable[[Handler], Handler]], tuple[dict[str, Site], Any]]


def summed_out(once: Once, names: Sequence[str]) -> tuple[dict[str, Site], Any]:
    """The sites of one run in which the discrete sites `names` are summed out, and what else it leaves.

    For each set of discrete sites that meet, a factor under the name of the first: the log of the sum, in each row of
    the plates that they share. What was observed given them is a part of it; a latent site whose density is, keeps its
    value. Deterministic sites that depend on them are left out.

    Raises:
      ModelError: a statement outside of a plate depends on a discrete site inside; plates cross, or show a part of
        their rows, inside a sum; a table would be too large; a support depends on a discrete site.
    """
    return _Run.of(once, names).sites() if names else once(lambda handler: handler)


def marginal(model: Any, handler: Callable[..., Handler], names: Sequence[str]) -> dict[str, Site]:
    """The sites of a run of a `Model` in which `names` are summed out.

    Args:
      model: whose `trace` it is.
      handler: of a run, given the handler that answers for the sites which are summed out.
    """
    return summed_out(lambda summing: (model.trace(handler(summing)), ()), names)[0]


def drawn(once: Once, names: Sequence[str], key: Array) -> dict[str, Array]:
    """The values of the discrete sites `names`, drawn jointly given the rest of a run."""
    run = _Run.of(once, names)
    indices, plates = elimination.draw(run.whole, key), {v.name: v.plates for v in run.variables}
    found = {name: support.values(indices[name], plates[name]) for name, support in run.supports.items()}
    return found | in_scans.drawn(once, [name for name in names if name not in found], key, found)


def probabilities(once: Once, name: str, names: Sequence[str]) -> Array:
    """The probability of each value that a number of the discrete site `name` can have, `(*shape, values)`."""
    run = _Run.of(once, names, smoothed=True)
    rows = {frame.name: frame.length for frame in run.frames.values()}
    if name not in run.supports:
        told = {head: run.told(head).get("smoothed", {}) for head in run.kept}
        head = next((head for head, each in told.items() if name in each), None)
        if head is None or head in run.factors_by_site:
            mend = "Estimate them from draws: posterior.sample(n) has the site."
            raise ModelError("its scan depends on discrete sites outside, which are summed too.", site=name, mend=mend)
        return told[head][name]
    found = elimination.probabilities(run.factors, run.variables, rows)[name]
    return run.supports[name].by_number(found, next(v.plates for v in run.variables if v.name == name))


def likelihoods(once: Once, names: Sequence[str]) -> dict[str, Array]:
    """The log density of each observed site with the discrete sites `names` summed out, in each row of these.

    In the site's batch shape, with 1 along the plates inside of those of its discrete sites.
    Where several observed sites depend on the same discrete ones, each given those before it: the sum over the sites
    is that of all.
    """
    run, found = _Run.of(once, names), {}
    factors, depths = dict(run.factors_by_site), {name: each.ndim for name, each in run.log_probs.items()}
    observed = [name for name, site in run.kept.items() if site.kind == "sample" and site.observed]
    for head in [name for name in factors if "likelihoods" in run.told(name)]:
        # A scan that sums out states of its own, given discrete sites outside: one table for each of its statements.
        del factors[head]
        tables = run.tables_in_scan(head)
        factors |= {name: factor for name, (factor, _) in tables.items() if factor.variables}
        depths |= {name: table.ndim for name, (_, table) in tables.items()}
        found |= {name: table for name, (factor, table) in tables.items() if name != head and not factor.variables}
        observed += [name for name, (factor, _) in tables.items() if name != head and factor.variables]
    met = [name for name in observed if name in factors]
    groups = dict(zip(run.whole.groups, run.whole.marginals))
    seen = [factor for name, factor in factors.items() if name not in met]
    before = run.by_group(seen, groups)
    for name in observed:
        if name not in met:
            found[name] = run.log_probs[name]
            continue
        seen = [*seen, factors[name]]
        after = run.by_group(seen, groups)
        own = factors[name].variables
        group = next(group for group in groups if own[0] in group)
        each = run.in_batch(after[group]._replace(table=after[group].table - before[group].table))
        found[name] = each.reshape((1,) * (depths[name] - len(own) - each.ndim) + each.shape)
        before = after
    for name in (name for name, site in run.kept.items() if site.kind == "factor" and name not in run.factors_by_site):
        found |= run.told(name).get("likelihoods", {})
    return found


def mixed_rows(once: Once, names: Sequence[str], key: Array) -> dict[str, Array]:
    """For each statement that depends on discrete sites whether its rows look at other rows of these.

    The sites get values at random, others in each row, and each row's density must be that of its table.
    """
    run, found = _Run.of(once, names), {}
    rows = {frame.name: frame.length for frame in run.frames.values()}
    indices = {
        v.name: jax.random.randint(named(key, v.name), [rows[plate] for plate in v.plates], 0, v.size)
        for v in run.variables
    }
    around = {v.name: v.plates for v in run.variables}
    values = {name: support.values(indices[name], around[name]) for name, support in run.supports.items()}
    sites, _ = once(lambda handler: given(values, handler))
    for name, factor in run.factors_by_site.items():
        if sites[name].kind != run.kept[name].kind:  # a scan that sums out states of its own
            continue
        told = elimination.at_indices(factor, {v: (around[v], indices[v]) for v in factor.variables})
        own = _factor(_log_probs(sites[name], {}, {}), run.kept[name], (), list(run.frames)).table
        apart = jnp.abs(own - told) > SAME * (1.0 + jnp.abs(told))
        found[name] = jnp.any(jnp.isfinite(told) & (apart | jnp.isneginf(own)))
    return found | in_scans.mixed_rows(once, names, key)


@functools.lru_cache(maxsize=256)
def independents(structure: Any, shapes: tuple[Any, ...], names: tuple[str, ...], dtype: Any) -> frozenset[str]:
    """The sites of a model that depend on none of the discrete sites `names`, which are checked: they can be summed."""
    del dtype  # programs of one precision are not those of another
    found: set[str] = set()

    def run(leaves: Any) -> list[Array]:
        model = jax.tree.unflatten(structure, leaves)
        made = _Run.of(lambda summing: (model.trace(summing(at_point(0.0))), ()), names)
        made.sites()
        found.update(set(made.kept) - set(made.dependents))
        return [factor.table for factor in made.whole.marginals]

    jax.eval_shape(run, shapes)
    return frozenset(found)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One run with a table for each statement that depends on a discrete site.

    Attributes:
      kept: the sites without their numbers.
      numbers: of the sites, those that do not depend on a discrete one.
      log_probs: the log densities, in the batch shape; of statements that depend on discrete sites, all values first.
      factors_by_site: the tables of these.
      more: what else the run has left.
      supports: of the discrete sites.
      frames: each plate by its name.
      dependents: the sites that depend on discrete ones.
      names: of the discrete sites.
      depends: the set of discrete sites that each of `numbers` depends on, as the bits of an integer.
    """

    kept: dict[str, Site]
    numbers: dict[str, Any]
    log_probs: dict[str, Array]
    factors_by_site: dict[str, Factor]
    more: Any
    supports: dict[str, Support]
    frames: dict[str, Frame]
    dependents: tuple[str, ...]
    names: Sequence[str]
    depends: dict[str, Any]

    @classmethod
    def of(cls, once: Once, names: Sequence[str], smoothed: bool = False) -> _Run:
        """Run once, at all values of the discrete sites `names`."""
        kept: dict[str, Site] = {}
        supports: dict[str, Support] = {}

        def run(indices: dict[str, Array]) -> Any:
            def summing(handler: Handler) -> Handler:
                in_scan = in_scans.hiding(names, handler, smoothed=smoothed)

                def interpret(site: Site) -> Site:
                    if site.step is not None or site.name not in indices or site.kind != "sample":
                        return in_scan(site)
                    if site.value is not None:
                        return handler(site)
                    support = supports[site.name] = Support.of(site)
                    return dataclasses.replace(site, value=support.value(indices[site.name]))

                return interpret

            sites, more = once(summing)
            kept.update(
                {
                    name: dataclasses.replace(s, value=None, dist=None, constraint=None, told=None, step=None)
                    for name, s in sites.items()
                }
            )
            densities = {
                n: _log_probs(s, indices, supports) for n, s in sites.items() if s.kind in ("sample", "factor")
            }
            return densities, {name: _numbers(site, indices) for name, site in sites.items()}, more

        table = Tabulated.of(run, names)
        check(table, kept, supports)
        # A site in a scan, which sums it out itself, is no argument of anything.
        sizes = {name: supports[name].count if name in supports else 1 for name in names}
        log_probs, numbers, more = table.at(sizes)
        on, of_numbers, _ = table.depends
        frames = plates_of(kept.values())
        order = list(frames)
        factors = {
            name: _factor(log_probs[name], kept[name], [n for at, n in enumerate(names) if bits >> at & 1], order)
            for name, bits in on.items()
            if bits
        }
        moved = tuple(name for name in kept if on.get(name) or any(jax.tree.leaves(of_numbers[name])))
        moved += tuple(name for name, site in kept.items() if site.kind == "sample" and _is_counted(numbers[name]))
        return cls(kept, numbers, log_probs, factors, more, supports, frames, moved, names, of_numbers)

    def told(self, name: str) -> dict[str, Any]:
        """What a scan has told of the states that it sums out, under the name of the first of them."""
        return self.numbers[name] if self.kept[name].kind == "factor" else {}

    def tables_in_scan(self, head: str) -> dict[str, tuple[Factor, Array]]:
        """What each observed statement of a scan adds, and under the name `head` what is there without any."""
        told, depends = self.told(head), self.depends[head]
        tables = {head: told["unobserved"], **told["likelihoods"]}
        bits = {head: depends["unobserved"], **depends["likelihoods"]}
        met = {name: [n for at, n in enumerate(self.names) if bits[name] >> at & 1] for name in tables}
        order = list(self.frames)
        return {name: (_factor(each, self.kept[head], met[name], order), each) for name, each in tables.items()}

    @property
    def factors(self) -> list[Factor]:
        """All tables."""
        return list(self.factors_by_site.values())

    @property
    def variables(self) -> list[Variable]:
        """The discrete sites."""
        return variables_of(self.kept, self.supports)

    @functools.cached_property
    def whole(self) -> Eliminated:
        """All tables, with all discrete sites summed out."""
        return self.eliminated(self.factors)

    def eliminated(self, factors: Sequence[Factor]) -> Eliminated:
        """Some tables, with the discrete sites summed out."""
        return eliminate(factors, self.variables, self._summed_rows)

    def _summed_rows(self, factor: Factor, plate: str, variable: str) -> Array:
        frame = self.frames[plate]
        if frame.length != frame.size:
            raise ModelError(
                f"plate '{plate}' shows {frame.length} of its {frame.size} rows, but '{variable}' is summed out over "
                "all of them together: of some rows alone there is no unbiased estimate.",
                site=variable,
                mend=f"Show all rows of '{plate}' (no batch_size or subsample_size for it), and subsample a plate "
                f"around '{variable}', if there is one.",
            )
        return jnp.sum(factor.table, axis=len(factor.variables) + factor.plates.index(plate))

    def sites(self) -> tuple[dict[str, Site], Any]:
        """What is left of the sites: see `summed_out`."""
        found, whole = {}, self.whole
        heads = {group[0]: marginal for group, marginal in zip(whole.groups, whole.marginals)}
        for name, site in self.kept.items():
            if name in heads:
                frames = tuple(self.frames[plate] for plate in self._by_dim(heads[name].plates))
                found[name] = Site("factor", name, self.in_batch(heads[name]), observed=True, frames=frames)
            elif name in self.supports:
                continue
            elif name in self.factors_by_site:
                if site.kind == "sample" and not site.observed:
                    value, dist, told = self.numbers[name]
                    counted = Counted(tuple(dist.batch_shape), tuple(dist.event_shape))
                    found[name] = dataclasses.replace(site, value=value, dist=counted, told=told)
            elif site.kind == "factor" or (site.kind == "sample" and site.observed):
                found[name] = Site("factor", name, self.log_probs[name], observed=True, frames=site.frames)
            elif site.kind == "sample":
                value, dist, told = self.numbers[name]
                found[name] = dataclasses.replace(site, value=value, dist=dist, told=told)
            elif site.kind in ("param", "mutable"):
                found[name] = dataclasses.replace(site, value=self.numbers[name].made())
            elif name not in self.dependents:
                found[name] = dataclasses.replace(site, value=self.numbers[name])
        return found, self.more

    def in_batch(self, marginal: Factor) -> Array:
        """A table without variables in the batch shape of a site in its plates."""
        order = self._by_dim(marginal.plates)
        table = jnp.transpose(marginal.table, [marginal.plates.index(plate) for plate in order])
        dims = [self.frames[plate].dim for plate in order]
        shape = dict(zip(dims, table.shape))
        return table.reshape([shape.get(dim, 1) for dim in range(min(dims, default=0), 0)])

    def _by_dim(self, plates: Sequence[str]) -> list[str]:
        return sorted(plates, key=lambda plate: self.frames[plate].dim)

    def by_group(
        self, factors: Sequence[Factor], groups: Mapping[tuple[str, ...], Factor]
    ) -> dict[tuple[str, ...], Factor]:
        """For each group of discrete sites the log of the sum of some tables, in the rows of the group's own result."""
        found, totals = self.eliminated(factors), {}
        for group, whole in groups.items():
            parts = [m for met, m in zip(found.groups, found.marginals) if set(met) <= set(group)]
            # Fewer tables couple fewer rows: what is known in more rows than the whole is summed along them.
            tables = [_along(part, whole.plates) for part in parts]
            totals[group] = whole._replace(table=sum(tables, jnp.zeros(whole.table.shape)))
        return totals


def _along(part: Factor, plates: Sequence[str]) -> Array:
    others = tuple(axis for axis, plate in enumerate(part.plates) if plate not in plates)
    return elimination.aligned(
        Factor((), tuple(p for p in part.plates if p in plates), jnp.sum(part.table, axis=others)), (), plates
    )


def _log_probs(site: Site, indices: Mapping[str, Array], supports: Mapping[str, Support]) -> Array:
    """The log density of a statement in its batch shape; minus infinity where a discrete site has no such value."""
    with at_site(site):
        found = log_probs(site)
    if site.kind == "factor":
        return jnp.asarray(found)
    found = jnp.broadcast_to(found, tuple(site.dist.batch_shape))
    if site.name in supports and (inside := supports[site.name].is_inside(indices[site.name])) is not True:
        events = tuple(range(found.ndim, jnp.ndim(inside)))
        found = jnp.where(jnp.all(inside, axis=events), found, -jnp.inf)
    return found


def _numbers(site: Site, indices: Mapping[str, Array]) -> Any:
    """What of a site others may need, as a pytree of arrays."""
    if site.kind == "sample":
        return () if site.observed or site.name in indices else (site.value, site.dist, site.told)
    if site.kind == "factor":
        return site.told or {}
    if site.kind == "deterministic":
        return jax.tree.map(jnp.asarray, site.value)
    return parts_of(site) if site.kind in ("param", "mutable") else ()


def _factor(table: Array, site: Site, variables: Sequence[str], plates: Sequence[str]) -> Factor:
    """The table of a statement, with an axis for each of its plates, in the order of all, and no others."""
    axes = {frame.name: table.ndim + frame.dim for frame in site.frames}
    mine = [plate for plate in plates if plate in axes]
    others = tuple(axis for axis in range(len(variables), table.ndim) if axis not in axes.values())
    left = [axis for axis in range(table.ndim) if axis not in others]
    order = [*range(len(variables)), *(left.index(axes[plate]) for plate in mine)]
    return Factor(tuple(variables), tuple(mine), jnp.transpose(jnp.sum(table, axis=others), order))


def _is_counted(numbers: Any) -> bool:
    return len(numbers) > 1 and isinstance(numbers[1], Counted)
