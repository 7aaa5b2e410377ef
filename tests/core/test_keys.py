"""Keys: JAX's own for every seed, a different one for every name, and nothing else at the door."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from vbppl.core.keys import host_generator, named, raw_key, wrap


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1])
def test_a_seed_makes_jaxs_key(seed, x64):
    expected = jax.random.key_data(jax.random.key(seed))
    assert raw_key(seed).tolist() == raw_key(np.uint64(seed)).tolist() == expected.tolist()


def test_a_key_of_either_style_is_itself():
    for key in (jax.random.key(3), jax.random.PRNGKey(3), np.array([0, 3], np.uint32)):
        assert raw_key(key).tolist() == [0, 3]


def test_a_raw_key_draws_as_jaxs_key():
    key = jax.random.fold_in(jax.random.key(3), 5)
    assert jax.random.key_data(wrap(raw_key(key))).tolist() == jax.random.key_data(key).tolist()


def test_seeds_compile_nothing(compilations):
    before = compilations()
    raw_key(2**40)
    assert compilations() == before


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=rf"^seed must lie between 0 and 2\*\*64 - 1, not {seed}\.$"):
        raw_key(seed)


@pytest.mark.parametrize(
    "seed", [True, "7", 1.0, None, np.zeros(3, np.uint32), np.zeros(2), [0, 7]], ids=lambda seed: repr(seed)
)
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(TypeError, match="^seed must be an int or a single threefry key"):
        raw_key(seed)


def test_many_keys_are_no_seed():
    with pytest.raises(TypeError, match="single threefry key"):
        raw_key(jax.random.split(jax.random.key(0)))


def test_names_make_keys_that_differ_and_stay():
    key = jax.random.key(0)
    data = {name: tuple(jax.random.key_data(named(key, name)).tolist()) for name in ("mu", "tau", "theta", "mu/x", "")}
    assert len(set(data.values())) == len(data)
    assert data["mu"] == tuple(jax.random.key_data(named(jax.random.key(0), "mu")).tolist())
    assert data["mu"] != tuple(jax.random.key_data(named(jax.random.key(1), "mu")).tolist())


def test_the_host_draws_differ_by_seed_and_by_purpose_only():
    def draws(seed, purpose):
        return host_generator(raw_key(seed), purpose).normal(size=3).tolist()

    assert draws(0, "start") == draws(0, "start")
    assert len({tuple(draws(seed, purpose)) for seed in (0, 1, 2**32) for purpose in ("start", "elbo")}) == 6
