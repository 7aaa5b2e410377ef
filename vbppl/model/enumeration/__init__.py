"""Discrete latent sites with finitely many values are summed out of the density, exactly, and drawn again afterwards.

In order: `support` counts the values of a site; `elimination` sums variables out of a product of factors, and draws
them again; `tables` runs a function at every value of what it depends on, and of nothing else; `checks` refuses what
cannot be summed; `marginal` is a run of a model whose discrete sites are summed out: a table for each statement that
depends on them, and the other sites as ever.

Where a state is handed on from step to step, `tables` makes the factors of one step and `elimination` says what is
done with factors; nothing else here knows where they come from.
"""
