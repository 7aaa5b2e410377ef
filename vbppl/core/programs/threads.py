"""How many threads the host's linear algebra has: one where matrices are small, the user's number where they are large.

OpenBLAS shares products and factors among its threads from 64 rows and columns on, and these wait for one another in a
busy loop. Where other work has the cores, each wait is a turn of the scheduler's.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

SMALL = 512  # rows and columns up to which one is enough: a QR of 512 x 304 took 24 ms, by two on busy cores 3 s
# Extension modules linked to a BLAS: NumPy's own, and SciPy's, by which JAX's programs factorise matrices on a CPU.
MODULES = ("numpy.linalg._umath_linalg", "scipy.linalg.cython_lapack")
# As the wheels of NumPy and SciPy call it, and as others do. Apple's Accelerate has no number of threads to be set.
NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads")


class _Library(NamedTuple):
    """A BLAS that is loaded; its number of threads is one for the whole process."""

    get: Callable[[], int]
    set: Callable[[int], None]


@functools.cache
def _library(path: str) -> _Library | None:
    """The BLAS to which the extension module at `path` is linked, if it is one whose threads can be counted."""
    try:
        linked = ctypes.CDLL(path)  # is loaded already
    except OSError:  # linked into the interpreter itself, or loaded from somewhere else than a file
        return None
    for name in NAMES:
        with contextlib.suppress(AttributeError):
            return _Library(*(getattr(linked, name.format(what)) for what in ("get", "set")))
    return None


class _Threads:
    """Who asks for one thread, and who for all, in the whole process; asked from several threads, too."""

    def __init__(self) -> None:
        self._lock, self._asked = threading.Lock(), {True: 0, False: 0}
        self._before: dict[str, tuple[_Library, int]] = {}  # the numbers of threads to go back to

    def change(self, is_small: bool, by: int) -> None:
        """One more block that is small, or is not; or one fewer."""
        with self._lock:
            self._asked[is_small] += by
            if not self._asked[True] or self._asked[False]:
                for library, number in self._before.values():
                    if library.get() == 1:  # else somebody has changed it meanwhile
                        library.set(number)
                self._before.clear()
            elif len(self._before) < len(MODULES):
                for name in MODULES:
                    library = _library(module.__file__ or "") if (module := sys.modules.get(name)) else None
                    if library and (number := library.get()) > 1:
                        self._before[name] = library, number
                        library.set(1)


_THREADS = _Threads()  # of the process, as the number of BLAS threads is


@contextlib.contextmanager
def suited_to(size: int) -> Iterator[None]:
    """In this block linear algebra has the threads that suit matrices of so many rows: one, or the user's number.

    Blocks may lie within one another, and those of several threads may overlap: as long as one of them is large, the
    number is the user's. It is one for the whole process, so while a block lasts other threads' linear algebra has it
    too; afterwards it is as before.
    """
    is_small, begun = size <= SMALL, False
    try:
        _THREADS.change(is_small, 1)
        begun = True
        yield
    finally:
        if begun:
            _THREADS.change(is_small, -1)
