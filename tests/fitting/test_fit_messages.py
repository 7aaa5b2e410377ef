"""What is told at the doors: data that are wrong, and arguments of `fit`, `fit_many` and a model's methods."""

from __future__ import annotations

import time
import traceback

import jax.numpy as jnp
import numpy as np
import pytest
from wrong_programs import Catalogue

import vbppl as vb
import vbppl.distributions as dist

CATALOGUE = Catalogue()
told = CATALOGUE.told
Y = np.arange(4.0)


@vb.model
def line(x, y, sd=1.0):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    b = vb.sample("b", dist.Normal(0.0, 1.0))
    with vb.plate("rows", len(y)):
        vb.sample("y", dist.Normal(a + b * x, sd), obs=y)


@vb.model
def mean(y):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("rows", len(y)):
        vb.sample("y", dist.Normal(mu, 1.0), obs=y)


@vb.model
def half(y, low=0.0):
    high = vb.sample("high", dist.HalfNormal(1.0))
    with vb.plate("rows", len(y)):
        vb.sample("y", dist.Uniform(low, high), obs=y)


def observed(make, y, prior=None):
    """Fit a model of rows whose distribution is made of one latent variable."""

    @vb.model
    def model(y):
        u = vb.sample("u", prior or dist.Beta(1.0, 1.0))
        with vb.plate("rows", len(y)):
            vb.sample("y", make(u), obs=y)

    return vb.fit(model(np.array(y)))


@told(
    """
site 'y': 2 of 4 values of loc are NaN; the first, at [1].
  argument x of line holds NaN: 2 of 4 values; the first, at [1]
  To mend it: Leave these rows out, or fill in what is missing.
"""
)
def a_covariate_that_is_missing():
    vb.fit(line(np.array([1.0, np.nan, 2.0, np.nan]), Y))


@told(
    """
site 'y': 1 of 2 values of logits is NaN; the first, at [1].
  argument x of model holds NaN: 1 of 4 values; the first, at [1, 0]
  To mend it: Leave these rows out, or fill in what is missing.
"""
)
def covariates_of_a_matrix_that_are_missing():
    @vb.model
    def model(x, y):
        b = vb.sample("b", dist.Normal(np.zeros(2), 1.0).to_event(1))
        with vb.plate("rows", len(y)):
            vb.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    vb.fit(model(np.array([[1.0, 2.0], [np.nan, 1.0]]), np.array([0, 1])))


@told(
    """
site 'y': 1 of 4 values of loc is NaN; the first, at [1].
  argument x of model holds NaN: 1 of 4 values; the first, at [1]
  To mend it: Leave these rows out, or fill in what is missing.
"""
)
def a_covariate_that_is_missing_in_minibatches():
    @vb.model
    def model(x, y):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        with vb.plate("rows", len(y)):
            vb.sample("y", dist.Normal(a * vb.subsample(x), 1.0), obs=vb.subsample(y))

    vb.fit(model(np.array([1.0, np.nan, 2.0, 3.0]), Y), batch_size=2)


@told(
    """
site 'tau': nothing in the model says where tau lies: its prior is masked or improper, and no observation that counts \
depends on it. So there is no posterior.
  To mend it: Give the site a prior that counts, or observe what depends on it.
"""
)
def a_scale_whose_prior_and_data_are_masked():
    @vb.model
    def model(y):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        tau = vb.sample("tau", dist.HalfNormal(1.0).mask(False))
        with vb.plate("rows", len(y)):
            vb.sample("y", dist.Normal(mu, tau).mask(False), obs=y)

    vb.fit(model(Y))


@told(
    """
site 'z': nothing in the model says where z[2] lies: its prior is masked or improper, and no observation that counts \
depends on it. So there is no posterior.
  To mend it: Give the site a prior that counts, or observe what depends on it.
"""
)
def a_row_that_nothing_says_anything_of():
    @vb.model
    def model(y, known):
        with vb.plate("rows", len(y)):
            z = vb.sample("z", dist.Normal(0.0, 1.0).mask(known))
            vb.sample("y", dist.Normal(z, 1.0).mask(known), obs=y)

    vb.fit(model(Y, np.array([True, True, False, True])), "mean_field")


@told(
    """
site 'y': 1 of 2 values of obs is off its support, real; the first, at [1], is inf.
  To mend it: Look for mistakes in these rows, or choose a distribution whose support holds them.
"""
)
def an_infinite_observation():
    vb.fit(mean(np.array([1.0, np.inf])))


@told(
    """
site 'y': 1 of 2 values of obs is NaN; the first, at [1].
  To mend it: Leave these rows out, or say which were observed, so that the others are latent: obs_mask=~jnp.isnan(y).
"""
)
def a_logarithm_of_what_is_negative():
    observed(lambda u: dist.Normal(u, 1.0), jnp.log(np.array([1.0, -1.0])))


@told(
    """
site 'mu': obs is NaN.
  To mend it: Leave these rows out, or say which were observed, so that the others are latent: obs_mask=~jnp.isnan(y).
"""
)
def a_condition_that_is_missing():
    vb.fit(mean(Y).condition(mu=np.nan))


@told(
    """
site 'f': log_weight is NaN.
  argument w of model holds NaN
  To mend it: Leave these rows out, or fill in what is missing.
"""
)
def a_weight_that_is_missing():
    @vb.model
    def model(w):
        vb.factor("f", w * vb.sample("x", dist.Normal(0.0, 1.0)))

    vb.fit(model(np.array(np.nan)))


@told(
    """
site 'y': 1 of 3 values of obs is off its support, nonnegative_integer; the first, at [1], is -2.
  To mend it: Look for mistakes in these rows, or choose a distribution whose support holds them.
"""
)
def a_count_that_is_negative():
    observed(dist.Poisson, [1, -2, 3])


@told(
    """
site 'y': 1 of 2 values of obs is off its support, nonnegative_integer; the first, at [1], is 2.5.
  To mend it: Look for mistakes in these rows, or choose a distribution whose support holds them.
"""
)
def a_count_that_is_no_whole_number():
    observed(dist.Poisson, [1.0, 2.5])


@told(
    """
site 'y': 1 of 3 values of obs is off its support, integer_interval(0, 2); the first, at [2], is 3.
  To mend it: Count classes from 0, as np.unique(k, return_inverse=True)[1] does; no count exceeds its total.
"""
)
def labels_that_begin_at_one():
    observed(lambda u: dist.Categorical(logits=u * jnp.arange(3.0)), [1, 2, 3])


@told(
    """
site 'y': 1 of 3 values of obs is off its support, boolean; the first, at [1], is -1.
  To mend it: Code the two outcomes as 0 and 1: (y == 'yes').astype(int), or (y > 0).astype(int).
"""
)
def outcomes_of_minus_one_and_one():
    observed(dist.Bernoulli, [1, -1, 1])


@told(
    """
site 'y': 1 of 3 values of obs is off its support, integer_interval(0, 4); the first, at [1], is 5.
  To mend it: Count classes from 0, as np.unique(k, return_inverse=True)[1] does; no count exceeds its total.
"""
)
def more_successes_than_trials():
    trials = np.array([3, 4, 5])
    observed(lambda u: dist.Binomial(trials, u), [1, 5, 1])


@told(
    """
site 'y': 2 of 2 values of obs are off its support, interval(0.0, 1.34986); the first, at [0], is -1.
  where high = 1.3499
  To mend it: Look for mistakes in these rows, or choose a distribution whose support holds them.
"""
)
def observations_below_a_latent_bound():
    vb.fit(half(np.array([-1.0, 2.0])))


@told(
    """
site 'y': scale is -1, off its support, positive.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_constant_scale_below_zero():
    observed(lambda u: dist.Normal(u, -1.0), Y)


@told(
    """
site 'y': scale is -1.77614, off its support, positive.
  where u = 0.5744
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_scale_that_is_never_positive():
    observed(lambda u: dist.Normal(0.0, -jnp.exp(u)), Y)


@told(
    """
site 'y': 1 of 2 values of scale is off its support, positive; the first, at [1], is -0.693147.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_derived_scale_that_is_not_positive():
    spread = np.array([2.0, 0.5])
    observed(lambda u: dist.Normal(u, jnp.log(spread)), [1.0, 2.0])


@told(
    """
site 'y': 2 of 4 values of scale are off its support, positive; the first, at [1], is 0.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_scale_among_the_arguments_that_is_zero():
    vb.fit(line(Y, Y, np.array([1.0, 0.0, 1.0, 0.0])))


@told(
    """
site 'y': rate is 'u', which may be any number, but rate must lie on nonnegative.
  To mend it: Give 'u' a positive prior, such as HalfNormal or LogNormal, or write jnp.exp(u).
"""
)
def a_rate_that_may_be_negative():
    observed(dist.Poisson, [1, 2], prior=dist.Normal(0.0, 1.0))


@told(
    """
site 'y': probs is 'u', which may be any number, but probs must lie on unit_interval.
  To mend it: Give 'u' a prior between 0 and 1, such as Beta, or pass it as logits=.
"""
)
def a_chance_that_may_be_anything():
    observed(dist.Bernoulli, [1, 0], prior=dist.Normal(0.0, 1.0))


@told(
    """
site 'y': probs is 2, off its support, unit_interval.
  To mend it: Give probabilities, as jax.nn.sigmoid(a) is; or pass a itself as logits=.
"""
)
def a_chance_above_one():
    observed(lambda u: dist.Bernoulli(2.0), [1, 0])


@told(
    """
site 'w': 1 of 2 values of concentration is off its support, positive; the first, at [0], is 0.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_concentration_of_zero():
    vb.fit(vb.model(lambda: vb.sample("w", dist.Dirichlet(jnp.array([0.0, 1.0]))))())


@told(
    """
site 'x': covariance_matrix is [[1., 2.], [2., 1.]], off its support, positive_definite.
  To mend it: Make it symmetric, (C + C.T) / 2, and add to its diagonal: C + 1e-6 * np.eye(n).
"""
)
def a_covariance_with_a_negative_direction():
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])
    vb.fit(vb.model(lambda: vb.sample("x", dist.MultivariateNormal(np.zeros(2), matrix)))())


@told(
    """
site 'x': scale_tril is [[1. , 0.5], [0.5, 1. ]], off its support, lower_cholesky.
  To mend it: Pass np.linalg.cholesky(C), whose upper triangle is zero, or C as covariance_matrix=.
"""
)
def a_whole_matrix_for_its_factor():
    matrix = np.array([[1.0, 0.5], [0.5, 1.0]])
    vb.fit(vb.model(lambda: vb.sample("x", dist.MultivariateNormal(np.zeros(2), scale_tril=matrix)))())


@told(
    """
site 'x': high is 1, off its support, greater_than(2.0).
  To mend it: Give the lower bound first: a low that is below high.
"""
)
def truncation_in_the_wrong_order():
    vb.fit(vb.model(lambda: vb.sample("x", dist.TruncatedNormal(0.0, 1.0, low=2.0, high=1.0)))())


@told(
    """
site 'x': 1 of 2 values of scale of component_distribution is off its support, positive; the first, at [1], is -1.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
"""
)
def a_component_with_a_negative_scale():
    weights = dist.Categorical(probs=np.array([0.5, 0.5]))
    mixture = dist.MixtureSameFamily(weights, dist.Normal(np.zeros(2), np.array([1.0, -1.0])))
    vb.fit(vb.model(lambda: vb.sample("x", mixture))())


@told(
    """
batch_size must be a whole number, such as 1, not 5.0.
"""
)
def a_batch_that_is_a_float():
    vb.fit(mean(Y), batch_size=5.0)


@told(
    """
batch_size must be a whole number, such as 1, not True.
"""
)
def a_batch_that_is_true():
    vb.fit(mean(Y), batch_size=True)


@told(
    """
steps must be a whole number, such as 1, not 150.0.
"""
)
def steps_that_are_a_float():
    vb.Stochastic(steps=150.0)


@told(
    """
steps must be a whole number, such as 1, not '1000'.
"""
)
def steps_that_are_a_string():
    vb.Stochastic(steps="1000")


@told(
    """
draws must be a whole number, such as 1, not 2.5.
"""
)
def draws_that_are_a_fraction():
    vb.Deterministic(draws=2.5)


@told(
    """
fit has no argument num_steps=.
  To mend it: Write method=vb.Stochastic(steps=10_000).
"""
)
def steps_given_to_fit():
    vb.fit(mean(Y), num_steps=1000)


@told(
    """
fit has no argument rng_key=.
  To mend it: Write seed=0, or seed=jax.random.key(0).
"""
)
def a_key_given_to_fit():
    vb.fit(mean(Y), rng_key=0)


@told(
    """
fit has no argument banana=.
  To mend it: help(vb.fit) lists its arguments.
"""
)
def an_argument_that_fit_does_not_have():
    vb.fit(mean(Y), banana=1)


@told(
    """
guide must be one of 'auto', 'mean_field', 'full_rank', 'low_rank', 'copula', or a guide, not 'fullrank'.
  To mend it: Take one of these, vb.MeanField() or its like, or a function under @vb.guide, applied.
"""
)
def a_guide_misspelt():
    vb.fit(mean(Y), "fullrank")


@told(
    """
guide is the class FullRank, not a guide.
  To mend it: Call it, with the arguments that it takes: FullRank(...).
"""
)
def a_guide_that_is_a_class():
    vb.fit(mean(Y), vb.FullRank)


@told(
    """
guide is the function <model guide(y)> itself.
  To mend it: Apply it to the arguments of the model.
"""
)
def a_guide_that_is_not_applied():
    @vb.guide
    def guide(y):
        vb.sample("mu", dist.Normal(0.0, 1.0))

    vb.fit(mean(Y), guide)


@told(
    """
method must be 'auto', vb.Deterministic(...) or vb.Stochastic(...), not 'svi'.
"""
)
def a_method_by_name():
    vb.fit(mean(Y), method="svi")


@told(
    """
callback must be a function that takes a vb.inference.Progress, not 3.
"""
)
def a_callback_that_is_a_number():
    vb.fit(mean(Y), callback=3)


@told(
    """
seconds must be a positive number, or None for no limit, not -1.
"""
)
def a_time_below_zero():
    vb.fit(mean(Y), seconds=-1)


@told(
    """
seed must be an int or a single threefry key (jax.random.key(0)), not 1.5.
"""
)
def a_seed_that_is_a_fraction():
    vb.fit(mean(Y), seed=1.5)


@told(
    """
start must be a posterior, or a dict of values by the sites' names, not 0.0.
"""
)
def a_start_that_is_a_number():
    vb.fit(mean(Y), start=0.0)


@told(
    """
site 'mu': start has shape (3,), but the site has shape ().
  To mend it: Give one value of the site's shape, such as posterior.mean() has.
"""
)
def a_start_of_another_shape():
    vb.fit(mean(Y), start={"mu": np.zeros(3)})


@told(
    """
start has a value for 'm', which is no latent site.
  To mend it: Did you mean 'mu'?
"""
)
def a_start_of_an_unknown_site():
    vb.fit(mean(Y), start={"m": 0.0})


@told(
    """
site 'mu': start holds strings, not numbers.
  To mend it: Encode it as numbers, for instance with np.unique(column, return_inverse=True).
"""
)
def a_start_that_is_a_word():
    vb.fit(mean(Y), start={"mu": "zero"})


@told(
    """
the values lack the latent site b.
  a: ()
  b: ()
  To mend it: Give a value of its shape, or draws of it, for each latent site.
"""
)
def a_start_of_some_sites():
    vb.fit(line(Y, Y), start={"a": 0.0})


@told(
    """
in the validation set: a product of arrays sums over 3 numbers of the one and 2 of the other, after site 'rows'.
  FILE:LINE: vb.sample("y", dist.Normal(vb.subsample(x, 1) @ b, 1.0), obs=vb.subsample(y))
  To mend it: Give a matrix as many columns as the vector has entries; x.T is x transposed.
"""
)
def a_validation_set_of_another_width():
    @vb.model
    def wide(x, y):
        b = vb.sample("b", dist.Normal(np.zeros(2), 1.0).to_event(1))
        with vb.plate("rows", len(y)):
            vb.sample("y", dist.Normal(vb.subsample(x, 1) @ b, 1.0), obs=vb.subsample(y))

    held_out = wide(np.ones((4, 3)), np.ones(4))
    vb.fit(
        wide(np.ones((8, 2)), np.ones(8)),
        method=vb.Stochastic(validation=vb.inference.Validation(held_out)),
        batch_size=4,
    )


@told(
    """
the validation set is one of line, but mean is fitted.
  To mend it: Apply the same function to the rows kept back: vb.inference.Validation(mean(...)).
"""
)
def a_validation_set_of_another_model():
    vb.fit(mean(Y), method=vb.Stochastic(validation=vb.inference.Validation(line(Y, Y))))


@told(
    """
validation.model: expected a model applied to its arguments, but got ndarray array([0., 1., 2., 3.]).
  To mend it: Write the model as a function under @vb.model, and apply it to its arguments: my_model(x, y=y).
"""
)
def a_validation_set_that_is_an_array():
    vb.fit(mean(Y), method=vb.Stochastic(validation=vb.inference.Validation(Y)))


@told(
    """
datasets is one dict, of y, not one for each fit.
  To mend it: Take it apart along its first axis: [{'y': row} for row in y].
"""
)
def stacked_data_sets():
    vb.fit_many(mean, {"y": np.zeros((3, 4))})


@told(
    """
data set 0 is of type ndarray, not the arguments of the model function.
  To mend it: Give for each fit a dict of its arguments, {'y': row}, or a tuple, (row,).
"""
)
def data_sets_that_are_arrays():
    vb.fit_many(mean, np.zeros((3, 4)))


@told(
    """
there are no data sets.
  To mend it: Give a dict of the arguments for each fit: [{...}, {...}].
"""
)
def no_data_sets():
    vb.fit_many(mean, [])


@told(
    """
datasets belong to a model function, but the model is applied already.
  To mend it: Give the function under @vb.model itself with them, or the applied models alone.
"""
)
def data_sets_for_an_applied_model():
    vb.fit_many(mean(Y), [{"y": Y}])


@told(
    """
expected a model applied to its arguments, but got the model function <model mean(y)> itself.
  To mend it: Apply it to its arguments, which runs nothing yet: mean(...).
"""
)
def functions_without_data_sets():
    vb.fit_many([mean, mean])


@told(
    """
n must be a whole number, such as 1, not 10.0.
"""
)
def prior_draws_of_a_fraction():
    mean(Y).sample(10.0)


@told(
    """
site 'mu': the value given holds strings, not numbers.
  To mend it: Encode it as numbers, for instance with np.unique(column, return_inverse=True).
"""
)
def values_that_are_words():
    mean(Y).log_joint({"mu": "zero"})


@told(
    """
expected a model applied to its arguments, but got ndarray array([0., 1., 2., 3.]).
  To mend it: Write the model as a function under @vb.model, and apply it to its arguments: my_model(x, y=y).
"""
)
def a_fit_of_an_array():
    vb.fit(Y)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_wrong_fit_is_told_what_where_and_how_to_mend_it(name):
    CATALOGUE.check(name)


def test_a_million_rows_are_looked_at_before_anything_compiles_and_at_once(compilations):
    x, y = np.ones(10**6, np.float32), np.ones(10**6, np.float32)
    x[777_777] = np.nan
    before, took = compilations(), []
    for _ in range(3):
        begin = time.perf_counter()
        with pytest.raises(vb.ModelError, match=r"1 of 1000000 values of loc is NaN; the first, at \[777777\]"):
            vb.fit(line(x, y))
        took.append(time.perf_counter() - begin)
    assert compilations() == before
    assert min(took) < 0.2


def test_a_prior_that_is_far_from_the_edge_of_a_support_may_be_a_scale():
    @vb.model
    def model(y):
        vb.sample("y", dist.Normal(0.0, vb.sample("s", dist.Normal(50.0, 1.0))), obs=y)

    assert vb.fit(model(np.array(50.0))).mean()["s"] == pytest.approx(50.0, abs=0.02)


def test_rows_of_a_source_that_are_not_read_are_not_taken_for_numbers():
    @vb.model
    def model(y):
        rate = vb.sample("rate", dist.HalfNormal(1.0))
        with vb.plate("rows", 8):
            vb.sample("y", dist.Exponential(rate), obs=vb.subsample(y))

    source = vb.Source(np.ones(8, np.float32))
    posterior = vb.fit(model(source), batch_size=4, method=vb.Stochastic(steps=20))
    assert posterior.status.reason == "steps"


def test_two_masks_count_where_both_do_and_sizes_may_be_numpys():
    @vb.model
    def model(y):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("rows", 4):
            vb.sample("y", dist.Normal(mu, 1.0).mask(np.arange(4) > 0).mask(np.arange(4) < 3), obs=vb.subsample(y))

    # Two rows count, 1 and 2: the mean is their sum over 1 + 2.
    assert vb.fit(model(Y), "mean_field").mean()["mu"] == pytest.approx(1.0, abs=1e-4)


def test_an_argument_that_was_forgotten_is_named():
    @vb.model
    def model(x=None, y=None):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        vb.sample("x", dist.Normal(a, 1.0), obs=x)
        vb.sample("y", dist.Normal(a, 1.0), obs=y)

    with pytest.warns(vb.VbpplWarning, match=r"^site 'y' of model\(x=1.0\) is latent, since the argument y is None"):
        vb.fit(model(x=1.0), "mean_field")


def test_an_error_of_a_model_shows_the_users_lines_and_no_note_of_jax():
    @vb.model
    def model():
        vb.sample("x", dist.Normal(0.0, -1.0), obs=np.zeros(2))

    with pytest.raises(vb.ModelError) as caught:
        vb.fit(model())
    lines = traceback.format_exception(caught.value)
    assert any('vb.sample("x"' in line for line in lines)
    assert not any("JAX" in line for line in lines)
    assert len("".join(lines).splitlines()) <= 40


@pytest.mark.parametrize(
    ("family", "prior"), [("Poisson", dist.Normal(20.0, 6.0)), ("Exponential", dist.Normal(1.0, 0.3))]
)
def test_a_prior_most_of_which_lies_on_the_support_is_left_to_the_fit(family, prior):
    @vb.model
    def model(y):
        rate = vb.sample("rate", prior)
        with vb.plate("row", len(y)):
            vb.sample("y", getattr(dist, family)(rate), obs=y)

    assert vb.fit(model(np.array([20, 22, 19])), "mean_field").mean()["rate"] > 0
