"""What every test may use: float64, and the number of compilations so far."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

os.environ.setdefault("MPLBACKEND", "Agg")
# Two workers share the cores already; more threads for small matrices cost several times their work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpyro  # noqa: F401  # before ArviZ, whose lazy stand-in makes Python load NumPyro's submodules twice
import pytest

compiled: list[str] = []


def note_compilation(event: str, duration: float, **_) -> None:
    """Remember one compilation. A listener cannot be taken off again, so there is one for the whole run."""
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(note_compilation)


@pytest.fixture
def compilations() -> Callable[[], int]:
    """Ask it before and after: the difference is the number of programs compiled between.

    `before = compilations(); fit(model); assert compilations() == before`
    """
    return lambda: len(compiled)


@pytest.fixture
def x64() -> Iterator[None]:
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield
