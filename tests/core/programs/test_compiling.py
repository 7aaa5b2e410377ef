"""Programs over draws give what `jax.vmap` gives, for few numbers of draws compiled and any asked for."""

from __future__ import annotations

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
from vbppl.core.programs.compiling import (
    FEW_DRAWS,
    HEAVY,
    LARGE,
    MAX_DRAWS,
    MIN_DRAWS,
    SMALL,
    ByWork,
    OverDraws,
    in_batches,
    numbers_in,
)


def one(draw, by):
    number, values = draw
    return {
        "scaled": values["x"] * by["factor"],
        "at": number + jnp.arange(2),
        "key": jax.random.uniform(jax.random.key(number)),
    }


def draws(n):
    return np.arange(n, dtype=np.uint32), {"x": np.linspace(0.0, 1.0, 3 * n, dtype=np.float32).reshape(n, 3)}


@pytest.mark.parametrize("side_by_side", [FEW_DRAWS, None])
@pytest.mark.parametrize(
    "n", [1, MIN_DRAWS, MIN_DRAWS + 1, FEW_DRAWS, FEW_DRAWS + 1, 1000, MAX_DRAWS, MAX_DRAWS + 1, 2500]
)
def test_any_number_of_draws_gives_what_vmap_gives(n, side_by_side, monkeypatch):
    by = {"factor": np.float32(3.0)}
    found = OverDraws(one, side_by_side)(draws(n), by)
    jax.tree.map(np.testing.assert_array_equal, found, jax.vmap(lambda draw: one(draw, by))(draws(n)))


NUMBERS = 1, 8, 9, 64, 65, 100, 128, 129, 257, 500, 600, 1000, 1024, 1025


@pytest.mark.parametrize("numbers, programs", [(1, 2), (SMALL, 5), (LARGE, len(NUMBERS) - 1)])
def test_there_are_programs_of_few_sizes_where_draws_not_asked_for_cost_little(numbers, programs, compilations):
    """Of 8 and 1,024; of the powers of two from 8 to 256; and of each number up to 1,024."""
    over, before = OverDraws(lambda draw: (draw + jnp.zeros(numbers)).sum()), compilations()
    for n in NUMBERS:
        assert len(over(np.arange(n, dtype=np.float32))) == n
    assert compilations() - before == programs


def test_loops_count_by_their_length_and_products_by_their_terms():
    def counted(function, *shapes):
        return numbers_in(jax.make_jaxpr(function)(*(np.zeros(shape, np.float32) for shape in shapes)).jaxpr)

    assert counted(lambda x: x + 1, (10,)) == 10
    assert counted(lambda x, y: x @ y, (10, 5), (5, 3)) == 150
    step = lambda x, _: (x + 1, None)  # noqa: E731
    assert 1000 <= counted(lambda x: jax.lax.scan(step, x, None, length=100)[0], (10,)) <= 1100
    assert counted(jax.jit(lambda x: x + 1), (10,)) == 20  # and what it gives out
    assert counted(lambda x: jax.lax.cond(x[0] > 0, lambda x: x + 1, lambda x: x, x), (10,)) <= 40


def test_draws_of_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="3 and 20 draws of one thing and another"):
        OverDraws(lambda draw: draw[0] + draw[1])((np.zeros(20), np.zeros(3)))


def test_no_draws_and_nothing_drawn_have_their_shapes():
    empty = OverDraws(lambda draw: {"twice": 2 * draw})(np.zeros((0, 3), np.float32))
    assert empty["twice"].shape == (0, 3)
    assert OverDraws(lambda draw: draw[:0])(np.zeros((100, 3), np.float32)).shape == (100, 0)


def test_concrete_draws_inside_a_program_become_a_part_of_it():
    over = OverDraws(lambda draw, by: draw * by)
    x = np.arange(5.0, dtype=np.float32)
    np.testing.assert_array_equal(jax.jit(lambda y: y + over(x, 2.0))(1.0), 1 + 2 * x)
    model = cases.normal_normal(cases.PAIRS)
    inside = jax.jit(lambda y: jax.tree.map(lambda value: value + y, model.sample(3)))(0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), inside, model.sample(3))


def test_traced_draws_become_a_part_of_the_program_around_them():
    over = OverDraws(lambda draw, by: draw**2 * by)
    x = np.arange(5.0, dtype=np.float32)
    slope = jax.jit(jax.grad(lambda x: over(x, 2.0).sum()))(x)
    np.testing.assert_array_equal(slope, 4 * x)
    np.testing.assert_array_equal(jax.jit(lambda by: over(x, by))(2.0), 2 * x**2)


@pytest.mark.parametrize("n", [1, 4, 7, 8, 9])
def test_batches_that_are_filled_up_give_what_a_map_gives(n):
    x = {"a": np.arange(2.0 * n).reshape(n, 2), "b": np.arange(n)}
    function = lambda each: {"sum": each["a"].sum() + each["b"]}  # noqa: E731
    found = in_batches(function, x, 4)
    np.testing.assert_array_equal(found["sum"], jax.lax.map(function, x)["sum"])


def test_the_body_of_a_map_is_there_once_whatever_is_left_over():
    text = jax.jit(lambda x: in_batches(jnp.sin, x, 4)).lower(np.arange(9.0)).as_text()
    assert text.count("stablehlo.sine") == 1


def test_what_runs_long_is_compiled_with_care():
    program = ByWork(lambda x, steps: jax.lax.fori_loop(0, steps, lambda i, x: x + 1, x), static_argnames="steps")
    assert program(1.0, steps=3) == 4.0
    assert sorted(program._compiled) == [0]
    assert program(1.0, steps=HEAVY // 10**5) == 1 + HEAVY // 10**5
    long = ByWork(lambda x: jax.lax.scan(lambda x, _: (x + 1, None), x, None, length=100)[0])
    long(np.zeros(HEAVY // 100, np.float32))
    assert sorted(long._compiled) == [2]


def test_another_number_of_draws_compiles_nothing(compilations):
    model = cases.normal_normal(cases.PAIRS)
    posterior = vb.fit(model)
    asked = (posterior.sample, lambda n: posterior.predict(n=n), posterior.log_likelihood, model.sample)
    for ask in asked:
        ask(1000)
    before = compilations()
    for ask in asked:
        for n in (600, 999, 1024, 3000):
            assert {len(values) for values in ask(n).values()} == {n}
    assert compilations() == before


def test_fewer_prior_draws_are_the_first_of_more():
    model = cases.normal_normal(cases.PAIRS)
    few, many = model.sample(70), model.sample(1500)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:70], rtol=1e-5), few, many)
