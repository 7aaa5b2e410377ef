"""Models that go from step to step.

In order: `steps` is where in a chain a statement stands; `carries` finds what is handed from step to step, for all
steps at once where that can be; `hidden` sums discrete states out of a chain of tables, and `step_tables` makes these
of a step; `step_sites` are the sites that leave the trace of a step; `chain` runs a step in a run; `scan` is the word.
"""
