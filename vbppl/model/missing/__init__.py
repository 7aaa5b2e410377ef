"""Observations of which some are missing: `sample(..., obs=y, obs_mask=m)`.

In order: `places` finds which entries are missing before anything is compiled, since as many numbers are latent;
`statement` is what the word `sample` states of them.
"""
