"""What JAX, NumPy and other libraries' habits go wrong with in a model, told in the words of the language."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wrong_programs import Catalogue

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree

CATALOGUE = Catalogue()
told = CATALOGUE.told
Y = np.arange(4.0)
GROUPS = np.array([0, 1, 1])


def run(function, *args):
    """Make the function a model, and look at the shapes of its sites."""
    return vb.model(function)(*args).shapes()


def sized(make_size):
    """A model whose length is computed from its data."""

    def model(k):
        vb.sample("x", dist.Normal(jnp.zeros(make_size(k)), 1.0))

    return run(model, GROUPS)


@told(
    """
a count of values met a value that has no number yet.
  FILE:LINE: sized(lambda k: len(jnp.unique(k)))
  To mend it: Count outside the model, and pass the number: my_model(k, n=len(np.unique(k))).
"""
)
def a_size_by_jax_unique():
    sized(lambda k: len(jnp.unique(k)))


@told(
    """
a size or another Python int met a value that has no number yet.
  FILE:LINE: sized(lambda k: int(k.max()) + 1)
  To mend it: Compute sizes outside the model, and pass them as ints: my_model(k, n=int(k.max()) + 1).
"""
)
def a_size_by_the_largest():
    sized(lambda k: int(k.max()) + 1)


@told(
    """
a shape met a size that has no number yet.
  FILE:LINE: vb.sample("x", dist.Normal(jnp.zeros(make_size(k)), 1.0))
  To mend it: Compute sizes outside the model, and pass them as ints: my_model(k, n=int(k.max()) + 1).
"""
)
def a_size_that_is_an_array():
    sized(lambda k: k.max() + 1)


@told(
    """
a set or a dictionary met a value that has no number yet.
  FILE:LINE: sized(lambda k: len(set(k)))
  To mend it: Count outside the model, and pass the number: my_model(k, n=len(np.unique(k))).
"""
)
def a_size_by_a_set():
    sized(lambda k: len(set(k)))


@told(
    """
a count of values met a value that has no number yet.
  FILE:LINE: run(lambda k: vb.sample("x", dist.Normal(np.bincount(k), 1.0)), GROUPS)
  To mend it: Count outside the model, and pass the number: my_model(k, n=len(np.unique(k))).
"""
)
def counts_of_groups():
    run(lambda k: vb.sample("x", dist.Normal(np.bincount(k), 1.0)), GROUPS)


@told(
    """
a size or another Python int met a value that has no number yet.
  FILE:LINE: run(lambda k: vb.sample("x", dist.Normal(jax.nn.one_hot(k, k.max() + 1), 1.0)), GROUPS)
  To mend it: Compute sizes outside the model, and pass them as ints: my_model(k, n=int(k.max()) + 1).
"""
)
def classes_that_are_counted():
    run(lambda k: vb.sample("x", dist.Normal(jax.nn.one_hot(k, k.max() + 1), 1.0)), GROUPS)


@told(
    """
a size or another Python int met a value that has no number yet.
  FILE:LINE: for i in range(n):
  To mend it: Compute sizes outside the model, and pass them as ints: my_model(k, n=int(k.max()) + 1).
"""
)
def a_loop_over_a_number_of_the_data():
    def model(n):
        for i in range(n):
            vb.sample(f"x{i}", dist.Normal(0.0, 1.0))

    run(model, np.array(3))


@told(
    """
plate 'group': size must be an int known before the run, but it is computed from data.
  To mend it: Take it from the shape of the data (len(y)), or pass an int to the model: n=int(k.max()) + 1.
"""
)
def a_plate_of_the_largest():
    def model(k):
        with vb.plate("group", k.max() + 1):
            vb.sample("x", dist.Normal(0.0, 1.0))

    run(model, GROUPS)


@told(
    """
plate 'rows': its labels are computed from data, so no run can tell them.
  To mend it: Pass the labels as an argument of the model, as they are; or the number of rows, len(y).
"""
)
def a_plate_of_an_array():
    run(lambda y: vb.plate("rows", 2 * y), Y)


@told(
    """
a Python number met a value that has no number yet, after site 'x'.
  FILE:LINE: run(lambda: float(vb.sample("x", dist.Normal(0.0, 1.0))))
  To mend it: Leave out float(): JAX computes with arrays of one number as well.
"""
)
def a_float_of_a_latent_variable():
    run(lambda: float(vb.sample("x", dist.Normal(0.0, 1.0))))


@told(
    """
a product of arrays sums over 2 numbers of the one and 3 of the other, after site 'b'.
  FILE:LINE: vb.sample("y", dist.Normal(x @ b, 1.0))
  To mend it: Give a matrix as many columns as the vector has entries; x.T is x transposed.
"""
)
def matrices_that_do_not_fit():
    def model(x):
        b = vb.sample("b", dist.Normal(np.zeros(3), 1.0).to_event(1))
        vb.sample("y", dist.Normal(x @ b, 1.0))

    run(model, np.ones((4, 2)))


@told(
    """
arrays of the shapes (4,), (3,) do not broadcast, after site 'b'.
  FILE:LINE: vb.sample("y", dist.Normal(x + b, 1.0))
  To mend it: Make them equal from the right, or add a dimension of length 1: x[:, None].
"""
)
def arrays_that_do_not_broadcast():
    def model(x):
        b = vb.sample("b", dist.Normal(np.zeros(3), 1.0).to_event(1))
        vb.sample("y", dist.Normal(x + b, 1.0))

    run(model, Y)


@told(
    """
arrays of the shapes (4,), (3,), (4,) do not broadcast.
  FILE:LINE: run(lambda y: jnp.where(y > 0, jnp.zeros(3), y), Y)
  To mend it: Make them equal from the right, or add a dimension of length 1: x[:, None].
"""
)
def arrays_in_where_that_do_not_broadcast():
    run(lambda y: jnp.where(y > 0, jnp.zeros(3), y), Y)


@told(
    """
an index holds floats, after site 'a'.
  FILE:LINE: vb.sample("y", dist.Normal(a[g], 1.0))
  To mend it: Make it whole: a[g.astype(int)].
"""
)
def an_index_of_floats():
    def model(g):
        a = vb.sample("a", dist.Normal(np.zeros(3), 1.0).to_event(1))
        vb.sample("y", dist.Normal(a[g], 1.0))

    run(model, np.array([0.0, 1.0]))


@told(
    """
an array is asked for a column by name.
  FILE:LINE: run(lambda table: vb.sample("y", dist.Normal(table["x"], 1.0)), np.ones((3, 2)))
  To mend it: Pass columns by themselves, my_model(df['x'], df['y']), or all of them as a dict: {'x': df['x']}.
"""
)
def a_column_by_name():
    run(lambda table: vb.sample("y", dist.Normal(table["x"], 1.0)), np.ones((3, 2)))


@told(
    """
an array of dimension 1 is given 2 indices.
  FILE:LINE: run(lambda y: vb.sample("y", dist.Normal(y[:, 0], 1.0)), Y)
  To mend it: Leave one out, or add a dimension: y[:, None].
"""
)
def too_many_indices():
    run(lambda y: vb.sample("y", dist.Normal(y[:, 0], 1.0)), Y)


@told(
    """
an array of shape (4,) cannot take the shape (3, 2).
  FILE:LINE: run(lambda y: vb.sample("y", dist.Normal(y.reshape(3, 2), 1.0)), Y)
  To mend it: Let both hold as many numbers; -1 stands for the length that is left over: y.reshape(-1, 2).
"""
)
def a_reshape_that_does_not_fit():
    run(lambda y: vb.sample("y", dist.Normal(y.reshape(3, 2), 1.0)), Y)


@told(
    """
arrays of the shapes (4,), (2, 2) cannot be joined.
  FILE:LINE: run(lambda y: jnp.concatenate([y, jnp.ones((2, 2))]), Y)
  To mend it: Let them differ along the axis= of joining alone.
"""
)
def arrays_joined_that_do_not_fit():
    run(lambda y: jnp.concatenate([y, jnp.ones((2, 2))]), Y)


@told(
    """
JAX was given something that is no number.
  FILE:LINE: run(lambda: jnp.exp("a"))
  To mend it: Pass numbers, or arrays of them; encode words with np.unique(words, return_inverse=True).
"""
)
def words_among_arrays():
    run(lambda: jnp.exp("a"))


@told(
    """
a value of another run was used, which was kept outside the model.
  To mend it: Let values leave a model by return or by vb.deterministic; put none into lists or globals.
"""
)
def a_value_kept_from_another_run():
    kept = []

    @vb.model
    def model():
        kept.append(vb.sample("x", dist.Normal(0.0, 1.0)))
        vb.sample("y", dist.Normal(kept[0], 1.0), obs=1.0)

    vb.fit(model())


@told(
    """
site 'x': the sample statement stands inside jax.vmap, scan, cond, jit or grad, which its value cannot leave.
  To mend it: Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.
"""
)
def a_statement_inside_cond():
    run(lambda: jax.lax.cond(True, lambda: vb.sample("x", dist.Normal(0.0, 1.0)), lambda: 0.0))


@told(
    """
site 'x': the sample statement stands inside jax.vmap, scan, cond, jit or grad, which its value cannot leave.
  To mend it: Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.
"""
)
def a_statement_inside_jit():
    run(jax.jit(lambda: vb.sample("x", dist.Normal(0.0, 1.0))))


@told(
    """
site 'x': the sample statement stands inside jax.vmap, scan, cond, jit or grad, which its value cannot leave.
  To mend it: Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.
"""
)
def a_statement_inside_grad():
    run(lambda: jax.grad(lambda loc: vb.sample("x", dist.Normal(loc, 1.0)))(1.0))


@told(
    """
site 'd': the deterministic statement stands inside jax.vmap, scan, cond, jit or grad, which its value cannot leave.
  To mend it: Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.
"""
)
def a_note_inside_vmap():
    run(lambda: jax.vmap(lambda i: vb.deterministic("d", i))(jnp.arange(3.0)))


@told(
    """
site 'z': the site was there only when the model was first run.
  To mend it: Let the same statements run each time: nothing that counts runs, or is random, may choose among them.
"""
)
def a_site_of_the_first_run_only():
    runs = []

    @vb.model
    def model():
        runs.append(1)
        vb.sample("x", dist.Normal(0.0, 1.0))
        if len(runs) == 1:
            vb.sample("z", dist.Normal(0.0, 1.0))

    vb.target(model()).constrain(np.zeros(2))


@told(
    """
site 'z': the site was not there when the model was first run.
  To mend it: Let the same statements run each time: nothing that counts runs, or is random, may choose among them.
"""
)
def a_site_of_the_second_run_only():
    runs = []

    @vb.model
    def model():
        runs.append(1)
        vb.sample("x", dist.Normal(0.0, 1.0))
        if len(runs) > 1:
            vb.sample("z", dist.Normal(0.0, 1.0))

    vb.fit(model())


@told(
    """
model yields or is asynchronous, so none of its statements would run.
  To mend it: Write a plain function; a value leaves it by return, or by vb.deterministic.
"""
)
def an_iterator_of_statements():
    @vb.model
    async def model():
        yield vb.sample("x", dist.Normal(0.0, 1.0))


@told(
    """
rows yields or is asynchronous, so none of its statements would run.
  To mend it: Write a plain function; a value leaves it by return, or by vb.deterministic.
"""
)
def a_partial_function_that_yields():
    def rows(n):
        yield n

    vb.model(functools.partial(rows, 3))


@told(
    """
times, read from outside the arguments, holds the integer 1000000000000 at [0], beyond the 32 bits of int32.
  3 of 3 values lie outside -2147483648 ... 2147483647
  To mend it: Number ids by np.unique(ids, return_inverse=True), pass counts and times as floats, or set jax_enable_x64.
"""
)
def an_array_outside_beyond_32_bits():
    times = np.arange(3) + 10**12

    @vb.model
    def model():
        vb.sample("y", dist.Normal(times * vb.sample("a", dist.Normal(0.0, 1.0)), 1.0))

    model()


@told(
    """
site 'y': total_count holds the integer 5000000000, beyond the 32 bits of int32.
  To mend it: Number ids by np.unique(ids, return_inverse=True), pass counts and times as floats, or set jax_enable_x64.
"""
)
def a_python_int_beyond_32_bits():
    run(lambda: vb.sample("y", dist.Binomial(5_000_000_000, 0.5)))


@told(
    """
argument t of <lambda> holds datetime64[D] values, not numbers.
  To mend it: Count the time from the first: (t - t[0]) / np.timedelta64(1, 'D') is in days.
"""
)
def dates():
    run(lambda t: None, np.array(["2020-01-01"], "datetime64[D]"))


@told(
    """
argument x of <lambda> holds object values, not numbers.
  To mend it: Make it numbers, np.asarray(column, float), where None becomes NaN; encode words with np.unique.
"""
)
def objects():
    run(lambda x: None, np.array([1.0, None]))


@told(
    """
site 'y': obs holds complex numbers, but distributions are of real ones.
  To mend it: Observe real numbers: jnp.abs(y), or y.real and y.imag as two sites.
"""
)
def complex_observations():
    run(lambda y: vb.sample("y", dist.Normal(0.0, 1.0), obs=y), np.array(1.0 + 2.0j))


@told(
    """
site 'y': the rows of obs differ in length.
  To mend it: Pad them to one length, and let what is padding not count: dist.Normal(...).mask(is_real).
"""
)
def ragged_observations():
    run(lambda y: vb.sample("y", dist.Normal(0.0, 1.0), obs=y), [[1.0, 2.0], [3.0]])


@told(
    """
Normal: the rows of loc differ in length.
  To mend it: Pad them to one length, and let what is padding not count: d.mask(is_real).
"""
)
def a_ragged_parameter():
    dist.Normal([[1.0, 2.0], [3.0]], 1.0)


@told(
    """
the loc of Normal is None, which is not a number or an array of numbers.
  To mend it: Give Normal(loc=...) a number or an array of numbers.
"""
)
def a_parameter_that_is_none():
    dist.Normal(None, 1.0)


@told(
    """
the loc of Normal is {'a': 1.0}, which is not a number or an array of numbers.
  To mend it: Give Normal(loc=...) a number or an array of numbers.
"""
)
def a_parameter_that_is_a_dict():
    dist.Normal({"a": 1.0}, 1.0)


@told(
    """
Gamma has no parameter scale.
  To mend it: Give rate=, which is one over the scale.
"""
)
def a_scale_where_a_rate_is_asked_for():
    dist.Gamma(1.0, scale=2.0)


@told(
    """
Normal has no parameter scal.
  To mend it: Did you mean scale=?
"""
)
def a_parameter_misspelt():
    dist.Normal(0.0, scal=1.0)


@told(
    """
Normal has no parameter banana.
  To mend it: It takes loc, scale.
"""
)
def a_parameter_of_no_meaning():
    dist.Normal(0.0, banana=1.0)


@told(
    """
HalfNormal takes scale, but 2 values were given.
  To mend it: Write HalfNormal(scale=...).
"""
)
def more_parameters_than_there_are():
    dist.HalfNormal(0.0, 1.0)


@told(
    """
Bernoulli takes exactly one of probs, logits; given: probs and logits.
  To mend it: Write Bernoulli(logits=...).
"""
)
def both_probs_and_logits():
    dist.Bernoulli(0.5, logits=0.0)


@told(
    """
the component_distribution of a mixture is a list, which is not a distribution.
  To mend it: Let its last batch dimension count them: dist.Normal(jnp.array([-1.0, 1.0]), 0.5).
"""
)
def a_mixture_of_a_list():
    dist.MixtureSameFamily(dist.Categorical(probs=[0.5, 0.5]), [dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)])


@told(
    """
the weights of a mixture are a Categorical, not ndarray.
  To mend it: Write MixtureSameFamily(dist.Categorical(probs=weights), components).
"""
)
def weights_of_a_mixture_that_are_an_array():
    dist.MixtureSameFamily(np.array([0.5, 0.5]), dist.Normal(np.zeros(2), 1.0))


@told(
    """
the dimension of LKJCholesky must be an int of at least 2, not 1.0.
  To mend it: Write LKJCholesky(3, 1.0) for 3 x 3 matrices of concentration 1.
"""
)
def the_arguments_of_lkj_the_other_way_round():
    dist.LKJCholesky(1.0, 3)


@told(
    """
Dirichlet needs a vector of concentrations, not the number 1.0.
"""
)
def a_dirichlet_of_a_number():
    dist.Dirichlet(1.0)


@told(
    """
the parameters of MultivariateNormal do not fit together.
  loc: (2,)
  covariance_matrix: (2,)
  To mend it: Give loc the shape (..., K) and covariance_matrix the shape (..., K, K).
"""
)
def a_vector_of_variances():
    dist.MultivariateNormal(np.zeros(2), np.ones(2))


@told(
    """
the batch_shape of expand is (2.5,), which is not a tuple of whole numbers from 0 on.
  To mend it: Write batch_shape=(3,) for three, or () for one.
"""
)
def an_expansion_to_a_fraction():
    dist.Normal(0.0, 1.0).expand((2.5,))


@told(
    """
the batch_shape of expand is (-1,), which is not a tuple of whole numbers from 0 on.
  To mend it: Write batch_shape=(3,) for three, or () for one.
"""
)
def an_expansion_to_less_than_nothing():
    dist.Normal(0.0, 1.0).expand((-1,))


@told(
    """
reinterpreted_batch_ndims must be a whole number, such as 1, not 1.0.
"""
)
def a_fraction_of_a_dimension():
    dist.Normal(np.zeros(3), 1.0).to_event(1.0)


@told(
    """
site 'x': the batch shapes of the parameters of the masked Normal do not broadcast.
  distribution: (3,)
  mask: (2,)
  To mend it: Make them equal from the right, or 1, as NumPy does.
"""
)
def a_mask_of_another_length():
    run(lambda: vb.sample("x", dist.Normal(np.zeros(3), 1.0).mask(np.ones(2, bool))))


@told(
    """
Skew does not say which of its attributes are parameters.
  To mend it: Write @pytree above it (from vbppl.core.pytree), and its parameters as fields: loc: float = 0.0.
"""
)
def a_distribution_of_another_library_as_a_base():
    class Skew(dist.Distribution):
        support = dist.constraints.real

        def __init__(self, loc=0.0, validate_args=None):
            self.loc = loc
            super().__init__(batch_shape=(), event_shape=(), validate_args=validate_args)

    Skew()


class Flat(dist.Distribution):
    """A density that is one everywhere."""

    support = dist.constraints.real

    def _log_density(self, x):
        return jnp.zeros_like(x)


@told(
    """
site 'x': Lost has no support.
  To mend it: Write in the class where its values lie: support = dist.constraints.real.
"""
)
def a_distribution_without_a_support():
    class Lost(dist.Distribution):
        pass

    run(lambda: vb.sample("x", pytree(Lost)()))


@told(
    """
site 'x': Lost has no log density.
  To mend it: Write `def _log_density(self, x)` in its class, which returns that of each event.
"""
)
def a_distribution_without_a_density():
    class Lost(dist.Distribution):
        support = dist.constraints.real

    run(lambda: vb.sample("x", pytree(Lost)(), obs=1.0))


@told(
    """
site 'x': Undrawn has no way of drawing.
  To mend it: Write `def _sample(self, key, shape)` in its class, which returns draws of the whole shape.
"""
)
def a_distribution_without_draws():
    flat = pytree(type("Undrawn", (Flat,), {}))()
    vb.model(lambda: vb.sample("x", flat))().sample(2)


@told(
    """
site 'x': the log densities of Long have the wrong shape.
  returned: (2,)
  wanted:   ()
  To mend it: Let its `_log_density` return one number for each event: no sum over them, a constant broadcast to them.
"""
)
def a_density_of_another_shape():
    class Long(Flat):
        def _log_density(self, x):
            return jnp.zeros(2)

    run(lambda: vb.sample("x", pytree(Long)()))


@told(
    """
site 'x': the distribution is one of SciPy.
  To mend it: Write ours, which JAX can differentiate: dist.Normal(loc, scale), dist.StudentT(df, loc, scale).
"""
)
def a_distribution_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    run(lambda: vb.sample("x", stats.norm))


@told(
    """
site 'x': the second argument of sample must be a distribution, not a NoneType (None).
  To mend it: Write sample("x", dist.Normal(0.0, 1.0)); deterministic records a value.
"""
)
def a_sample_without_a_distribution():
    run(lambda: vb.sample("x"))


@told(
    """
a site's name must be a non-empty string, not Normal(loc=0.0, scale=1.0).
  To mend it: Put a name first: vb.sample("x", ...).
"""
)
def a_sample_without_a_name():
    run(lambda: vb.sample(dist.Normal(0.0, 1.0)))


@told(
    """
site 'x': sample has no argument rng_key=.
  To mend it: Leave it out: a seed is given to fit, and to my_model(...).sample(n, seed=...).
"""
)
def a_key_for_a_statement():
    run(lambda: vb.sample("x", dist.Normal(0.0, 1.0), rng_key=jax.random.key(0)))


@told(
    """
site 'x': sample has no argument observed=.
  To mend it: Write obs=y.
"""
)
def an_observation_by_another_name():
    run(lambda: vb.sample("x", dist.Normal(0.0, 1.0), observed=1.0))


@told(
    """
site 'w': init is None: it holds no number.
  To mend it: Write where the search begins: vb.param('w', 0.0).
"""
)
def a_param_without_a_value():
    run(lambda: vb.param("w"))


@told(
    """
site 'w': param has no argument event_dim=.
  To mend it: Leave it out: every number of a param is learnt, whatever its shape.
"""
)
def a_param_with_event_dims():
    run(lambda: vb.param("w", np.zeros(3), event_dim=1))


@told(
    """
site 'f': log_weight is a distribution, Normal, not numbers.
  To mend it: Take its log_prob(x) here, or state that a site has it: vb.sample('f', ...).
"""
)
def a_factor_that_is_a_distribution():
    run(lambda: vb.factor("f", dist.Normal(0.0, 1.0)))


@told(
    """
plate 'rows': dim must be a negative int (counted from the right), not -1.0.
  To mend it: The rightmost batch dim is -1, the next -2.
"""
)
def a_plate_dim_that_is_a_float():
    run(lambda: vb.plate("rows", 3, dim=-1.0))


@told(
    """
a site's name must be a non-empty string, not 3.
  To mend it: Put a name first: vb.plate("x", ...).
"""
)
def a_plate_whose_name_comes_second():
    run(lambda: vb.plate(3, "rows"))


@told(
    """
a list stands where an array is meant, after site 'a'.
  FILE:LINE: vb.sample("y", dist.Normal(x * vb.sample("a", dist.Normal(0.0, 1.0)), 1.0))
  unsupported operand type(s) for *: 'list' and 'DynamicJaxprTracer'
  To mend it: Pass an array, my_model(np.asarray(x)), which is data too; or write jnp.asarray(x) in the line.
"""
)
def a_list_times_a_site():
    @vb.model
    def model(x):
        vb.sample("y", dist.Normal(x * vb.sample("a", dist.Normal(0.0, 1.0)), 1.0))

    model([0.0, 1.0]).shapes()


@told(
    """
a list stands where an array is meant.
  FILE:LINE: with vb.plate("row", x.shape[0]):
  'list' object has no attribute 'shape'
  To mend it: Pass an array, my_model(np.asarray(x)), which is data too; or write jnp.asarray(x) in the line.
"""
)
def a_list_without_a_shape():
    @vb.model
    def model(x):
        with vb.plate("row", x.shape[0]):
            vb.sample("y", dist.Normal(0.0, 1.0), obs=x)

    model([0.0, 1.0]).shapes()


@told(
    """
the module math met a value that has no number yet, after site 'a'.
  FILE:LINE: vb.sample("y", dist.Normal(0.0, math.exp(a)))
  To mend it: Use jax.numpy: jnp.exp(x) for math.exp(x).
"""
)
def pythons_exponential():
    @vb.model
    def model():
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(0.0, math.exp(a)))

    model().shapes()


@told(
    """
NumPy met a value that has no number yet, after site 'a'.
  FILE:LINE: loc[0] = vb.sample("a", dist.Normal(0.0, 1.0))
  To mend it: Begin with a jnp.zeros(n). Write x = x.at[i].set(value), which gives a new array; or build it by \
jnp.stack or jnp.where.
"""
)
def a_site_put_into_an_array_of_numpy():
    @vb.model
    def model():
        loc = np.zeros(2)
        loc[0] = vb.sample("a", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(loc, 1.0))

    model().shapes()


@told(
    """
part(...) stands as a statement of its own in a model, where it runs nothing: its sites are lost.
  To mend it: State it as a part, vb.sample("part", part(...)); or call a plain function, without @vb.model.
"""
)
def a_model_called_as_a_function_in_another():
    @vb.model
    def part(x):
        return vb.sample("y", dist.Normal(x, 1.0))

    @vb.model
    def model():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        part(x)
        kept = part(x)  # one that is lost is told though another is not
        vb.sample("kept", kept)

    model().shapes()


@told(
    """
the loc of Normal is the model helper(float32[]), which has run nothing, and is not a number or an array of numbers.
  To mend it: State it, vb.sample("part", helper(...)), which returns what it returns; or drop its @vb.model.
"""
)
def a_model_called_for_its_value_in_another():
    @vb.model
    def helper(x):
        return 2 * x

    vb.model(lambda: vb.sample("y", dist.Normal(helper(vb.sample("x", dist.Normal(0.0, 1.0))), 1.0)))().shapes()


@told(
    """
the weight of Normal is 'x', which is not a number or an array of numbers.
  To mend it: Write Normal(...).weighted(w), with w a number or an array of numbers from 0 on.
"""
)
def a_weight_that_is_a_word():
    dist.Normal(0.0, 1.0).weighted("x")


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_jax_refuses_is_told_in_the_words_of_the_language(name):
    CATALOGUE.check(name)
