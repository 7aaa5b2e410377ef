"""A posterior in another form: each exporter is a function of a `Posterior`, and nothing in the package reads one.

In order:

- `encoding`: values of the package as JSON and arrays, and back, by a table of what may stand in a file.
- `same_model`: what a file says of the model that it belongs to, and what disagrees with another one.
- `storage`: `save` and `load`.
"""
