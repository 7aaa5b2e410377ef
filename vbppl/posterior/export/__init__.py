"""A posterior in another form: each exporter is a function of a `Posterior`, and nothing in the package reads one.

In order:

- `encoding`: values of the package as JSON and arrays, and back, by a table of what may stand in a file.
- `same_model`: what a file says of the model that it belongs to, and what disagrees with another one.
- `storage`: `save` and `load`.
- `style`: what pictures share: quiet axes, colours that everyone can tell apart, on a light page and on a dark one.
- `panels`: what stands in the panels of pictures.
- `plots`: the pictures of `vb.plot`.
- `page`: a fit as one page of HTML, `write_report`.
- `arviz`: as an `xarray.DataTree`, which ArviZ and all of xarray understand.
"""
