"""What the posterior may look like: families of distributions that a fit chooses from."""
