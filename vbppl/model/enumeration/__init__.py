"""Discrete latent sites with finitely many values are summed out of the density, exactly, and drawn again afterwards.

In order: `support` counts the values of a site; `elimination` sums variables out of a product of factors, and draws
them again; `tables` runs a function at every value of what it depends on, and of nothing else; `checks` refuses what
cannot be summed; `in_scans` hands sites in a scan over to it; `marginal` is a run of a model whose discrete sites are
summed out: a table for each statement that depends on them, and the other sites as ever.

What is handed from step to step in a scan is summed out there (`control_flow.hidden`), by the forward algorithm.
"""
