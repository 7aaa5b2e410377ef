"""How a model is written, and how it is run.

In order: `shapes` are the rules of plates and batches; `labels` are what rows and columns are called; `missing` are
observations that are not there; `arguments` tells
data from settings; `outside` is what stands around a function; `primitives` are the words (`sample`, `param`,
`plate`, ...), which build a `Site` and ask the handler of the run; `control_flow` has the word `scan`, which runs
a step along a sequence; `modules` takes neural networks apart and together; `handlers` answer a run's sites, each a
function `Site -> Site`; `enumeration` sums discrete sites out of a run; `claims` are what a model says of its numbers;
`trace` is one run, its outline without numbers, its densities; `evaluation` has numbers of
a model, draws and densities; `graph` draws what depends on what; `model` is a
function applied to its arguments, as a value; `reparam` chooses coordinates of hierarchical sites; `predictive` runs a
model forward at the draws of a posterior.

A new word builds a site of a new `kind` in `primitives` and is answered in `handlers`; a new way of running a model
is a new handler, and no word changes for it.
"""
