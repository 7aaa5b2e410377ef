"""Models that go from step to step.

In order: `steps` is where in a chain a statement stands; `carries` finds what is handed from step to step, for all
steps at once where that can be; `scan` is the word.
"""
