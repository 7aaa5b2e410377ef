"""What a sampler would have cost: NumPyro's NUTS on the same density."""

from __future__ import annotations

import time

import jax
import numpy as np

import vbppl as vb


def seconds(model: vb.Model, seed: int) -> float:
    """CPU seconds of NumPyro's NUTS, 1,000 + 1,000 in one chain, with compiling."""
    from numpyro.infer import MCMC, NUTS

    target = vb.target(model)
    jax.clear_caches()
    began = time.process_time()
    kernel = NUTS(potential_fn=lambda z: -target.log_density(z))
    sampler = MCMC(kernel, num_warmup=1000, num_samples=1000, progress_bar=False)
    start = np.random.default_rng(seed).uniform(-2, 2, target.dim).astype(np.float32)
    sampler.run(jax.random.key(seed), init_params=start)
    jax.block_until_ready(sampler.get_samples())
    return time.process_time() - began
