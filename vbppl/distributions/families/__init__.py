"""distributions/families."""
