"""What NumPy can tell of a program before it compiles: the same numbers as JAX, or none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit

from vbppl.core.programs.known import Known

X = np.random.default_rng(0).uniform(0.1, 3.0, (3, 3)).astype(np.float32)
B, K = X[1], np.array([0, 2, 1], np.int32)
TABLE = np.arange(3.0)


def followed(x, b, k):
    """What models do with their data."""
    return [
        *(x @ b, b[k], x[k], x[:, 0], x[0], x[..., None], x[::-1], x.T, x**2, x / 2, x % 2, x**0.5, -x, 1 / x),
        *(jnp.concatenate([x, x]), jnp.stack([b, b]), jnp.tile(b, 3), jnp.repeat(b, 3), jnp.outer(b, b), x[:1]),
        *(jnp.log(x), jnp.exp(-x), jnp.sqrt(x), jnp.tanh(x), jnp.abs(x), jnp.sign(x), jnp.round(b), jnp.log1p(x)),
        *(jnp.where(x > 1, x, 0), jnp.clip(x, 0, 1), jnp.maximum(x, 1.0), jnp.isnan(x), jnp.nan_to_num(x)),
        *(jnp.sum(x), jnp.mean(x, 0), jnp.std(x, 0), jnp.max(x), jnp.prod(b), jnp.cumsum(b), jnp.diff(b)),
        *(jax.nn.sigmoid(x), jax.nn.softplus(x), jax.nn.log_softmax(x), jax.scipy.special.logsumexp(b)),
        *(k // 2, k % 2, b.astype(int), jnp.arange(3), jnp.eye(3), jax.nn.one_hot(k, 3), jnp.asarray(TABLE) * b),
        jnp.linalg.eigvalsh(x + x.T),
    ]


@pytest.mark.parametrize("sign", [1, -1])
def test_numpy_follows_what_models_do_with_their_data(sign):
    given = (sign * X, sign * B, K)
    closed = jax.make_jaxpr(followed)(*given)
    found, expected = Known.of(closed.jaxpr, closed.consts)(*given), jit(followed)(*given)
    for own, theirs in zip(found, expected):
        assert own.dtype == theirs.dtype
        # Both round in 32 bits, sums in another order.
        np.testing.assert_allclose(own, theirs, rtol=1e-5, atol=1e-6)


def test_what_is_random_or_depends_on_what_is_unknown_is_not_known():
    def program(latent, x):
        return latent * x, x + jax.random.normal(jax.random.key(0)), jax.scipy.special.gammaln(x), 2.0 * x

    closed = jax.make_jaxpr(program)(1.0, B)
    found = Known.of(closed.jaxpr, closed.consts, unknown=closed.jaxpr.invars[:1])(None, B)
    assert [each is None for each in found] == [True, True, True, False]


def test_a_product_that_takes_long_is_not_known():
    shapes = jax.ShapeDtypeStruct((1000, 1000), np.float32), jax.ShapeDtypeStruct((1000, 1000), np.float32)
    closed = jax.make_jaxpr(jnp.matmul)(*shapes)
    assert Known.of(closed.jaxpr).outputs == (None,)
