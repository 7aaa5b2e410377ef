"""inference/deterministic."""
