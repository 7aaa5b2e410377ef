"""How an answer would move if the density were another one, to first order.

In order; a file imports only from those above it:

- `linear_response`: the covariances that mean field leaves out, from how it would answer a nudge.
- `sensitivity`: what wider priors, and each row left out, would do.
"""
