"""The waist: a log density on a flat real vector, and all that guides, solvers and reports may know of a model.

Below this wing is how a model is written, above it how it is approximated. What crosses is a *target*, a frozen
pytree with these members and no others:

    dim, layout, data_size, sources        its size and shapes; `axes.coordinate_names` labels the vector
    log_density(z), run(z) -> Terms        one run of the model at a point; every sum is a reduction of its terms
    constrain(z), unconstrain(values), log_det(values)          to the supports of the sites and back
    complete(values, key)                  the discrete sites, which are summed out, drawn again given the others
    params, parameterisations, rows, replace(...)    what of it changes in a fit: learnt params, coordinates, rows shown
    showing(rows), with_lengths(lengths), parts()               minibatches, and all rows in parts

What follows from these is a function of any target: `in_mode`, `reparameterised`, `with_fixed_parameterisations`,
`loaded`, `with_data`, `param_values`.

Three things are targets: a model (`vb.target`), a plain function (`vb.density`), and a target seen through a
layer (`Pullback`). Above, nobody asks which.

The files, in order:

- `layout`: where each site lies in the flat vector: shapes only, hashable, so equal shapes share programs.
- `density`: the one run and its `Terms`; the compiled functions.
- `priors`: what the priors of movable sites are at a point.
- `discrete`: the sites that are summed out, drawn again.
- `plain`: a plain function as a model of one flat site.
- `axes`: what scalars and coordinates are called, by the labels of plates and dims.
- `target`: `Target`, and its two makers.
- `drivers`: the sites on which the scales of others depend.
- `batched`: one compiled value and gradient for many points, coordinates and data sets; Hessian-vector products.
- `pullback`: a target in the coordinates before a layer.
- `guide_program`: the second face: a guide written as a program is run beside the model's density.

To add another way to sum a density, write a reduction in `density.Terms`: no file above or below changes. To add
another kind of target, give it the members above and put it into the list of `tests/target/test_targets.py`.
"""
