"""A posterior in another form: each exporter is a function of a `Posterior`, and nothing in the package reads one.

In order:

- `style`: what pictures share: quiet axes, colours that everyone can tell apart, on a light page and on a dark one.
- `panels`: what stands in the panels of pictures.
- `plots`: the pictures of `vb.plot`.
- `page`: a fit as one page of HTML, `write_report`.
"""
