"""What knows nothing of models: the ground on which all other wings stand.

In order: `types` names what stands in signatures; `errors` says what is wrong, where, and how to mend it, and
`plain_words` what JAX's own errors mean; `pytree` makes frozen dataclasses that JAX sees through; `keys` derives random
numbers from seeds by meaning; `special` holds formulas whose obvious form fails at an edge; `archive` is the codec of
files that hold arrays and no code; `pickles` are how wrapped functions are found again by name; `devices` are several,
maybe of several processes: how arrays come there and back; `watch` is the deadline and the interrupt of a fit; `tables`
are of text and of HTML; `programs/` is how functions are compiled and what is known of them; `numerics/` are textbook
algorithms on NumPy's arrays.

A file belongs here if it could be read, and used, without knowing what a model is. A new one names no other wing.
"""
