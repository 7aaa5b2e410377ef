"""The door: from a model to a posterior, in five steps that hand values on.

A fit walks them once: plan, prepare, solve, judge, escalate. A plan follows from types and shapes alone, and a problem
from a look at the data; a solver makes a solution of it, the judge a report. Many fits take the same steps for many
targets, which advance side by side.

In order:

- `call`: the call that made a posterior, as Python that can be run again.
- `plan`: what a fit will do, chosen before anything is computed; the one table of solvers.
- `prepare`: from a plan to a problem, which looks at the data; and the judging of what a solver makes of it.
- `remedies/`, `escalate`: what is tried where the report is poor and the guide was ours to choose.
- `precision`: the session's, or double where rounding limits a fit.
- `advice`: what a poor fit is told: the cause, where the model's own numbers show one.
- `progress`: telling a person who waits how far a fit is.
- `fit`: the five steps.
- `fit_many`: the same for many data sets or seeds.
- `refine`: from a posterior to draws of Markov chains that start from it.
- `calibration`: whether fits are right on average.

To add a solver, write a function `(problem, watch) -> list[Solution]` in `inference/`, let it fill every field of
`Solution`, and give its guide a line in the table of solvers.
"""
