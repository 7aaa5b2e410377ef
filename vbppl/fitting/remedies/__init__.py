"""What is tried, one after the other, where a Gaussian is not enough and the guide was ours to choose.

A remedy is a function `(plan, problem, before, report, watch) -> (Solution, Report)`. It gives back a better solution
with its report, or the one that it got, with a note of what was tried and what it gained. It never keeps what is no
better on fresh draws, and sums what all of it cost.

- `costs`: what several fits cost together.
- `choice`: a richer solution is kept where its report is no worse.
- `series`: a Newton step to a whole series given its hyperparameters.
- `from_prior`: starts from draws of the prior, where the boxes may have missed.
- `tails`: sites of heavy-tailed priors by the quantiles of these.
- `rows`: rows by a Newton step given the hyperparameters, where no coordinates can move them.
- `components`: a mixture with new components, while they pay; and from the last normal, where what came in its place is
  no answer.
- `modes`: a mixture of the modes and widths that restarts met.
- `hypers`: hyperparameters that are bent, and depend on the scales among them.
- `parameterisations`: other coordinates of hierarchical sites.
- `margins`: a Gaussian copula, where coordinates are skewed.

To add one: a file here, and its place among `REMEDIES` in `escalate.py`.
"""
