"""Wrong models and what they are told, whole: the site, the values that disagree, and the mend."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wrong_programs import Catalogue

import vbppl as vb
import vbppl.distributions as dist
from vbppl.distributions import constraints
from vbppl.model.claims import holds

N = 4
Y = np.arange(4.0)
CATALOGUE = Catalogue()
told = CATALOGUE.told


def run(function, *args, **kwargs):
    """Make the function a model, and look at the shapes of its sites."""
    return vb.model(function)(*args, **kwargs).shapes()


def regression(loc, y, scale=1.0, size=N):
    """A model of rows whose shapes may disagree."""

    def model():
        with vb.plate("rows", size):
            vb.sample("y", dist.Normal(loc, scale), obs=y)

    return run(model)


@vb.model
def school():
    """A model that nothing is wrong with."""
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    with vb.plate("school", N):
        theta = vb.sample("theta", dist.Normal(mu, 1.0))
    vb.deterministic("total", theta.sum())


@told(
    """
site 'y': obs has shape (5,), but the site has shape (4,).
  obs:          (5,)
  site:         (4,) = batch (4,) + event ()
  plate 'rows': dim -1, 4 rows
  To mend it: Make the size of plate 'rows' 5, or pass 4 rows of observations.
"""
)
def obs_of_another_length():
    regression(0.0, np.arange(5.0))


@told(
    """
site 'y': obs has shape (4, 1), but the site has shape (4,).
  obs:          (4, 1)
  site:         (4,) = batch (4,) + event ()
  plate 'rows': dim -1, 4 rows
  To mend it: Reshape it: obs=y.reshape((4,)).
"""
)
def obs_is_a_column():
    regression(0.0, Y[:, None])


@told(
    """
site 'y': obs has shape (3, 4), but the site has shape (4, 3).
  obs:             (3, 4)
  site:            (4, 3) = batch (4, 3) + event ()
  plate 'columns': dim -1, 3 rows
  plate 'rows':    dim -2, 4 rows
  To mend it: Transpose it: obs=y.T.
"""
)
def obs_is_transposed():
    def model():
        with vb.plate("columns", 3), vb.plate("rows", 4):
            vb.sample("y", dist.Normal(0.0, 1.0), obs=np.zeros((3, 4)))

    run(model)


@told(
    """
site 'y': obs has shape (4,), but the site has shape ().
  obs:  (4,)
  site: () = batch () + event ()
  To mend it: Put the statement into a plate over the observations: with vb.plate('rows', 4): ...
"""
)
def obs_without_a_plate():
    run(lambda: vb.sample("y", dist.Normal(0.0, 1.0), obs=Y))


@told(
    """
site 'y': obs holds strings, not numbers.
  To mend it: Encode it as numbers, for instance with np.unique(column, return_inverse=True).
"""
)
def obs_of_strings():
    regression(0.0, np.array(["a", "b", "c", "d"]))


@told(
    """
site 'y': dim -2 of the distribution's batch has length 4, but no plate owns it.
  loc:                      (4,)
  scale:                    (4, 1)
  the distribution's batch: (4, 4)
  plate 'rows':             dim -1, 4 rows
  To mend it: Drop the last dim of scale: scale.squeeze(-1). It broadcasts to (4, 4) otherwise.
"""
)
def a_column_among_the_parameters():
    regression(Y, Y, scale=np.ones((4, 1)))


@told(
    """
site 'y': dim -2 of the distribution's batch has length 4, but no plate owns it.
  the distribution's batch: (4, 1)
  plate 'rows':             dim -1, 4 rows
  To mend it: Drop the dims of length 1 from the parameters, for instance with loc.squeeze(-1) or loc[:, 0].
"""
)
def all_parameters_are_columns():
    regression(Y[:, None], Y)


@told(
    """
site 'y': dim -1 of the distribution's batch has length 3, but plate 'rows' has 4 rows there.
  the distribution's batch: (4, 3)
  plate 'rows':             dim -1, 4 rows
  To mend it: Make the dims to the right of the plate's rows a part of the event: .to_event(1).
"""
)
def vectors_in_a_plate():
    regression(np.zeros((4, 3)), np.zeros((4, 3)))


@told(
    """
site 'y': dim -2 of the distribution's batch has length 3, but no plate owns it.
  the distribution's batch: (3, 4)
  plate 'rows':             dim -1, 4 rows
  To mend it: Open a plate over it, vb.plate(..., 3, dim=-2); or move it to the right and write .to_event(1).
"""
)
def a_dim_without_a_plate():
    regression(np.zeros((3, 4)), np.zeros((3, 4)))


@told(
    """
site 'y': dim -1 of the distribution's batch has length 4, but plate 'rows' has 5 rows there.
  the distribution's batch: (4,)
  plate 'rows':             dim -1, 5 rows
  To mend it: Make the plate's size 4, or use arrays with 5 rows. If each row is a vector of 4, write .to_event(1).
"""
)
def another_size_of_plate():
    regression(Y, Y, size=5)


@told(
    """
site 'y': obs has shape (4,), but the site has shape (2,).
  obs:          (4,)
  site:         (2,) = batch (2,) + event ()
  plate 'rows': dim -1, 2 of 4 rows
  To mend it: The plate shows a part of its rows; show the same of the data: obs=vb.subsample(y).
"""
)
def rows_not_subsampled_in_obs():
    def model():
        with vb.plate("rows", N, subsample_size=2):
            vb.sample("y", dist.Normal(0.0, 1.0), obs=Y)

    vb.target(vb.model(model)()).log_density(np.zeros(0), {"rows": [0, 1]})


@told(
    """
site 'y': dim -1 of the distribution's batch has length 4, but plate 'rows' has 2 rows there.
  the distribution's batch: (4,)
  plate 'rows':             dim -1, 2 of 4 rows
  To mend it: Show the same rows of the arrays: vb.subsample(array), or array[i] where the plate yields i.
"""
)
def rows_not_subsampled_in_the_parameters():
    def model():
        with vb.plate("rows", N, subsample_size=2):
            vb.sample("y", dist.Normal(Y, 1.0), obs=vb.subsample(Y))

    vb.target(vb.model(model)()).log_density(np.zeros(0), {"rows": [0, 1]})


@told(
    """
axis -2 of the array given to subsample has length 5, but plate 'rows' has 4 rows.
  array:        (5, 2)
  plate 'rows': dim -1, 4 rows
  To mend it: Pass the whole array, with event_dim= the number of dims to the right of the plates'.
"""
)
def subsample_of_another_array():
    def model():
        with vb.plate("rows", N):
            vb.subsample(np.zeros((5, 2)), event_dim=1)

    run(model)


@told(
    """
site 'x': the name is used twice, by two sample statements.
  To mend it: Give each statement its own name; for many like variables use a plate.
"""
)
def a_name_used_twice():
    def model():
        for _ in range(2):
            vb.sample("x", dist.Normal(0.0, 1.0))

    run(model)


@told(
    """
sample('x', ...) was called outside a model.
  To mend it: Put it into a function under @vb.model; vb.fit(my_model(x)) or my_model(x).sample() then runs it.
"""
)
def a_word_outside_a_model():
    vb.sample("x", dist.Normal(0.0, 1.0))


@told(
    """
site 'k': a discrete latent site is summed over its values, but Poisson has infinitely many values.
  To mend it: Cut it off, dist.Categorical(logits=dist.Poisson(3.0).log_prob(jnp.arange(50))); or pass obs=.
"""
)
def a_discrete_latent_variable_without_a_bound():
    @vb.model
    def abundance():
        vb.sample("k", dist.Poisson(3.0))

    vb.fit(abundance())


@told(
    """
site 'x': a latent variable cannot have all its mass on one point (Delta): its density has no gradient.
  To mend it: Write vb.deterministic(name, value), or pass obs=... if it is observed.
"""
)
def a_point_mass_as_a_latent_variable():
    vb.target(vb.model(lambda: vb.sample("x", dist.Delta(1.0)))())


@told(
    """
regression(x, y=None): missing a required argument: 'x'
"""
)
def a_missing_argument():
    @vb.model
    def regression(x, y=None):
        pass

    regression(y=Y)


@told(
    """
plate 'rows': size must be a positive int below 2^31, not 4.0.
  To mend it: Take it from the shape of the data: len(y), x.shape[0].
"""
)
def a_plate_size_that_is_no_int():
    def model():
        with vb.plate("rows", 4.0):
            pass

    run(model)


@told(
    """
plate 'group': size must be an int known before the run, but it is computed from data.
  To mend it: Take it from the shape of the data (len(y)), or pass an int to the model: n=int(k.max()) + 1.
"""
)
def a_plate_size_computed_from_data():
    def model(k):
        with vb.plate("group", k.max() + 1):
            pass

    run(model, np.array([0, 1, 2]))


@told(
    """
plates 'a' and 'b' both own dim -1.
  plate 'a': dim -1, 3 rows
  plate 'b': dim -1, 4 rows
  To mend it: Give one of them another dim=..., or create the inner plate inside the outer one.
"""
)
def two_plates_on_one_dim():
    def model():
        a, b = vb.plate("a", 3), vb.plate("b", 4)
        with a, b:
            pass

    run(model)


@told(
    """
site 'rows': the name is used by a plate of 3 rows and by a plate of 4 rows.
  To mend it: Rename one of the two.
"""
)
def two_plates_of_one_name():
    def model():
        with vb.plate("rows", 3):
            pass
        with vb.plate("rows", 4):
            pass

    run(model)


@told(
    """
site 'x': the second argument of sample must be a distribution, not a float (1.0).
  To mend it: Write sample("x", dist.Normal(0.0, 1.0)); deterministic records a value.
"""
)
def a_float_as_distribution():
    run(lambda: vb.sample("x", 1.0))


@told(
    """
site 'x': the second argument of sample is the function prior, not a distribution.
  To mend it: A model stands here applied to its arguments: write prior(...), with prior under @vb.model.
"""
)
def a_model_without_its_arguments():
    @vb.model
    def prior():
        pass

    run(lambda: vb.sample("x", prior))


@told(
    """
NumPy met a value that has no number yet, after site 'x'.
  FILE:LINE: vb.deterministic("y", np.exp(x))
  To mend it: Use jax.numpy: jnp.exp(x) for np.exp(x), jnp.asarray(table)[i] for table[i].
"""
)
def numpy_inside_a_model():
    def model():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.deterministic("y", np.exp(x))

    run(model)


@told(
    """
Python's `if`, `while`, `and` or `not` met a value that has no number yet, after site 'x'.
  FILE:LINE: if vb.sample("x", dist.Normal(0.0, 1.0)) > 0:
  To mend it: Write jnp.where(condition, a, b), or jax.lax.cond.
"""
)
def a_python_if_inside_a_model():
    def model():
        if vb.sample("x", dist.Normal(0.0, 1.0)) > 0:
            vb.factor("f", 1.0)

    run(model)


@told(
    """
model got an argument of type set, which is neither numbers nor hashable.
  {1, 2}
  To mend it: Pass arrays, numbers, strings, or lists, tuples and dicts of these.
"""
)
def an_argument_that_is_no_data():
    @vb.model
    def model(options):
        pass

    model({1, 2})


@told(
    """
argument x of model holds strings, not numbers.
  To mend it: Encode it as numbers, for instance with np.unique(column, return_inverse=True).
"""
)
def an_array_of_strings():
    @vb.model
    def model(x):
        pass

    model(np.array(["a", "b"]))


@told(
    """
school has no site 'thete'.
  its sites: mu, school, theta, total
  To mend it: Did you mean 'theta'?
"""
)
def a_condition_on_an_unknown_name():
    school().condition(thete=np.zeros(4))


@told(
    """
site 'theta': the value given has shape (3,), but the site has shape (4,).
  value:          (3,)
  site:           (4,)
  plate 'school': dim -1, 4 rows
  To mend it: Give one value of the site's shape; model.shapes() prints the shapes of all sites.
"""
)
def a_condition_of_another_shape():
    school().condition(theta=np.zeros(3))


@told(
    """
site 'total': condition cannot set a deterministic statement.
  To mend it: Set sample sites; use do for deterministic ones, and arguments of the model for the rest.
"""
)
def a_condition_on_a_deterministic_site():
    school().condition(total=1.0)


@told(
    """
site 'theta': no value was given for this site.
  To mend it: Add 'theta' to the values: an array of shape (4,), or draws (n, ...) of it.
"""
)
def values_that_lack_a_site():
    school().log_joint({"mu": 0.0})


@told(
    """
school has no site 'tau'.
  its sites: mu, school, theta, total
  To mend it: Use one of these names.
"""
)
def values_with_an_unknown_name():
    school().log_joint({"mu": 0.0, "theta": Y, "tau": 1.0})


@told(
    """
site 'theta': the site is observed, so its value is the model's own data.
  To mend it: Leave it out of the values, or apply the model to other data.
"""
)
def values_of_an_observed_site():
    school().condition(theta=Y).log_joint({"mu": 0.0, "theta": Y})


@told(
    """
the values are neither one value for each site nor the same number of draws of each.
  mu: site (), values (10,)
  theta: site (4,), values (4,)
  To mend it: Give every latent site a value of its own shape, or n of them along a new first axis.
"""
)
def draws_and_values_together():
    school().log_joint({"mu": np.zeros(10), "theta": Y})


@told(
    """
site 'w': init is a function (<lambda>) that a key alone does not satisfy.
  To mend it: Pass the initial value itself, or a function of a key: lambda key: jax.random.normal(key, (3,)).
"""
)
def a_param_that_is_a_function_of_nothing():
    run(lambda: vb.param("w", lambda: 0.0))


@told(
    """
site 'w': init holds no floating-point number, so there is nothing to learn.
  To mend it: Write it with floats: 1.0, not 1; jnp.zeros(3), not jnp.zeros(3, int).
"""
)
def a_param_without_floats():
    vb.target(vb.model(lambda: vb.param("w", np.zeros(3, int)))())


@told(
    """
site 'sd': init is 0, off its support, positive.
  To mend it: Start from a value strictly inside, for instance 1.0 for constraints.positive.
"""
)
def a_param_off_its_support():
    vb.target(vb.model(lambda: vb.param("sd", 0.0, constraint=dist.constraints.positive))())


@told(
    """
site 'sd': constraint is 'positive', which is not a constraint.
  To mend it: Take one from vbppl.distributions.constraints, such as constraints.positive.
"""
)
def a_constraint_that_is_none():
    run(lambda: vb.param("sd", 1.0, constraint="positive"))


@told(
    """
site 'theta': the guide does not sample this latent site of the model.
  mu:    model (), guide ()
  theta: model (4,), guide none
  To mend it: Add vb.sample("theta", ...) to the guide.
"""
)
def a_guide_that_lacks_a_site():
    @vb.guide
    def guide():
        vb.sample("mu", dist.Normal(0.0, 1.0))

    vb.fit(school(), guide())


@told(
    """
site 'theta': the site has shape (4,) in the model and () in the guide.
  mu:    model (), guide ()
  theta: model (4,), guide ()
  To mend it: Open the same plates in the guide as in the model, or expand the guide's distribution.
"""
)
def a_guide_of_another_shape():
    @vb.guide
    def guide():
        vb.sample("mu", dist.Normal(0.0, 1.0))
        vb.sample("theta", dist.Normal(0.0, 1.0))

    vb.fit(school(), guide())


@told(
    """
expected a model applied to its arguments, but got the model function <model school()> itself.
  To mend it: Apply it to its arguments, which runs nothing yet: school(...).
"""
)
def a_model_that_was_not_applied():
    vb.fit(school)


@told(
    """
expected a model applied to its arguments, but got the plain function my_model.
  To mend it: Write @vb.model above it, and apply it to its arguments: my_model(...).
"""
)
def a_plain_function():
    def my_model(y):
        pass

    vb.fit(my_model)


@told(
    """
plate 'rows' (dim -1, 3 rows) stands inside itself.
  To mend it: Close it first, or give the inner plate its own name.
"""
)
def a_plate_inside_itself():
    def model():
        plate = vb.plate("rows", 3)
        with plate, plate:
            pass

    run(model)


@told(
    """
plate 'rows': dim must be a negative int (counted from the right), not 0.
  To mend it: The rightmost batch dim is -1, the next -2.
"""
)
def a_plate_dim_counted_from_the_left():
    run(lambda: vb.plate("rows", 3, dim=0))


@told(
    """
plate 'rows': subsample_size is 4, but the plate has only 3 rows.
  To mend it: Leave subsample_size out, or make it smaller.
"""
)
def more_rows_than_there_are():
    run(lambda: vb.plate("rows", 3, subsample_size=4))


@told(
    """
site 'part': a model has no single value to observe.
  To mend it: Condition it by the names of its sites: sample(name, other(x).condition(y=...)).
"""
)
def a_submodel_with_obs():
    run(lambda: vb.sample("part", school(), obs=1.0))


@told(
    """
site 'tau': the guide samples a site that is no latent site of the model.
  mu:    model (), guide ()
  theta: model (4,), guide (4,)
  tau:   model none, guide ()
  To mend it: Leave it out, or give it the name of the model's site.
"""
)
def a_guide_with_a_site_too_many():
    @vb.guide
    def guide():
        vb.sample("mu", dist.Normal(0.0, 1.0))
        vb.sample("tau", dist.Normal(0.0, 1.0))
        with vb.plate("school", N):
            vb.sample("theta", dist.Normal(0.0, 1.0))

    vb.fit(school(), guide())


@vb.model
def waits(y, rate=1.0):
    mu = vb.sample("mu", dist.HalfNormal(1.0))
    with vb.plate("rows", len(y)):
        vb.sample("y", dist.Gamma(mu, rate), obs=y)


@told(
    """
site 'y': 2 of 4 values of obs are off its support, nonnegative; the first, at [1], is -1.5.
  To mend it: Look for mistakes in these rows, or choose a distribution whose support holds them.
"""
)
def observations_off_their_support():
    vb.fit(waits(np.array([1.0, -1.5, -2.0, 3.0])))


@told(
    """
site 'y': 1 of 3 values of obs is NaN; the first, at [2].
  To mend it: Leave these rows out, or say which were observed, so that the others are latent: obs_mask=~jnp.isnan(y).
"""
)
def observations_that_are_missing():
    vb.fit(waits(np.array([1.0, 2.0, np.nan])))


@told(
    """
site 'w': obs is [0.2, 0.5, 0.9], off its support, simplex.
  To mend it: Divide each row by its sum: w / w.sum(axis=-1, keepdims=True).
"""
)
def an_observed_simplex_that_is_none():
    @vb.model
    def shares():
        a = vb.sample("a", dist.HalfNormal(1.0))
        vb.sample("w", dist.Dirichlet(a * jnp.ones(3)), obs=[0.2, 0.5, 0.9])

    vb.fit(shares())


@told(
    """
site 'y': 1 of 2 values of rate is off its support, positive; the first, at [1], is -2.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_negative_rate_among_the_arguments():
    vb.fit(waits(np.array([1.0, 2.0]), np.array([1.0, -2.0])))


@told(
    """
site 'x': scale is -1, off its support, nonnegative.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_negative_scale_before_prior_draws():
    vb.model(lambda: vb.sample("x", dist.Normal(0.0, -1.0)))().sample(3)


@told(
    """
site 'x': high is 0, off its support, greater_than(1.0).
  To mend it: Give the lower bound first: a low that is below high.
"""
)
def bounds_in_the_wrong_order():
    vb.fit(vb.model(lambda: vb.sample("x", dist.Uniform(1.0, 0.0)))())


@told(
    """
site 'k': probs is [2., 3., 5.], off its support, simplex.
  To mend it: Divide by the sum: p / p.sum(axis=-1, keepdims=True).
"""
)
def probabilities_without_the_sum_one():
    vb.model(lambda: vb.sample("k", dist.Categorical(probs=[2.0, 3.0, 5.0])))().sample(3)


@told(
    """
site 'x': covariance_matrix is [[1. , 0.9], [0. , 1. ]], off its support, positive_definite.
  To mend it: Make it symmetric, (C + C.T) / 2, and add to its diagonal: C + 1e-6 * np.eye(n).
"""
)
def a_covariance_that_is_not_symmetric():
    covariance = np.array([[1.0, 0.9], [0.0, 1.0]])
    vb.fit(vb.model(lambda: vb.sample("x", dist.MultivariateNormal(np.zeros(2), covariance)))())


@told(
    """
site 'x': scale is 's', which may be any number, but scale must lie on positive.
  To mend it: Give 's' a positive prior, such as HalfNormal or LogNormal, or write jnp.exp(s).
"""
)
def a_scale_that_may_be_negative():
    def model():
        vb.sample("x", dist.Normal(0.0, vb.sample("s", dist.Normal(0.0, 1.0))))

    vb.fit(vb.model(model)())


@told(
    """
site 'w': init depends on a latent variable.
  To mend it: Start it from a number; what depends on latent variables is written with vb.deterministic.
"""
)
def a_param_that_begins_at_a_latent_variable():
    def model():
        w = vb.param("w", vb.sample("mu", dist.Normal(0.0, 1.0)))
        vb.sample("x", dist.Normal(w, 1.0), obs=1.0)

    vb.fit(vb.model(model)())


@told(
    """
site 'w': init is [0.2, 0.3], off its support, simplex.
  To mend it: Divide by the sum: p / p.sum(axis=-1, keepdims=True).
"""
)
def a_simplex_to_begin_with_that_is_none():
    def model():
        w = vb.param("w", np.array([0.2, 0.3]), constraint=dist.constraints.simplex)
        vb.sample("x", dist.Categorical(probs=w), obs=1)

    vb.fit(vb.model(model)())


@told(
    """
<lambda>() has no sample statement, so there is nothing to fit.
  To mend it: State what is unknown, x = vb.sample("x", dist.Normal(0.0, 1.0)), and what was observed, with obs=y.
"""
)
def a_model_without_sites():
    vb.fit(vb.model(lambda: None)())


@told(
    """
the data of waits(float32[2]) have no numbers yet: vb.fit stands inside jax.jit, vmap or grad.
  To mend it: Call it outside of them; vb.fit_many fits many data sets side by side.
"""
)
def a_fit_under_jit():
    jax.jit(lambda y: vb.fit(waits(y)))(np.ones(2))


WRAPS = (
    "  To mend it: Number ids by np.unique(ids, return_inverse=True), pass counts and times as floats, or set "
    "jax_enable_x64."
)


@told(
    """
site 'y': obs holds the integer 4294967301, beyond the 32 bits of int32.
"""
    + WRAPS
)
def a_count_beyond_32_bits():
    @vb.model
    def counts():
        vb.sample("y", dist.Poisson(vb.sample("r", dist.Gamma(1.0, 1.0))), obs=np.array(4_294_967_301))

    vb.fit(counts())


@told(
    """
argument y of waits holds the integer -3000000000 at [2], beyond the 32 bits of int32.
  1 of 3 values lie outside -2147483648 ... 2147483647
"""
    + WRAPS
)
def an_argument_beyond_32_bits():
    waits(np.array([1, 2, -3_000_000_000]))


@told(
    """
site 'theta': the value given holds the integer 1099511627776 at [0], beyond the 32 bits of int32.
  4 of 4 values lie outside -2147483648 ... 2147483647
"""
    + WRAPS
)
def a_condition_beyond_32_bits():
    school().condition(theta=np.full(4, 2**40))


@told(
    """
plate 'rows' (dim -2, 3 rows) stands inside itself.
  To mend it: Close it first, or give the inner plate its own name.
"""
)
def two_nested_plates_of_one_name():
    def model():
        with vb.plate("rows", 3), vb.plate("rows", 3):
            vb.sample("x", dist.Normal(0.0, 1.0))

    run(model)


@told(
    """
plate 'rows': size must be a positive int below 2^31, not 1000000000000000000.
  To mend it: Take it from the shape of the data: len(y), x.shape[0].
"""
)
def a_plate_too_large_to_count():
    run(lambda: vb.plate("rows", 10**18))


@told(
    """
rows yields or is asynchronous, so none of its statements would run.
  To mend it: Write a plain function; a value leaves it by return, or by vb.deterministic.
"""
)
def a_model_that_yields():
    @vb.model
    def rows():
        yield vb.sample("x", dist.Normal(0.0, 1.0))


@told(
    """
later yields or is asynchronous, so none of its statements would run.
  To mend it: Write a plain function; a value leaves it by return, or by vb.deterministic.
"""
)
def a_model_that_is_awaited():
    @vb.model
    async def later():
        vb.sample("x", dist.Normal(0.0, 1.0))


INSIDE = """
site 'x': the sample statement stands inside jax.vmap, scan, cond, jit or grad, which its value cannot leave.
  To mend it: Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.
"""


@told(INSIDE)
def a_statement_inside_vmap():
    run(lambda: jax.vmap(lambda _: vb.sample("x", dist.Normal(0.0, 1.0)))(jnp.arange(3)))


@told(INSIDE)
def a_statement_inside_scan():
    def step(total, _):
        return total + vb.sample("x", dist.Normal(0.0, 1.0)), total

    run(lambda: jax.lax.scan(step, 0.0, None, length=3))


@told(
    """
a count of values met a value that has no number yet.
  FILE:LINE: size = len(np.unique(k))
  To mend it: Count outside the model, and pass the number: my_model(k, n=len(np.unique(k))).
"""
)
def a_size_counted_from_values():
    def model(k):
        size = len(np.unique(k))
        vb.sample("x", dist.Normal(np.zeros(size), 1.0))

    run(model, np.array([0, 1, 1]))


@told(
    """
a selection of rows met a value that has no number yet.
  FILE:LINE: positive = y[y > 0]
  To mend it: Select outside the model, y[y > 0]; or let some rows not count: dist.Normal(...).mask(y > 0).
"""
)
def rows_selected_by_value():
    def model(y):
        positive = y[y > 0]
        vb.sample("y", dist.Normal(0.0, 1.0), obs=positive)

    run(model, Y)


@told(
    """
Normal has no parameter mu.
  To mend it: Did you mean loc=?
"""
)
def a_parameter_under_another_name():
    dist.Normal(mu=0.0)


@told(
    """
Normal has no parameter validate_args.
  To mend it: Leave it out: what is known of the numbers is always looked at.
"""
)
def arguments_to_be_validated():
    dist.Normal(0.0, 1.0, validate_args=True)


@told(
    """
the loc of Normal is 'a', which is not a number or an array of numbers.
  To mend it: Give Normal(loc=...) a number or an array of numbers.
"""
)
def a_parameter_that_is_a_string():
    dist.Normal("a", 1.0)


@told(
    """
site 'x': sample has no argument rng_key=.
  To mend it: Leave it out: a seed is given to fit, and to my_model(...).sample(n, seed=...).
"""
)
def a_keyword_of_another_language():
    run(lambda: vb.sample("x", dist.Normal(0.0, 1.0), rng_key=0))


@told(
    """
site 'x': Skew does not say which of its attributes are parameters.
  To mend it: Write @pytree above it (from vbppl.core.pytree), and its parameters as fields: loc: float = 0.0.
"""
)
def a_distribution_that_is_no_pytree():
    class Skew(dist.Distribution):
        support = dist.constraints.real

    run(lambda: vb.sample("x", Skew()))


def test_what_does_not_count_may_be_missing():
    @vb.model
    def masked(y):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("rows", len(y)):
            vb.sample("y", dist.Normal(mu, 1.0).mask(~jnp.isnan(y)), obs=y)

    assert vb.fit(masked(np.array([1.0, np.nan]))).mean()["mu"] == pytest.approx(0.5)


def test_wrong_data_are_refused_before_anything_is_compiled(compilations):
    before = compilations()
    with pytest.raises(vb.ModelError):
        vb.fit(waits(np.array([1.0, -1.5, -2.0, 3.0, 4.0])))
    assert compilations() == before


# The points lie on the support, beside it and at its edges; the reference is the constraint's own check.
SUPPORTS = [
    (rule, points)
    for points in (np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, np.inf, -np.inf, np.nan], np.float32),)
    for rule in (
        *(constraints.real, constraints.positive, constraints.nonnegative, constraints.unit_interval),
        *(constraints.interval(0.5, 2.0), constraints.greater_than(0.5), constraints.greater_than_eq(0.5)),
        *(constraints.less_than(2.0), constraints.less_than_eq(2.0), constraints.boolean),
        *(constraints.integer_interval(1, 2), constraints.nonnegative_integer, constraints.positive_integer),
    )
] + [
    (constraints.simplex, np.array([[0.5, 0.5], [0.5, 0.4], [1.5, -0.5]])),
    (constraints.positive_definite, np.array([np.eye(2), [[1.0, 0.9], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])),
    (constraints.real_vector, np.array([[1.0, 2.0], [np.nan, 1.0]])),
]


@pytest.mark.parametrize(("rule", "points"), SUPPORTS, ids=lambda each: str(each) if not hasattr(each, "shape") else "")
def test_numpys_check_of_a_support_is_that_of_the_support(rule, points):
    np.testing.assert_array_equal(holds(rule, points), np.asarray(rule.check(points)))


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_wrong_model_is_told_what_where_and_how_to_mend_it(name):
    CATALOGUE.check(name)
