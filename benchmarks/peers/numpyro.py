"""NumPyro on the suite's models: the same functions, with only their imports changed.

The usual recipe is that of its documentation: an autoguide, Adam at 0.01, 10,000 steps of one draw. The tuned one is
what a patient user arrives at: ten draws, Adam that falls from 0.05 by a cosine, 20,000 steps. NUTS: one chain of
1,000 + 1,000, and its own R-hat and effective sizes as what it says of itself.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import optax
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide
from numpyro.infer.util import potential_energy

import vbppl as vb
from benchmarks.machine import Clock
from benchmarks.peers.answer import DRAWS, FEW, Answer, Posed, by_site, flat, gaussian, in_order, triangle

STEPS, LONG, PARTICLES = 10_000, 100_000, 10
CHECKS = (100, 200, 500, 1_000, 2_000, 3_000, 5_000, 7_000, 10_000, 20_000, 50_000, 100_000)
CHECKED = 4_096  # draws for a bound on the way
PATIENCE = 20.0  # CPU seconds for the steps beyond the usual ones
RHAT, ESS = 1.01, 400  # Vehtari et al. (2021): what to ask of chains


def model_of(model: vb.Model) -> tuple[Callable, tuple, dict]:
    """The same function where `vb` and `dist` are NumPyro's, and its arguments."""
    function = model.function
    words = {**function.__globals__, "vb": numpyro, "dist": numpyro.distributions}
    changed = types.FunctionType(function.__code__, words, function.__name__, None, function.__closure__)
    return changed, *model.arguments


def svi(posed: Posed, seed: int, kind: type, tuned: bool = False, trace: bool = False) -> Answer:
    """`SVI.run` as the documentation has it, from nothing."""
    model, args, kwargs = model_of(posed.model)
    steps, particles = (2 * STEPS, PARTICLES) if tuned else (STEPS, 1)
    adam = optax.adam(optax.cosine_decay_schedule(0.05, steps)) if tuned else numpyro.optim.Adam(1e-2)
    clock = Clock()
    guide = kind(model)
    fit = SVI(model, guide, adam, Trace_ELBO(num_particles=particles))
    result = fit.run(jax.random.key(seed), steps, *args, progress_bar=False, **kwargs)
    jax.block_until_ready(result.params)
    costs = clock.read()
    target = vb.target(posed.model)

    def answered(params: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        loc, scale = _moments(guide, params, target)
        return gaussian(loc, scale, seed, n)

    z, log_q = answered(result.params, DRAWS)
    more = _on_the_way(fit, answered, seed, args, kwargs) if trace else {}
    log_p = _log_densities(model, args, kwargs, target, z)
    return Answer(z, costs, log_q, steps * particles, log_p=log_p, **more)


def _moments(guide: Any, params: Any, target: vb.Target) -> tuple[np.ndarray, np.ndarray]:
    """Of the guide's Gaussian, in our order of the sites."""
    if isinstance(guide, autoguide.AutoNormal):
        names = [slot.name for slot in target.layout.slots]
        loc, scale = (
            flat(target, {name: np.asarray(params[f"{name}_auto_{part}"])[None] for name in names})[0]
            for part in ("loc", "scale")
        )
        return loc, scale
    posterior = guide.get_posterior(params)
    order = in_order(target, guide._unpack_latent(jnp.arange(posterior.loc.size, dtype=jnp.float32)))
    loc, factor = (np.asarray(part, np.float64) for part in (posterior.loc, posterior.scale_tril))
    return loc[order], triangle(factor[order])


def _on_the_way(fit: SVI, answered: Callable, seed: int, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The same run again, not timed but for its steps: where its bound stood, and how it went on."""
    update = jax.jit(
        lambda state, steps: jax.lax.fori_loop(0, steps, lambda _, s: fit.update(s, *args, **kwargs)[0], state)
    )
    state = fit.init(jax.random.key(seed), *args, **kwargs)
    jax.block_until_ready(update(state, 1))  # compiled before the clock runs
    found, done, spent, usual = [], 0, 0.0, 0.0
    for check in CHECKS:
        clock = Clock()
        state = jax.block_until_ready(update(state, check - done))
        spent, done = spent + clock.read()["cpu"], check
        found.append((done, answered(fit.get_params(state), CHECKED)))
        usual = spent if done <= STEPS else usual
        if done >= STEPS and spent / done * (LONG - done) > PATIENCE:
            break
    return {"trace": tuple(found), "run": usual}


def _log_densities(model: Callable, args: tuple, kwargs: dict, target: vb.Target, z: np.ndarray) -> np.ndarray:
    """Of NumPyro's model at the first draws."""
    places = by_site(target, z[:FEW])
    with jax.enable_x64(True):
        points = [{name: jnp.asarray(x[i]) for name, x in places.items()} for i in range(FEW)]
        return np.array([-potential_energy(model, args, kwargs, point) for point in points])


def nuts(posed: Posed, seed: int) -> Answer:
    """One chain, from nothing to its own diagnostics."""
    model, args, kwargs = model_of(posed.model)
    clock = Clock()
    sampler = MCMC(NUTS(model), num_warmup=1_000, num_samples=1_000, progress_bar=False)
    sampler.run(jax.random.key(seed), *args, extra_fields=("num_steps", "diverging"), **kwargs)
    draws, extra = sampler.get_samples(group_by_chain=True), sampler.get_extra_fields()
    told = summary({slot.name: np.asarray(draws[slot.name]) for slot in vb.target(posed.model).layout.slots})
    costs = clock.read()
    rhat = max(float(np.nanmax(site["r_hat"])) for site in told.values())
    ess = min(float(np.nanmin(site["n_eff"])) for site in told.values())
    diverged = int(extra["diverging"].sum())
    fine = rhat < RHAT and ess > ESS and not diverged
    with jax.enable_x64(True):
        z = np.asarray(vb.target(posed.model).unconstrain({name: np.asarray(draws[name][0], float) for name in told}))
    says = "good" if fine else f"poor (R-hat {rhat:.2f}, ESS {ess:.0f}, {diverged} divergences)"
    return Answer(z, costs, gradients=int(extra["num_steps"].sum()), says=says)


WAYS: dict[str, Callable[[Posed, int], Answer]] = {
    "SVI, mean field": lambda posed, seed: svi(posed, seed, autoguide.AutoNormal, trace=True),
    "SVI, full rank": lambda posed, seed: svi(posed, seed, autoguide.AutoMultivariateNormal, trace=True),
    "SVI, mean field, tuned": lambda posed, seed: svi(posed, seed, autoguide.AutoNormal, tuned=True),
    "SVI, full rank, tuned": lambda posed, seed: svi(posed, seed, autoguide.AutoMultivariateNormal, tuned=True),
    "NUTS": nuts,
}
