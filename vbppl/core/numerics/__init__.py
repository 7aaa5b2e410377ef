"""Textbook algorithms on NumPy's arrays, each beside the paper that it is from.

`draws` are standard normals with exact moments; `lbfgs` and `natural_gradient` climb, and `mixtures` with several
Gaussians at once, of which `new_components` says where one is lacking; `lanczos` finds extreme directions by products
alone; `psis` says what importance weights are worth, `mcmc` what draws of Markov chains are; `convergence` says when a
trace of iterates stands still. They advance on the host in float64; what they evaluate is compiled elsewhere.

A new one takes arrays and functions of arrays, names its source in its docstring, and is tested against another
implementation of the same, or a case that has an answer in closed form.
"""
