"""inference/stochastic."""
