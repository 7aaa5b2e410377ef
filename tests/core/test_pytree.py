"""Things are frozen, and JAX sees through them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vbppl.core.pytree import is_array, pytree, set_field, static


@pytree
class Line:
    """A line, which checks its slope and remembers how often it was checked."""

    slope: float
    intercept: float = 0.0
    name: str = static(default="line")

    checks = 0

    def __post_init__(self):
        Line.checks += 1
        if not self.slope > 0:
            raise ValueError("slope")
        set_field(self, "intercept", np.asarray(self.intercept))

    def at(self, x):
        """The height at `x`."""
        return self.slope * x + self.intercept


def test_a_thing_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Line(1.0).slope = 2.0
    assert dataclasses.replace(Line(1.0), slope=2.0).slope == 2.0


def test_a_check_runs_where_a_thing_is_made_and_never_where_it_is_rebuilt():
    with pytest.raises(ValueError, match="slope"):
        Line(-1.0)
    line, before = Line(1.0), Line.checks
    assert jax.tree.map(lambda leaf: -leaf, line).slope == -1.0
    assert jax.tree.map(lambda leaf: None, line).slope is None
    assert jax.eval_shape(lambda line: line, line).intercept.shape == ()
    assert Line.checks == before


def test_leaves_are_the_data_under_their_names():
    leaves, structure = jax.tree_util.tree_flatten_with_path(Line(1.0, 2.0, name="a"))
    found = [(jax.tree_util.keystr(path), float(leaf)) for path, leaf in leaves]
    assert found == [(".slope", 1.0), (".intercept", 2.0)]
    assert structure != jax.tree.structure(Line(1.0, 2.0, name="b"))


def test_transformations_pass_through():
    lines = jax.tree.map(lambda *leaves: np.stack(leaves), Line(1.0), Line(2.0))
    np.testing.assert_array_equal(jax.vmap(lambda line: line.at(3.0))(lines), [3.0, 6.0])
    slope = jax.grad(lambda line: line.at(3.0))(Line(1.0))
    assert isinstance(slope, Line) and (slope.slope, slope.intercept, slope.name) == (3.0, 1.0, "line")
    assert jax.jit(lambda line: line)(Line(1.0, name="a")).name == "a"


def test_static_fields_decide_the_compilation_and_data_do_not(compilations):
    height = jax.jit(lambda line: line.at(3.0))
    height(Line(1.0))
    before = compilations()
    assert height(Line(2.0)) == 6.0 and compilations() == before
    assert height(Line(2.0, name="other")) == 6.0 and compilations() == before + 1
    assert height(Line(4.0, name="other")) == 12.0 and compilations() == before + 1


def test_things_are_equal_only_to_themselves():
    line = Line(1.0)
    assert line == line and line != Line(1.0)  # arrays have no single answer to `==`
    assert hash(line) == hash(line)


@pytest.mark.parametrize("leaf", [np.zeros(2), np.float32(1.0), jnp.zeros(())], ids=lambda leaf: type(leaf).__name__)
def test_arrays_are_data(leaf):
    assert is_array(leaf)


@pytest.mark.parametrize("leaf", [1.0, True, "a", None, [1.0]], ids=repr)
def test_python_values_are_not_arrays(leaf):
    assert not is_array(leaf)
