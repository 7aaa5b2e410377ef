"""A posterior as an `xarray.DataTree` in the schema of ArviZ."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vbppl.core.errors import needed, of_kind, whole_number
from vbppl.core.keys import host_generator, raw_key
from vbppl.core.types import AnyArray, Seed
from vbppl.inference import bound
from vbppl.inference.solution import in_its_precision
from vbppl.model import predictive
from vbppl.model.arguments import named_arrays
from vbppl.model.labels.names import Label, texts
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import Report, Unjudged
from vbppl.posterior.weighted_draws import values_of
from vbppl.target.axes import Axes, axes_of
from vbppl.target.density import packed_params
from vbppl.target.plain import is_plain
from vbppl.target.target import model_of

MORE = ("log_likelihood", "log_prior", "posterior_predictive", "prior", "prior_predictive")
DRAWS = 1000
LEARNT = {"learnt": "by maximum marginal likelihood: one value, no draws"}
NO_CHAINS = "not a number: it tells whether chains agree, and these are independent draws"


def to_arviz(posterior: Posterior, groups: str | Sequence[str] = (), n: int | None = None, seed: Seed = 0) -> Any:
    """The posterior as an `xarray.DataTree` in the schema of ArviZ, whose functions and pictures take it as it is.

    >>> import arviz_stats, numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def towns(town, y):
    ...     mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    ...     with vb.plate("town", town):
    ...         alpha = vb.sample("alpha", dist.Normal(mu, 1.0))
    ...         vb.sample("y", dist.Normal(alpha, 0.5), obs=y)
    >>> tree = vb.to_arviz(vb.fit(towns(["Anoka", "Ramsey"], np.array([0.3, 0.9]))), "log_likelihood")
    >>> list(tree.children)
    ['posterior', 'sample_stats', 'observed_data', 'log_likelihood']
    >>> dict(tree.posterior.alpha.sizes), tree.posterior.town.values.tolist()
    ({'chain': 1, 'draw': 1000, 'town': 2}, ['Anoka', 'Ramsey'])
    >>> list(arviz_stats.summary(tree).index)
    ['mu', 'alpha[Anoka]', 'alpha[Ramsey]']

    Args:
      posterior: what `vb.fit` or `vb.refine` gave back.
      groups: what to compute besides: "log_likelihood", "log_prior", "posterior_predictive", "prior",
        "prior_predictive", several of them, or "all".
      n: how many draws; None for 1,000, and of weighted draws for no more than they are worth. Those of chains are
        always given whole.
      seed: of the draws, those of `posterior.sample(n, seed)`, and of what is predicted from them.

    Returns:
      a tree with the groups asked for and those that cost next to nothing: "posterior" (latent and deterministic sites,
      `(chain, draw, ...)`: one chain of independent draws, or the chains of `vb.refine`), "sample_stats" (`log_p` and
      `log_q` of each draw, in nats: the unnormalised log density of the posterior, and of what the draw comes from,
      in unconstrained space), "observed_data" and "constant_data" (arrays among the model's arguments; the first not of
      data that are read in parts), and "params", where the model learns some. Plates and `dims=` are dims, labels their
      coordinates; "/" in names becomes ".", and an argument that is called as a dim is, `county`, is the variable
      `county_data`.

      Where the guide speaks, `log_q` is its log density, and `loo_approximate_posterior` corrects by it. Draws that are
      weighed, or of chains, are the posterior's own, and theirs is `log_p`.

    Raises:
      ModuleNotFoundError: xarray is not installed.
      TypeError: it is no posterior, or a point.
      ValueError: a group has another name.
      ModelError: a group needs data that are read in parts, or there is no model.
    """
    of_kind("posterior", posterior, isinstance(posterior, Posterior), "what vb.fit gives back")
    asked = _asked(groups)
    if n is not None:
        whole_number("n", n)
    xarray = needed("xarray", "vb.to_arviz", "arviz")
    if isinstance(posterior.report, Unjudged):
        raise TypeError(f"{posterior.report.why}: fit another guide first, vb.fit(model).")
    drawn = _draws(posterior, n, seed)
    made = _Made(xarray, axes_of(posterior.target), drawn.chains)
    values = _values(posterior, drawn.z, seed)
    tree = {
        "posterior": made.group(values, {"draws": drawn.words}),
        "sample_stats": made.group({"log_p": drawn.log_p, "log_q": drawn.log_q}, {"r_hat": drawn.r_hat}),
    }
    if not is_plain(posterior.target.model):
        tree |= _data(posterior, made)
    if learnt := packed_params(posterior.target):
        arrays = {f"{at}.{name}" if name else at: x for at, p in learnt.items() for name, x in zip(p.names, p.learnt)}
        tree["params"] = made.dataset({name: np.asarray(x) for name, x in arrays.items()}, attrs=LEARNT)
    wanted = _computed(posterior, values, len(drawn.z), seed)
    for name in asked:
        found, own = wanted[name](), made
        if name == "log_likelihood":
            found, own = _by_row(posterior, made, found)
        tree[name] = own.group(found)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=_told(posterior)), **tree})


def _asked(groups: Any) -> Sequence[str]:
    found = (groups,) if isinstance(groups, str) else groups
    of_kind("groups", groups, isinstance(found, (list, tuple, set)), "names of groups, or 'all'")
    if found == ("all",):
        return MORE
    for name in found:
        if not isinstance(name, str) or name not in MORE:
            raise ValueError(f"groups must be among {', '.join(map(repr, MORE))}, or 'all', not {name!r:.80}.")
    return [name for name in MORE if name in found]


class _Drawn(NamedTuple):
    """Draws in unconstrained space, one chain after the other, and their log densities."""

    z: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    words: str
    chains: int = 1
    r_hat: str = NO_CHAINS


def _draws(posterior: Posterior, n: int | None, seed: Seed) -> _Drawn:
    """The best draws that there are: those of `posterior.sample`."""
    report, key = posterior.report, raw_key(seed)
    if not (posterior.is_corrected and isinstance(report, Report)):
        words = f"independent draws of a {type(posterior.guide).__name__} guide"
        return _Drawn(*_of_guide(posterior, n or DRAWS, host_generator(key, "posterior")), words)
    draws = report.draws
    if report.chains:
        words = f"{report.chains} chain{'s' * (report.chains > 1)} of NUTS"
        return _Drawn(
            draws.z, draws.log_p, draws.log_p, words, report.chains, "see summary: of chains that started apart"
        )
    count = n or max(min(DRAWS, int(draws.ess)), 1)
    at = draws.chosen(host_generator(key, "resample"), count)
    words = f"draws weighed by importance, each as often as it weighs; all are worth {draws.ess:,.0f}"
    return _Drawn(draws.z[at], draws.log_p[at], draws.log_p[at], words)


@in_its_precision
def _of_guide(posterior: Posterior, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of the guide, and the log densities of target and guide there."""
    found = bound.weighed_draws(posterior.guide, posterior.phi, posterior.target, rng, n)
    return found.z, found.log_p, found.log_q


@in_its_precision
def _values(posterior: Posterior, z: np.ndarray, seed: Seed) -> dict[str, Any]:
    """Of all sites at draws."""
    return posterior.target.complete(values_of(posterior.target, z), len(z), raw_key(seed))


class _Made(NamedTuple):
    """How groups are made: of draws, and of data."""

    xarray: Any
    axes: Axes
    chains: int

    def group(self, values: Mapping[str, AnyArray], attrs: Mapping[str, str] | None = None) -> Any:
        """A group of draws, `(draws, ...)` for each name."""
        shaped = {name: np.asarray(each) for name, each in values.items()}
        split = {name: each.reshape(self.chains, -1, *each.shape[1:]) for name, each in shaped.items()}
        return self.dataset(split, 2, attrs)

    def dataset(self, values: Mapping[str, np.ndarray], sample_dims: int = 0, attrs: Any = None) -> Any:
        """Arrays with the names of their axes, of which the first are `chain` and `draw`, and the labels along them."""
        found, coords = {}, {}
        for name, each in values.items():
            along = self.axes.along(name, each.shape[sample_dims:])
            dims = [*("chain", "draw")[:sample_dims], *(dim.replace("/", ".") for dim in along)]
            found[name.replace("/", ".")] = (dims, each)
            coords |= {dim.replace("/", "."): _coordinate(labels) for dim, labels in along.items()}
            coords |= {dim: np.arange(size) for dim, size in zip(dims[:sample_dims], each.shape)}
        # An argument may be called as a plate is, county; in a dataset that name is the coordinate's.
        found = {f"{name}_data" if name in self.axes.sizes else name: each for name, each in found.items()}
        said = {"inference_library": "vbppl", **(attrs or {})}
        return self.xarray.Dataset(found, coords, said)


def _coordinate(labels: Sequence[Label]) -> np.ndarray:
    """Labels as numbers or dates where all are, else as words."""
    kinds = {type(label) for label in labels}
    if all(issubclass(kind, (int, float)) for kind in kinds):
        return np.asarray(labels)
    if all(issubclass(kind, (datetime.date, np.datetime64)) for kind in kinds):
        return np.asarray(labels, "M8[ns]")
    return np.asarray(texts(labels))


def _data(posterior: Posterior, made: _Made) -> dict[str, Any]:
    """What was observed, and the other arrays among the model's arguments."""
    model, axes = model_of(posterior.target), made.axes
    observed = {} if model.sources else predictive.observed(model)
    held = {name: np.asarray(value) for name, value in named_arrays(model).items()}
    constant = {name: each for name, each in held.items() if not any(_same(each, y) for y in observed.values())}
    groups = {"observed_data": observed, "constant_data": constant}
    by_size = Axes({name: _guessed(axes, each.shape) for name, each in constant.items()}, axes.labels, axes.sizes)
    of = {"observed_data": made, "constant_data": made._replace(axes=by_size)}
    return {name: of[name].dataset(values) for name, values in groups.items() if values}


def _guessed(axes: Axes, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """For each axis of an argument the one dim of its length, if there is one: an argument has no plates around it."""
    found = [[name for name, size in axes.sizes.items() if size == length] for length in shape]
    return tuple(names[0] if len(names) == 1 and shape.count(n) == 1 else None for names, n in zip(found, shape))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _computed(
    posterior: Posterior, values: Mapping[str, AnyArray], n: int, seed: Seed
) -> dict[str, Callable[[], Mapping[str, AnyArray]]]:
    """How each of the further groups is computed, when it is asked for."""
    target = posterior.target
    observed, rest = target.layout.observed, {slot.name: values[slot.name] for slot in target.layout.slots}
    latent, params = rest | {name: values[name] for name in target.layout.summed}, packed_params(target)
    ahead: dict[str, AnyArray] = {}

    def prior(is_observed: bool) -> Mapping[str, AnyArray]:
        if not ahead:
            ahead.update(model_of(target).sample(n, seed, posterior.params))
        return {name: each for name, each in ahead.items() if (name in observed) == is_observed}

    def predicted() -> Mapping[str, AnyArray]:
        found = posterior.predict(n=n, seed=seed, draws=latent)
        return {name: each for name, each in found.items() if name in observed}

    return {
        "log_likelihood": lambda: predictive.log_likelihood(model_of(target), rest, params, target.parts(), True),
        "log_prior": lambda: predictive.log_prior(model_of(target), latent, params, target.parts()),
        "posterior_predictive": predicted,
        "prior": lambda: prior(False),
        "prior_predictive": lambda: prior(True),
    }


def _by_row(posterior: Posterior, made: _Made, found: Mapping[str, AnyArray]) -> tuple[Mapping[str, AnyArray], _Made]:
    """Log likelihoods without the axes along which discrete sites have been summed out, and the names of the others."""
    dims, squeezed = dict(made.axes.dims), {}
    for name, values in found.items():
        kept = predictive.axes_kept(values, model_of(posterior.target), name)
        dims[name] = tuple(dims[name][axis] for axis in kept)
        squeezed[name] = np.asarray(values).reshape(len(values), *(values.shape[1 + axis] for axis in kept))
    return squeezed, made._replace(axes=Axes(dims, made.axes.labels, made.axes.sizes))


def _told(posterior: Posterior) -> dict[str, Any]:
    """What is known of the whole."""
    report, status = posterior.report, posterior.status
    evidence = (
        {} if isinstance(report, Unjudged) else {"reasons": "; ".join(report.reasons), "pareto_k": report.pareto_k}
    )
    return {
        "inference_library": "vbppl",
        "inference_library_version": sys.modules[__name__.partition(".")[0]].__version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": str(posterior.target),
        "guide": type(posterior.guide).__name__,
        "verdict": report.verdict,
        "elbo": posterior.elbo.value,
        "log_evidence": getattr(report, "log_evidence", np.nan),
        "sampling_time": status.seconds,
        **evidence,
    }
