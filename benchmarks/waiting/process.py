"""One measurement in a process of its own: `python -m benchmarks.waiting.process WHAT CASE`, which prints JSON.

CPU seconds are those of all threads, from when JAX is imported. What is measured:

- `floor`: tracing, compiling and running once the batched value and gradient (32 points) by hand;
- `density`: the same of the model in the words of vbppl, by its own evaluation;
- `fit`: the import of vbppl, the first answer, a second one with other data of the same shapes, and the first calls
  after the fit;
- `svi`, `nuts`: NumPyro's first answer by `AutoNormal` in 10,000 steps, and by NUTS with its defaults, 1,000 + 1,000.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.waiting.models import Case, cases

POINTS, STEPS, DRAWS = 32, 10_000, 1_000


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call whose result is waited for, and the result."""
    before = cpu()
    result = jax.block_until_ready(call())
    return cpu() - before, result


class Programs:
    """How many programs XLA has compiled since."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, name: str, seconds: float, **_: Any) -> None:
        self.count += name.endswith("backend_compile_duration")


def floor(case: Case) -> dict[str, Any]:
    """The limit by hand."""
    batched = jax.jit(jax.vmap(jax.value_and_grad(case.by_hand), (0, *(None for _ in case.data))))
    points = 0.1 * np.random.default_rng(0).standard_normal((POINTS, case.dim)).astype(np.float32)
    return {"cpu": timed(lambda: batched(points, *map(_single, case.data)))[0]}


def density(case: Case) -> dict[str, Any]:
    """Our own program of the same."""
    import vbppl as vb
    import vbppl.distributions as dist
    from vbppl.target.batched import evaluate
    from vbppl.target.target import Target

    model = vb.model(case.write(vb, dist))(*case.data)
    points = 0.1 * np.random.default_rng(0).standard_normal((POINTS, case.dim))
    return {"cpu": timed(lambda: evaluate(Target.of(model), points))[0]}


def fit(case: Case) -> dict[str, Any]:
    """A first and a second answer, and what is asked of it."""
    programs = Programs()
    spent, _ = timed(_import)
    import vbppl as vb
    import vbppl.distributions as dist

    found: dict[str, Any] = {"import": spent}
    model = vb.model(case.write(vb, dist))
    found["cpu"], posterior = timed(lambda: vb.fit(model(*case.data)))
    found.update(verdict=posterior.report.verdict, gradients=posterior.status.gradients, programs=programs.count)
    again = [np.roll(part, 1, axis=0) for part in case.data]
    seconds = []
    for seed in (1, 2, 3):
        spent, second = timed(functools.partial(vb.fit, model(*again), seed=seed))
        seconds.append(spent)
    found.update(second=sorted(seconds)[1], second_gradients=second.status.gradients)
    found["second_programs"] = programs.count - found["programs"]
    found["calls"] = {name: _of_call(call, programs) for name, call in _calls(posterior, model(*case.data)).items()}
    return found


def _calls(posterior: Any, model: Any) -> dict[str, Callable[[], Any]]:
    """What people ask of a posterior, each for the first time."""
    names = list(posterior.target.layout.slots)[:1]
    values = posterior.sample(10)
    return {
        "summary": lambda: str(posterior.summary()) and None,
        "sample(1000)": lambda: posterior.sample(1000),
        "predict": lambda: posterior.predict(),
        "predict(n=777)": lambda: posterior.predict(n=777),
        "log_likelihood": lambda: posterior.log_likelihood(),
        "model.sample": lambda: model.sample(1000),
        "log_prob": lambda: posterior.log_prob({name: values[name] for name in _sites(posterior)}),
        "linear_response": lambda: posterior.linear_response(names[0].name),
    }


def _sites(posterior: Any) -> list[str]:
    return [slot.name for slot in posterior.target.layout.slots]


def _of_call(call: Callable[[], Any], programs: Programs) -> dict[str, Any]:
    before = programs.count
    try:
        spent, _ = timed(call)
    except Exception as error:  # what a model does not offer is a cell of the table
        return {"cpu": None, "why": f"{type(error).__name__}: {error}"[:200]}
    return {"cpu": spent, "programs": programs.count - before}


def _import() -> None:
    import vbppl  # noqa: F401


def svi(case: Case) -> dict[str, Any]:
    """NumPyro's mean field."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    model = case.write(numpyro, dist)

    def run() -> Any:
        driver = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO())
        return driver.run(jax.random.key(0), STEPS, *case.data, progress_bar=False).params

    return {"cpu": timed(run)[0]}


def nuts(case: Case) -> dict[str, Any]:
    """NumPyro's sampler."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    def run() -> Any:
        sampler = MCMC(NUTS(case.write(numpyro, dist)), num_warmup=DRAWS, num_samples=DRAWS, progress_bar=False)
        sampler.run(jax.random.key(0), *case.data)
        return sampler.get_samples()

    return {"cpu": timed(run)[0]}


def _single(data: np.ndarray) -> Any:
    return jnp.asarray(data, jnp.result_type(float)) if data.dtype.kind == "f" else jnp.asarray(data)


MEASUREMENTS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "floor": floor,
    "density": density,
    "fit": fit,
    "svi": svi,
    "nuts": nuts,
}


def main(arguments: Sequence[str]) -> None:
    """Print what was found."""
    warnings.simplefilter("ignore")
    what, name = arguments
    print(json.dumps(MEASUREMENTS[what](cases()[name])))


if __name__ == "__main__":
    main(sys.argv[1:])
