"""What a model is asked of its numbers.

`starts` are the values that its params and modules begin with; `values` has draws from its prior, and its densities at
values of its sites.
"""
