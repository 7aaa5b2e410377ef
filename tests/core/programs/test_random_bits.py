"""A program whose random bits are made before it gives the numbers that JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vbppl.core.keys import wrap
from vbppl.core.programs.compiling import OverDraws
from vbppl.core.programs.random_bits import apart, hashed

RAW = np.array([3, 0xFFFFFFFF], np.uint32)


def of_key(function):
    """The outputs of `function`, of a key's raw data, as JAX gives them, and as its two parts do."""
    program = jax.make_jaxpr(function)(RAW)
    parts = apart(program)
    made = parts.made([RAW])
    rest = jax.make_jaxpr(parts.rest)(made, [RAW])
    return jax.tree.leaves(function(RAW)), parts.rest(made, [RAW]), rest


PROGRAMS = {
    "bits": lambda raw: [jax.random.bits(wrap(raw), (5, 2), f"uint{width}") for width in (8, 16, 32)],
    "folds": lambda raw: jax.random.bits(jax.random.fold_in(jax.random.fold_in(wrap(raw), 7), 2**32 - 1), (3,)),
    "split": lambda raw: [jax.random.normal(key, (4,)) for key in jax.random.split(wrap(raw), 3)],
    "keys in two axes": lambda raw: jax.vmap(jax.random.uniform)(jax.random.split(wrap(raw), (2, 3)).reshape(6)),
    "a number a key": lambda raw: jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(wrap(raw), i)))(jnp.arange(4)),
    "the key itself": lambda raw: jax.random.key_data(jax.random.fold_in(wrap(raw), 1)),
    "no key": lambda raw: raw + 1,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_numbers_are_those_of_jax(name):
    theirs, ours, rest = of_key(PROGRAMS[name])
    assert all(np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(theirs, ours, strict=True))
    if name not in ("a number a key", "the key itself"):  # these hand the host a number of the program, or a key back
        assert "random" not in str(rest) and "threefry" not in str(rest)


def test_doubles_are_those_of_jax(x64):
    theirs, ours, _ = of_key(lambda raw: jax.random.uniform(wrap(raw), (6,), np.float64))
    np.testing.assert_array_equal(theirs[0], ours[0])


def test_bits_in_a_loop_stay_in_it():
    def total(raw):
        key = jax.random.fold_in(wrap(raw), 5)
        return jax.lax.fori_loop(0, 3, lambda i, sum: sum + jax.random.uniform(jax.random.fold_in(key, i)), 0.0)

    theirs, ours, _ = of_key(total)
    np.testing.assert_allclose(theirs[0], ours[0], rtol=1e-6)


def test_other_generators_are_left_alone():
    theirs, ours, rest = of_key(
        lambda raw: jax.random.bits(jax.random.wrap_key_data(jnp.tile(raw, 2), impl="rbg"), (3,))
    )
    np.testing.assert_array_equal(theirs[0], ours[0])
    assert "random_bits" in str(rest)


def test_words_are_those_that_the_authors_publish():
    """`kat_vectors` of Random123: Threefry 2x32 with 20 rounds."""
    cases = {
        (0, 0, 0, 0): (0x6B200159, 0x99BA4EFE),
        (0xFFFFFFFF,) * 4: (0x1CB996FC, 0xBB002BE7),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344): (0xC4923A9C, 0x483DF7A0),
    }
    for (first, second, high, low), words in cases.items():
        assert tuple(map(int, hashed(np.uint64(high << 32 | low), first, second))) == words


def test_few_and_many_draws_are_alike():
    """Draws that NumPy makes the bits of, and draws beside so many that the program makes them."""
    noise = OverDraws(lambda number, raw: jax.random.normal(jax.random.fold_in(wrap(raw), number), (2000,)))
    few, many = (np.asarray(noise(np.arange(n, dtype=np.uint32), RAW)) for n in (3, 5000))
    np.testing.assert_allclose(few, many[:3], rtol=1e-6)
