"""A posterior in other forms. Each is a function of a `Posterior`, and nothing in vbppl reads one.

- `arviz`: as an `xarray.DataTree`, which ArviZ and all of xarray understand.
"""
