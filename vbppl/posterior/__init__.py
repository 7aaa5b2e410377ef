"""What a fit gives back, and the evidence of how good it is.

A `Posterior` is two values: the `Solution` of a solver and the `Report` on it. Every number that it tells is read from
one of them, and every method is a question about a distribution: of the guide, or of the draws weighed by importance.

In order; a file imports only from those above it:

- `weighted_draws`: draws of a guide and of what surrounds it, and what they weigh.
- `quantities`: what a user reads off, and by how much the guide has it wrong.
- `short_chains`: what Markov chains from an answer's draws move, which was not the posterior's.
- `report`: the numbers, the limits that decide, the sentences for each reason, and how all is shown.
- `response`: how the answer would move: the covariances that mean field leaves out, priors and rows.
- `row_evidence`: each row by itself, where all latent variables stand in one plate.
- `judge`: from a solution to its report.
- `mcmc`: the same of draws of Markov chains: whether they agree, and what they are worth.
- `correction`: averages, quantiles and draws of weighted draws, and of chains.
- `optimality_gap`: how far below the best of its family a fit may lie.
- `summary`: the table of means, sds and quantiles.
- `by_row`: the questions about single rows.
- `posterior`: `Posterior`, the answer.
- `export`: a posterior in another form.

To judge by one more number: measure it in a file of its own, give it a field of `Report`, a limit and a sentence in
`report`, and call it in `judge`; a test holds it against a density for which it is known. To show a posterior in
another form: write a function of a `Posterior`; nothing here may know of it.
"""
