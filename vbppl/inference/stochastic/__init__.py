"""Stochastic gradients of the bound: fresh draws at every step, minibatches where asked for, anything learnt.

What is to be solved is a value (`Problem`), where a fit stands is another (`State`), and the solver is a function that
makes states of states: `solve(problem, watch) -> [Solution]`. The steps run in one compiled loop, in chunks.

In order:

- `objectives.py`: what is maximised: one method, `(guide, inputs) -> (value, state)`; the inputs of a step.
- `control_variates.py`: a batch compared with itself where all rows are known.
- `optimizers.py`: how a step moves: annealed Adam, or any Optax transformation.
- `schedule.py`: phases of steps, step sizes, and when the fit may stop.
- `step.py`: the compiled loop.
- `settings.py`: what a user can ask for.
- `early_stopping.py`: stop rules, such as rows kept back.
- `minibatch.py`: which plates are shown in part, and whether batches add up.
- `problem.py`: what the solver needs, made ready.
- `checkpoint.py`: the state of a fit, and the file that holds it.
- `svi.py`: the solver.

To add an objective: a `@pytree` class in `objectives.py` and a case in `tests/inference/stochastic/test_objectives.py`.
To add a stop rule: a `StopRule`, whose memory is a value, in `Problem.stop_rules`.
"""
