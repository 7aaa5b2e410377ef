"""NumPyro's own models under vbppl: which run with their import lines changed, and are the densities equal?

The models are read from a clone of https://github.com/pyro-ppl/numpyro (a bare one will do), and nothing of it is
kept. `IMPORTS` is all that is changed in an example, beside `@vb.model`; a model whose sizes depend on the data's
numbers closes over the data, `vb.model(partial(model, *data))()`. What uses an effect handler, or lets an observation
broadcast, is also run in our words, by the rules of `InOurWords` and `broadcast`, and counted apart. Models of the
tests are caught where a test hands them to `SVI`, `MCMC` or an ELBO; there the names in a function's globals are
changed.

Densities are compared in float64 on the supports at twenty points, constrained from uniform ones in (-2, 2); NumPyro's
are `log_density`, with discrete sites summed out by funsor.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import re
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
from benchmarks import machine
from benchmarks.porting_data import CALLS, Call
from vbppl.model.handlers import from_prior
from vbppl.model.primitives import run_of
from vbppl.model.shapes import plated

POINTS, CLOSE = 20, 1e-5
FLAX = """
def flax_module(name, net, *xs, input_shape=None, apply_rng=(), mutable=(), **settings):
    xs = (jnp.ones(input_shape),) if input_shape else xs
    made = net.init(dict.fromkeys(("params", *apply_rng), jax.random.key(0)), *xs, **settings)
    made = {**made, "params": numpyro.param(name + "$params", made["params"])}
    keys = lambda rngs: {kind: key for kind, key in (rngs or {}).items() if key is not None}
    return lambda *xs, rngs=None, **settings: net.apply(made, *xs, rngs=keys(rngs), **settings)
"""
IMPORTS = (
    (r"import numpyro", "import vbppl as numpyro"),
    (r"import numpyro\.distributions as dist", "import vbppl.distributions as dist"),
    (r"from numpyro import (deterministic|plate|sample|subsample)", r"from vbppl import \1"),
    (r"from numpyro\.distributions import (\w+)", r"from vbppl.distributions import \1"),
    (r"from numpyro\.contrib\.control_flow import scan", "from vbppl import scan"),
    (
        r"from numpyro\.handlers import scope",
        "scope = lambda part, name: lambda *args: numpyro.sample(name, numpyro.model(part)(*args))",
    ),
    (r"from numpyro\.contrib\.module import flax_module", FLAX),
)
GUESTS = tuple(pair for pair in IMPORTS if "distributions" not in pair[0])
Table = tuple[tuple[str, str], ...]
# TFP's Bessel function, where TFP is not installed: the same for both.
WITHOUT_TFP = "from benchmarks.porting import bessel as tfp"
HANDLERS = {"mask", "condition", "reparam"}


class _Mean:
    """Where an example reads `tfp.math.bessel_ive`: the integral of exp(z (cos t - 1)) cos(v t) over (0, pi)."""

    @staticmethod
    def bessel_ive(v: Any, z: Any) -> Any:
        t = (jnp.arange(400) + 0.5) * jnp.pi / 400
        return jnp.mean(jnp.exp(z * (jnp.cos(t) - 1)) * jnp.cos(v[..., None] * t), axis=-1)


bessel = types.SimpleNamespace(math=_Mean)


class InOurWords(ast.NodeTransformer):
    """What a user writes in the place of a handler: a mask on each distribution, `model.condition`, nothing."""

    def __init__(self) -> None:
        self.masks: list[ast.expr] = []
        self.conditions: dict[str, str] = {}
        self.words: set[str] = set()

    def visit_With(self, node: ast.With) -> Any:
        """Without the handlers among its items."""
        rest, before = [], len(self.masks)
        for item in node.items:
            name, given = _handler(item.context_expr), getattr(item.context_expr, "keywords", [])
            if name is None:
                rest.append(item)
                continue
            self.words.add(name)
            if name == "mask":
                self.masks.append(given[0].value)
            elif name == "condition":
                self.conditions |= {k.value: ast.unparse(v) for k, v in zip(given[0].value.keys, given[0].value.values)}
        node.items, node.body = rest, [each for line in node.body for each in _listed(self.visit(line))]
        del self.masks[before:]
        return node if rest else node.body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        """Without a `reparam` above it."""
        before = len(node.decorator_list)
        node.decorator_list = [each for each in node.decorator_list if _handler(each) != "reparam"]
        self.words |= {"reparam"} if len(node.decorator_list) < before else set()
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        """With what masks stand around it, if it is a `sample`; `numpyro.module` is a `param`."""
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name in ("sample", "numpyro.sample"):
            for mask in self.masks:
                node.args[1] = ast.Call(ast.Attribute(node.args[1], "mask", ast.Load()), [mask], [])
        elif name == "numpyro.module":
            self.words.add("module")
            site, net, shape = map(ast.unparse, node.args)
            init = f"numpyro.param({site} + '$params', {net}[0](jax.random.key(0), {shape})[1])"
            return ast.parse(f"functools.partial({net}[1], {init})", mode="eval").body
        return node


def _handler(value: ast.expr) -> str | None:
    name = ast.unparse(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
    return name if name in HANDLERS else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def clone_text(clone: Path, path: str) -> str:
    """A file of the clone, which may have no work tree."""
    if (clone / path).exists():
        return (clone / path).read_text()
    return subprocess.check_output(["git", "-C", str(clone), "show", f"HEAD:{path}"], text=True)


def defined(source: str, where: str, imports: Table, words: InOurWords | None = None) -> dict[str, Any]:
    """What an example defines, but for what needs a package that is not here."""
    module = types.ModuleType(re.sub(r"\W", "_", where) + str(len(imports)))
    sys.modules[module.__name__] = module
    of = vars(module)
    of.update(jax=jax, jnp=jnp, functools=functools, np=np)
    tree = ast.parse(source)
    if imports and words is not None:
        tree = ast.fix_missing_locations(words.visit(tree))
    elif words is not None:  # NumPyro's without its reparametrisation, since ours is another's business
        tree = ast.fix_missing_locations(_Centred().visit(tree))
    for node in tree.body:
        if isinstance(node, ast.If | ast.Expr | ast.Assert):
            continue
        for line in _lines(node):
            text = changed(line, imports) if isinstance(node, ast.Import | ast.ImportFrom) else line
            try:
                exec(compile(text, where, "exec"), of)
            except ImportError:  # pictures, data, samplers
                if "tensorflow_probability" in text:
                    exec(WITHOUT_TFP, of)
    return of


class _Centred(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.decorator_list = [each for each in node.decorator_list if _handler(each) != "reparam"]
        return self.generic_visit(node)

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        node.items = [item for item in node.items if _handler(item.context_expr) != "reparam"]
        return node if node.items else node.body


def _lines(node: ast.stmt) -> Iterator[str]:
    """One import a line."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            whole = isinstance(node, ast.Import)
            yield ast.unparse(ast.Import([alias]) if whole else ast.ImportFrom(node.module, [alias], node.level))
    else:
        yield ast.unparse(node)


def changed(line: str, imports: Table) -> str:
    """The import line that a user writes in its place."""
    for theirs, ours in imports:
        if found := re.fullmatch(theirs, line):
            return found.expand(ours) if "\\" in ours else ours
    return line


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one model."""

    file: str
    name: str
    how: str  # "imports", or what it needs in our words
    error: float  # the worst of the points, relative
    reason: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether it ran and has the same density."""
        return self.error <= CLOSE

    def line(self) -> str:
        """Of the table."""
        said = "equal" if self.is_equal else self.reason or f"**differs, {self.error:.1e}**"
        return f"| {self.file} | {self.name} | {self.how} | {said} |"


def compared(theirs: Callable, ours: vb.Model, call: Call) -> float:
    """The worst relative difference of the two log densities."""
    target = vb.target(ours)
    z = np.random.default_rng(1).uniform(-2, 2, (3 * POINTS, target.dim))
    values = jax.jit(jax.vmap(target.constrain))(z)
    params = {}
    if ours.initial_params():
        run = ours.trace(from_prior(jax.random.key(0)))
        params = {name: site.value for name, site in run.items() if site.kind == "param"}
    density, found = their_density(theirs, call, {name: value[0] for name, value in values.items()}, params), []
    for k in range(len(z)):  # twenty points where NumPyro's density is finite: an ODE may leave its steps
        other = float(density({name: value[k] for name, value in values.items()}))
        found += [(k, other)] if np.isfinite(other) else []
        if len(found) == POINTS:
            break
    if len(found) < POINTS:
        raise ValueError(f"NumPyro's own density is finite at {len(found)} of {len(z)} points")
    at, other = map(np.array, zip(*found))
    some = {name: value[at] for name, value in values.items()}
    mine = np.broadcast_to(ours.log_joint(some), POINTS) if some else np.full(POINTS, float(ours.log_joint({})))
    return float(np.max(np.abs(mine - other) / np.maximum(1.0, np.abs(other))))


def their_density(model: Callable, call: Call, first: dict, params: Mapping[str, Any]) -> Callable[[dict], Any]:
    """NumPyro's log density of values, discrete sites summed out; `first` are some, since a prior may be improper."""
    from numpyro import handlers
    from numpyro.contrib.funsor import config_enumerate, enum
    from numpyro.contrib.funsor import log_density as summed
    from numpyro.infer.util import _guess_max_plate_nesting, log_density

    args, kwargs = call
    model = _plain(model)
    at_first = handlers.substitute(handlers.seed(model, 0), data={**params, **first})
    trace = handlers.trace(at_first).get_trace(*args, **kwargs)
    seeded = handlers.seed(model, 0)
    if any(site["type"] == "sample" and not site["is_observed"] and site["fn"].is_discrete for site in trace.values()):
        dims = _guess_max_plate_nesting(trace)
        seeded, log_density = enum(config_enumerate(seeded), first_available_dim=-dims - 1), summed
    params = {**params, **{name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}}
    return jax.jit(lambda values: log_density(seeded, args, kwargs, {**params, **values})[0])


def _plain(model: Callable) -> Callable:
    """The same where plates show all their rows, and sites are what they are called: no `reparam` does anything."""
    import numpyro

    init = numpyro.plate.__init__

    def shown(self: Any, name: str, size: int, subsample_size: Any = None, dim: int | None = None) -> None:
        init(self, name, size, None, dim)

    def run(*args: Any, **kwargs: Any) -> Any:
        idle = mock.patch.object(numpyro.handlers.reparam, "process_message", lambda self, message: None)
        with mock.patch.object(numpyro.plate, "__init__", shown), idle:
            return model(*args, **kwargs)

    return run


def applied(function: Callable, call: Call, raw: Call) -> tuple[vb.Model, Call, str]:
    """A model of arguments; where sizes depend on numbers, or an argument is no data, of none."""
    try:
        model = vb.model(function)(*call[0], **call[1])
        model.shapes()
    except vb.ModelError as error:
        if not re.search("no number yet|known before the run|computed from data|hashable", str(error)):
            raise
        model = vb.model(functools.partial(function, *raw[0], **raw[1]))()
        model.shapes()
        return model, raw, ", data closed over"
    return model, call, ""


def reason_of(error: BaseException) -> str:
    """What it says, in its first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}".replace("|", "/")


def _words_of(source: str, name: str) -> list[str]:
    """Which handlers and words of NumPyro's alone a function speaks."""
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == name)
    said = [ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(function) if isinstance(node, ast.Call)]
    return sorted({word for word in said if word in HANDLERS | {"module"}})


def broadcast(name: str, d: Any, obs: Any = None, **settings: Any) -> Any:
    """`vb.sample` as a user writes it where an observation was meant to broadcast."""
    if obs is not None:
        batch = jnp.broadcast_shapes(d.batch_shape, jnp.shape(obs)[: jnp.ndim(obs) - len(d.event_shape)])
        batch = plated(batch, run_of("sample").frames)
        d, obs = d.expand(batch), jnp.broadcast_to(obs, (*batch, *d.event_shape))
    return vb.sample(name, d, obs=obs, **settings)


def module(name: str, net: Any, shape: tuple[int, ...]) -> Callable:
    """What a user writes for `numpyro.module`."""
    return functools.partial(net[1], vb.param(name + "$params", net[0](jax.random.key(0), shape)[1]))


WORDS = {"sample": broadcast, "handlers": getattr(vb, "handlers", None), "module": module}
OURS = types.SimpleNamespace(**vars(vb) | WORDS)


def example(clone: Path, file: str, name: str) -> Row:
    """In float64; in float32 where the example itself cannot be run otherwise."""
    with jax.enable_x64(True):
        row = _example(clone, file, name)
    if "must have equal types" not in row.reason:
        return row
    with jax.enable_x64(False):
        row = _example(clone, file, name)
    return dataclasses.replace(row, how=row.how + ", float32")


def _example(clone: Path, file: str, name: str) -> Row:
    """By changed imports; else in our words too."""
    source = clone_text(clone, f"examples/{file}.py")
    try:
        theirs = defined(source, f"{file}.py", (), words := InOurWords())
        raw = CALLS[file][name](theirs)
        call = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, raw)
        try:
            ours = defined(source, f"{file}.py", IMPORTS)
            model, used, how = applied(ours[name], call, raw)
            how = "imports" + how
        except (vb.ModelError, AttributeError) as error:
            if "attributes are parameters" in str(error):  # a class below NumPyro's own base is a guest
                ours = defined(source, f"{file}.py", GUESTS)
                model, used, how = applied(ours[name], call, raw)
                how = "imports but for `dist`" + how
            elif "obs has shape" in str(error):
                ours["numpyro"] = OURS
                model, used, how = applied(ours[name], call, raw)
                how = "obs broadcast in our words" + how
            else:
                ours = defined(source, f"{file}.py", IMPORTS, words)
                if not words.words:
                    raise
                model, used, how = applied(ours[name], call, raw)
                how = ", ".join(_words_of(source, name)) + " in our words" + how
                if words.conditions:
                    bound = dict(inspect.signature(theirs[name]).bind(*used[0], **used[1]).arguments)
                    model = model.condition({site: eval(v, {**ours, **bound}) for site, v in words.conditions.items()})
        return Row(file, name, how, compared(theirs[name], model, used))
    except Exception as error:
        return Row(file, name, "", float("inf"), reason_of(error))


class Catcher:
    """A plugin of pytest: models and their arguments, where a test hands them on; then the test is over."""

    def __init__(self) -> None:
        self.test = ""
        self.found: dict[Any, tuple[str, Any, Call]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """The first of a test's parameters."""
        items[:] = {item.originalname: item for item in reversed(items)}.values()

    def pytest_runtest_setup(self, item: Any) -> None:
        """Note its name."""
        self.test = item.originalname

    def catch(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Keep it, once."""
        import pytest

        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        if model is not None and not traced:
            self.found.setdefault(getattr(model, "__code__", id(model)), (self.test, model, (args, kwargs)))
        pytest.skip("caught")

    def listen(self) -> None:
        """Stand where models are handed on."""
        import numpyro.infer as infer
        from numpyro.infer import elbo, util

        def run(
            sampler: Any, key: Any, *args: Any, extra_fields: Any = (), init_params: Any = None, **kwargs: Any
        ) -> Any:
            kernel = sampler.sampler
            self.catch(getattr(kernel, "model", getattr(kernel, "_model", None)), args, kwargs)

        def init(svi: Any, key: Any, *args: Any, init_params: Any = None, **kwargs: Any) -> Any:
            self.catch(svi.model, args, {**svi.static_kwargs, **kwargs})

        def loss(self_: Any, key: Any, params: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
            self.catch(model, args, kwargs)

        def initialize(key: Any, model: Any, *, model_args: tuple = (), model_kwargs: Any = None, **rest: Any) -> Any:
            self.catch(model, model_args, model_kwargs or {})

        infer.MCMC.run, infer.SVI.init, util.initialize_model = run, init, initialize  # type: ignore[assignment]
        for kind in (elbo.ELBO, *elbo.ELBO.__subclasses__()):
            kind.loss = kind.loss_with_mutable_state = loss  # type: ignore[assignment]


def in_ours(value: Any, words: Any) -> Any:
    """A function of a test with what its imports would give under ours; all else as it is."""
    import numpyro

    theirs, ours = numpyro.distributions, vb.distributions
    if isinstance(value, functools.partial):
        return functools.partial(in_ours(value.func, words), *value.args, **value.keywords)
    modules = {"numpyro": words, "numpyro.distributions": ours}
    modules |= {f"numpyro.distributions.{each}": getattr(ours, each) for each in ("constraints", "transforms")}
    if isinstance(value, types.ModuleType):
        return modules.get(value.__name__, value)
    if isinstance(value, type) and value.__module__.startswith(theirs.__name__):
        return getattr(ours, value.__name__, getattr(ours.transforms, value.__name__, value))
    if not isinstance(value, types.FunctionType) or not value.__module__.startswith("test_"):
        name = getattr(value, "__name__", "")
        mine = name in ("sample", "param", "plate", "deterministic", "factor", "scan", "subsample")
        return getattr(words, name) if mine and getattr(value, "__module__", "").startswith("numpyro") else value
    names = {
        key: each
        if isinstance(each, types.FunctionType) and each.__module__ == value.__module__
        else in_ours(each, words)
        for key, each in value.__globals__.items()
    }
    return _among(value, names, words)


def _among(function: types.FunctionType, names: dict[str, Any], words: Any) -> types.FunctionType:
    """The same function among other globals."""
    cells = tuple(types.CellType(in_ours(cell.cell_contents, words)) for cell in function.__closure__ or ())
    new = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    return new


def tested(clone: Path, file: str) -> Iterator[Row]:
    """The models of a file of tests."""
    import pytest

    catcher = Catcher()
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(clone), "archive", "HEAD", "test"], stdout=subprocess.PIPE, check=False
        )
        subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=False)
        catcher.listen()
        pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:warnings", f"{folder}/test/infer/{file}.py"], [catcher])
    for test, model, raw in catcher.found.values():
        call = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, raw)
        how = ""
        try:
            if not isinstance(model, types.FunctionType | functools.partial):
                raise TypeError(f"a handler around the model: {type(model).__name__}")
            try:
                ours, used, how = applied(in_ours(model, vb), call, raw)
                how = "imports" + how
            except (vb.ModelError, AttributeError) as error:
                how = next((how for said, how in SAID.items() if said in str(error)), "")
                if not how:
                    raise
                try:
                    ours, used, more = applied(in_ours(model, OURS), call, raw)
                except Exception:
                    how = ""
                    raise error from None
                how += " in our words" + more
            yield Row(file, test, how, compared(model, ours, used))
        except Exception as error:
            yield Row(file, test, how, float("inf"), reason_of(error))


SAID = {"obs has shape": "obs broadcast", "no attribute 'module'": "module"}
TESTS = ("test_autoguide", "test_svi", "test_mcmc")


def main(arguments: list[str]) -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser("python -m benchmarks porting", description=__doc__.partition("\n")[0])
    parser.add_argument("clone", type=Path, help="a clone of NumPyro's repository")
    parser.add_argument("names", nargs="*", help="files of examples or tests; all if none")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    print(f"{machine.described()}\n\n| file | model | how | |\n|---|---|---|---|", flush=True)
    for file, models in CALLS.items():
        for name in models if file in options.names or not options.names else ():
            rows.append(example(options.clone, file, name))
            print(rows[-1].line(), flush=True)
    for file in TESTS:
        for row in tested(options.clone, file) if file in options.names or not options.names else ():
            rows.append(row)
            print(row.line(), flush=True)
    for what, files in (("examples", CALLS), ("tests", TESTS)):
        some = [row for row in rows if row.file in files]
        alone = sum(r.is_equal and r.how.startswith("imports") for r in some)
        print(f"\n{what}: {alone} of {len(some)} by imports alone, {sum(r.is_equal for r in some)} with our words.")
