"""Programs whose loops a trace has unrolled are done as arrays and loops again, and give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from vbppl.core.programs.rerolling.loops import Loop, rounds_with_loops
from vbppl.core.programs.rerolling.operations import operations_of
from vbppl.core.programs.rerolling.rerolled import rerolled


def length(jaxpr):
    """How many equations a program has, with those of the programs in it."""
    inner = [value.jaxpr for each in jaxpr.eqns for value in each.params.values() if hasattr(value, "jaxpr")]
    return len(jaxpr.eqns) + sum(map(length, inner))


def loops_of(function, *arguments):
    """Of each loop that is found the operations of a turn, and the turns."""
    operations, outputs = operations_of(jax.make_jaxpr(function)(*arguments).jaxpr)
    found = [each.operations[0] for each in rounds_with_loops(operations, outputs)]
    return [(len(each.equations), each.length) for each in found if isinstance(each, Loop)]


def independent(xs, sd):
    """Each number by itself."""
    return sum(-0.5 * ((xs[i] - i) / sd) ** 2 - jnp.log(sd) for i in range(60))


def walk(xs, sd):
    """Each number about the one before."""
    total, before = jnp.zeros(()), jnp.zeros(())
    for i in range(60):
        total += -0.5 * ((xs[i] - before) / sd) ** 2 - jnp.log(sd)
        before = xs[i]
    return total


def moved_walk(xs, sd):
    """The same by its steps: each number needs all before."""
    total, level = jnp.zeros(()), jnp.zeros(())
    for i in range(60):
        level = level + sd * xs[i]
        total += -0.5 * (level - jnp.sin(i)) ** 2
    return total


def second_order(xs, sd):
    """Each number needs the two before."""
    levels = [xs[0], xs[1]]
    for i in range(2, 60):
        levels.append(1.2 * levels[-1] - 0.5 * levels[-2] + sd * xs[i])
    return jnp.sum(jnp.stack(levels) ** 2)


def garch(xs, sd):
    """A variance that needs the variance before, and what was seen before."""
    variance, total = sd**2, jnp.zeros(())
    for i in range(60):
        if i:
            variance = 0.1 + 0.3 * xs[i - 1] ** 2 + 0.6 * variance
        total += -0.5 * jnp.log(variance) - 0.5 * xs[i] ** 2 / variance
    return total


def two_loops(xs, sd):
    """One after the other, the second from where the first ends."""
    level = jnp.ones(())
    for i in range(30):
        level = jnp.tanh(level + sd * xs[i])
    for i in range(30, 60):
        level = level * jnp.exp(-(xs[i] ** 2)) + sd
    return level


def by_threes(xs, sd):
    """Turns that are alike only three by three."""
    level = jnp.zeros(())
    for i in range(60):
        level = level + xs[i] if i % 3 == 0 else level * sd - xs[i] if i % 3 == 1 else jnp.sin(level) ** 2 + sd * level
    return level


def matrices(xs, sd):
    """Small matrices, a branch and a loop in each turn."""
    state, total = jnp.eye(2), jnp.zeros(())
    for i in range(20):
        turn = jnp.array([[jnp.cos(xs[i]), -sd], [sd, jnp.cos(xs[i])]])
        state = 0.5 * (turn @ state) + jnp.where(xs[i] > 0, jnp.eye(2), jnp.ones((2, 2)) * xs[i])
        total += jax.lax.cond(xs[i] > 1.0, jnp.sum, jnp.trace, state)
        total += jax.lax.fori_loop(0, 3, lambda _, x: 0.5 * x + 1.0, xs[i])
    return total


def softly(xs, sd):
    """Functions with derivatives of their own."""
    return sum(jax.nn.softplus(xs[i]) * jax.scipy.special.gammaln(1.0 + xs[i] ** 2 + sd) for i in range(60))


def computed(xs, sd):
    """Each turn takes its numbers from arrays that are computed, as far from the program's end as each other."""
    first, second, level = jnp.exp(0.1 * xs), jnp.exp(jnp.sin(xs * sd)), jnp.ones(())
    for i in range(60):
        level = jnp.sin((first[i] * second[i]) * level)
    return level


def euler(xs, sd):
    """Steps of a differential equation, whose state is a vector that each step takes apart."""
    state, total = jnp.array([1.0, 0.0]), jnp.zeros(())
    for i in range(60):
        state = state + 0.1 * jnp.stack([state[1], -sd * state[0] - 0.1 * state[1]])
        total += -0.5 * (state[0] - xs[i]) ** 2
    return total


LONG = [pytest.param(each, marks=pytest.mark.slow) for each in (independent, garch, two_loops, matrices, softly, euler)]
PROGRAMS = [walk, moved_walk, second_order, by_threes, computed, *LONG]


@pytest.mark.parametrize("function", PROGRAMS)
def test_value_gradient_and_hessian_are_those_of_the_program_as_written(function):
    with jax.enable_x64(True):
        xs, sd = np.random.default_rng(1).standard_normal(60), 0.7
        v = np.random.default_rng(2).standard_normal(60)

        def everything(function):
            gradient = jax.grad(function, (0, 1))
            many = jax.vmap(function, (0, None))(np.stack([xs, v]), sd)
            return function(xs, sd), gradient(xs, sd), jax.jvp(lambda x: gradient(x, sd), (xs,), (v,))[1], many

        in_haste = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        expected = jax.jit(lambda: everything(function), compiler_options=in_haste)()
        found = jax.jit(lambda: everything(rerolled(function)), compiler_options=in_haste)()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)


@pytest.mark.parametrize("function", PROGRAMS)
def test_what_is_alike_is_one_operation(function):
    xs = np.ones(60, np.float32)
    before, after = (length(jax.make_jaxpr(f)(xs, 0.7).jaxpr) for f in (function, rerolled(function)))
    assert after < 0.5 * before, (before, after)


def test_what_needs_the_turn_before_is_a_loop_again():
    xs = np.ones(60, np.float32)
    ((operations, turns),) = loops_of(moved_walk, xs, 0.7)
    assert operations == 1 and turns >= 57  # level + step; all steps are one product
    ((_, turns),) = loops_of(second_order, xs, 0.7)
    assert turns >= 25  # of two numbers each
    assert len(loops_of(two_loops, xs, 0.7)) == 2
    ((_, turns),) = loops_of(by_threes, xs, 0.7)
    assert turns >= 18
    assert [turns > 50 for _, turns in loops_of(computed, xs, 0.7) + loops_of(euler, xs, 0.7)] == [True, True]
    assert loops_of(independent, xs, 0.7) == loops_of(walk, xs, 0.7) == []


def test_the_number_of_operations_does_not_grow_with_the_loop():
    def walk_of(n):
        def density(xs):
            level, total = jnp.zeros(()), jnp.zeros(())
            for i in range(n):
                level = level + jnp.exp(0.1 * level) * xs[i]
                total += -0.5 * (level - 1.0) ** 2
            return total

        return length(jax.make_jaxpr(jax.grad(rerolled(density)))(np.ones(n, np.float32)).jaxpr)

    assert walk_of(400) == walk_of(100)


def test_a_chain_of_draws_is_a_loop_whose_draws_stay_the_same():
    """Keys and what is drawn by them stay one by one; what is made of them in turn is a loop."""

    def drawn(key, sd):
        levels = [jnp.zeros(())]
        for i in range(40):
            levels.append(0.9 * levels[-1] + sd * jax.random.normal(jax.random.fold_in(key, i)))
        return levels[1:]

    key = jax.random.key(3)
    program = jax.make_jaxpr(rerolled(drawn))(key, 0.7)
    assert [each.primitive.name for each in program.eqns].count("scan") == 1
    np.testing.assert_allclose(jax.jit(rerolled(drawn))(key, 0.7), jax.jit(drawn)(key, 0.7), rtol=1e-5)


def test_a_density_of_a_loop_against_scipy():
    y = np.random.default_rng(3).normal(size=80)

    def density(loc, sd):
        return sum(-0.5 * ((y[i] - loc) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi) for i in range(80))

    found = jax.jit(rerolled(density))(0.3, 1.7)
    np.testing.assert_allclose(found, stats.norm(0.3, 1.7).logpdf(y).sum(), rtol=1e-5)


def test_short_programs_and_those_that_act_stay_as_they_are():
    def acting(xs):
        for i in range(100):
            jax.debug.callback(lambda x: seen.append(float(x)), xs[i], ordered=True)
        return sum(xs[i] ** 2 for i in range(100))

    seen = []
    jax.block_until_ready(jax.jit(rerolled(acting))(np.arange(100.0)))
    jax.effects_barrier()
    assert seen == list(range(100))
    short = jax.make_jaxpr(lambda x: x[0] * x[1])(np.ones(2))
    assert str(jax.make_jaxpr(rerolled(lambda x: x[0] * x[1]))(np.ones(2))) == str(short)


def test_large_arrays_are_not_copied_side_by_side():
    def density(xs):
        return sum(jnp.sum(jnp.exp(xs + float(i)) * jnp.sin(xs)) for i in range(100))

    program = jax.make_jaxpr(rerolled(density))(np.ones(1000, np.float32))
    assert max(out.aval.size for each in program.jaxpr.eqns for out in each.outvars) <= 1000


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.float32, np.bool_])
def test_results_keep_structure_shape_and_dtype(dtype):
    def function(xs, weaker):
        each = {str(i): (xs[i] == xs[i + 1]) if dtype == np.bool_ else xs[i] + xs[i + 1] for i in range(50)}
        weak, nothing = sum(jnp.sin(weaker + i) for i in range(50)), [2 * xs[:0] for _ in range(9)]
        return each, xs, 1.0, [xs[3], each["7"]], sum(xs[i] for i in range(50)), weak, jnp.concatenate(nothing)

    xs = np.arange(101).astype(dtype)
    expected, found = (jax.jit(f)(xs, 1.0) for f in (function, rerolled(function)))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        np.testing.assert_allclose(a, b, rtol=1e-5)


OPERATIONS = {
    "add": (2, np.add, jnp.add),
    "sub": (2, np.subtract, jnp.subtract),
    "mul": (2, np.multiply, jnp.multiply),
    "max": (2, np.maximum, jnp.maximum),
    "sin": (1, np.sin, jnp.sin),
    "tanh": (1, np.tanh, jnp.tanh),
    "where": (3, lambda a, b, c: np.where(a > 0, b, c), lambda a, b, c: jnp.where(a > 0, b, c)),
}


@st.composite
def programs(draw):
    """A pattern of operations, repeated: each on what it gave some turns before, on inputs, or on the same turn."""
    pattern = draw(
        st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), *[st.integers(1, 9)] * 3), min_size=2, max_size=6)
    )
    return pattern, draw(st.integers(210 // len(pattern), 260 // len(pattern))), draw(st.integers(0, 4))


@settings(deadline=None, max_examples=12, phases=(Phase.explicit, Phase.generate))
@given(programs())
def test_any_program_gives_what_numpy_gives(program):
    """Operands are counted back from the end of all that there is, in turns of any length: loops of any order."""
    pattern, turns, odd = program

    def run(xs, which):
        values = [xs[i] for i in range(9)]
        for turn in range(turns):
            for number, (name, *back) in enumerate(pattern):
                arity, *both = OPERATIONS[name]
                operands = [values[-each] for each in back[:arity]]
                if (turn + number) % 7 == odd:  # now and then something from the beginning, so that turns differ
                    operands[0] = values[(turn * number) % 9]
                values.append(0.9 * both[which](*operands) + 0.1)
        return values[-3:]

    xs = np.random.default_rng(0).standard_normal(9)
    with jax.enable_x64(True):
        found = jax.make_jaxpr(rerolled(lambda xs: run(xs, 1)))(xs)
        found = jax.core.eval_jaxpr(found.jaxpr, found.consts, xs)
    np.testing.assert_allclose(found, run(xs, 0), rtol=1e-9, atol=1e-12)
