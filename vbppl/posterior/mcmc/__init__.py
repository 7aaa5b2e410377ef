"""The report on draws of Markov chains, in the place of that on a guide.

In order:

- `report`: whether the chains agree, what their draws are worth, and the verdict that follows.
"""
