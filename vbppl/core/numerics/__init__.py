"""core/numerics."""
