"""Families beyond one Gaussian, each fitted on fixed draws from where a Gaussian's fit has ended.

    margins                    the steps of a Gaussian and of the bends of its margins together
    copula                     the solver that shapes margins
    mixture                    components of full rank that climb together, and new ones while they pay
    conditionally_structured   hyperparameters that are bent and depend on scales, by L-BFGS
    hessian_blocks             what falls apart given the hyperparameters
    conditional_laplace        rows by a Newton step given the hyperparameters, by L-BFGS
    series                     the same of a whole series, from the marginal mode of its hyperparameters

To add one: as for any solver; and where `fit` may choose it, a remedy in `fitting/remedies/`.
"""
