"""What outputs depend on: each program is followed as exactly as its operations tell, and never less."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from vbppl.core.programs.dependence import dependence


def found(function, arguments=3):
    """For each output the letters of the arguments that it depends on."""
    program = jax.make_jaxpr(function)(*[jnp.ones(2)] * arguments).jaxpr
    bits = dependence(program, [1 << n for n in range(arguments)])
    return ["".join("abc"[n] for n in range(arguments) if each >> n & 1) for each in bits]


@jax.custom_jvp
def with_rule(x, y):
    return x, 2 * y


with_rule.defjvp(lambda primals, tangents: (with_rule(*primals), with_rule(*tangents)))


@jax.custom_vjp
def backwards(x, y):
    return x, 2 * y


backwards.defvjp(lambda x, y: (backwards(x, y), None), lambda _, g: (g[0], 2 * g[1]))


def carried(a, b, c):
    """The first number of a loop takes from the second, and the second from the third, one step each."""
    (x, y, z), seen = jax.lax.scan(lambda s, row: ((s[0] + s[1], s[1] + s[2], s[2]), row), (a, b, c), jnp.arange(3.0))
    return x, y, z, seen


def counted(a, b, c):
    """How long the loop goes on depends on the first."""
    return jax.lax.while_loop(lambda s: s[0].sum() < 3, lambda s: (s[0] + 1, s[1] * 2, s[2] * 2), (a, b, c))


def branched(a, b, c):
    return jax.lax.cond(a.sum() > 0, lambda x, y: (x, x), lambda x, y: (y, 2 * x), b, c)


def written(a, b, c):
    box = jax.new_ref(a)
    box[...] = b
    return box[...], c


CASES = {
    "arithmetic": (lambda a, b, c: (a + b, c * 2, jnp.zeros(2)), ["ab", "c", ""]),
    "only the shape": (lambda a, b, c: (jnp.zeros_like(a) + b, a.shape[0] * c), ["b", "c"]),
    "jit": (lambda a, b, c: jax.jit(lambda x, y: (x, y + 1))(a, b), ["a", "b"]),
    "jit in jit": (lambda a, b, c: jax.jit(lambda x, y: jax.jit(lambda u, v: (v, u))(x, y))(a, b), ["b", "a"]),
    "custom_jvp": (lambda a, b, c: with_rule(a, b), ["a", "b"]),
    "custom_vjp": (lambda a, b, c: backwards(a, b), ["a", "b"]),
    "checkpoint": (lambda a, b, c: jax.checkpoint(lambda x, y: (jnp.sin(x), y))(a, b), ["a", "b"]),
    "vmap": (lambda a, b, c: jax.vmap(with_rule)(a, b), ["a", "b"]),
    "scan": (carried, ["abc", "bc", "c", ""]),
    "while": (counted, ["a", "ab", "ac"]),
    "cond": (branched, ["abc", "ab"]),
    "scan of keys": (
        lambda a, b, c: jax.lax.scan(lambda s, key: (s + b, a), c, jax.random.split(jax.random.key(0))),
        ["bc", "a"],
    ),
    "where": (lambda a, b, c: jnp.where(a > 0, b, 1.0), ["ab"]),
    "a gradient": (lambda a, b, c: jax.grad(lambda x: (x * b).sum())(a), ["b"]),
    "cholesky": (lambda a, b, c: jnp.linalg.cholesky(jnp.diag(a)) @ b, ["ab"]),
}
if hasattr(jax, "new_ref"):
    CASES["a reference"] = (written, ["ab", "c"])


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_operation_is_followed(case):
    function, expected = CASES[case]
    assert found(function) == expected


def test_an_origin_in_the_middle_stands_for_itself():
    def function(a):
        middle = jnp.sin(a)
        return middle, middle + 1, a

    program = jax.make_jaxpr(function)(1.0).jaxpr
    assert dependence(program, [1], {program.outvars[0]: 2}) == [2, 2, 1]
