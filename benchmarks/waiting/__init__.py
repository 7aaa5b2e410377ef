"""What people wait for: `models` holds the models, each for both libraries and by hand; `process` measures one of them.

Both are read by `benchmarks/latency.py`, the clock by `trace.py` too. A new model is a function of the words, its
density by hand and a line in `cases`.
"""
