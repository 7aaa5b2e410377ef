"""Bijections that bend the draws of a guide: `Layered(base, *layers)` is a guide again.

- `base.py`: the protocol of a layer, and `Layered`.
- `sinh_arcsinh.py`: skewness and two tails, coordinate by coordinate.
- `yeo_johnson.py`: skewness alone, one number a coordinate.
- `affine.py`: location and scale of what other layers have bent.
- `conditional.py`: scales and means of some coordinates that depend on others.
- `conditionally_structured.py`: these three as a guide of hierarchies.
- `elimination.py`: Cholesky factors of blocks, alone or in a chain.
- `newton_step.py`: the mode and curvature of rows, given all else.
- `conditional_laplace.py`: all four as a guide of hierarchies.
- `flow.py`: a bijection of another library, its networks learnt.

To add one: a file with a `@pytree` class that has `init`, `forward_and_log_det` and `inverse_and_log_det`, and its name
in the list of `tests/guides/test_protocol.py`.
"""
