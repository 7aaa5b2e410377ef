"""`python -m vbppl check`: what is installed here, what it runs on, and a tiny fit that proves that it works."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

CORE = ("jax", "jaxlib", "numpy", "optax")
DEVELOPERS = ("test", "bench", "examples")  # extras that no user needs
SETTINGS = ("JAX_", "XLA_", "CUDA_VISIBLE", "OMP_NUM", "OPENBLAS_NUM")  # how the variables begin that matter


def main(arguments: list[str] | None = None) -> int:
    """Print the check; 0 where all is well, else 1."""
    parser = argparse.ArgumentParser("python -m vbppl", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("command", choices=["check"], help="what is here, and a tiny fit")
    parser.add_argument("--version", action="version", version=f"vbppl {vb.__version__}")
    parser.parse_args(arguments)
    try:
        for line in lines():
            print(line, flush=True)
        print(fitted())
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print("Not well. Please put all of the above into the report.")
        return 1
    print("All is well.")
    return 0


def lines() -> Iterator[str]:
    """What is known without computing anything."""
    yield f"vbppl {vb.__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "  " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in CORE)
    yield f"  in {Path(vb.__file__).parent}"
    found = jax.devices()
    yield f"devices: {len(found)} of kind {found[0].device_kind} ({found[0].platform}), {os.cpu_count()} processors"
    if found[0].platform == "cpu" and shutil.which("nvidia-smi"):
        yield '  there is an NVIDIA driver, but JAX does not use it: pip install "vbppl[cuda12]" or "vbppl[cuda13]"'
    wide = "on" if jnp.result_type(float) == np.float64 else "off: jax.enable_x64(True) asks for double"
    yield f"precision: {jnp.result_type(float)} (JAX's 64 bits are {wide})"
    yield f"compiled programs: {cache()}"
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)}
    yield "environment: " + (" ".join(f"{name}={value}" for name, value in given.items()) or "nothing set for JAX")
    for name, packages in extras().items():
        missing = [package for package, version in packages.items() if version is None]
        here = ", ".join(f"{package} {version}" for package, version in packages.items() if version)
        yield f"extra {name}: " + (f'missing {", ".join(missing)}: pip install "vbppl[{name}]"' if missing else here)


def cache() -> str:
    """Where compiled programs are kept from one process to the next."""
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not folder:
        return "compiled anew in each process (JAX_COMPILATION_CACHE_DIR=... keeps them)"
    path = Path(folder)
    sizes = [file.stat().st_size for file in path.glob("*") if file.is_file()] if path.is_dir() else []
    writable = "" if os.access(path if path.is_dir() else path.parent, os.W_OK) else ", which cannot be written"
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB in {path}{writable}"


def extras() -> dict[str, dict[str, str | None]]:
    """By each extra for users its packages, with the versions that are installed."""
    found: dict[str, dict[str, str | None]] = {}
    for line in importlib.metadata.requires("vbppl") or ():
        asked = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", line)
        if asked and asked[2] not in DEVELOPERS and asked[1] not in CORE and asked[1] != "vbppl":
            found.setdefault(asked[2], {})[asked[1]] = _version(asked[1])
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@vb.model
def one_number(y: float) -> None:
    """Whose posterior is N(8, 0.2) where 10 was observed."""
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.sample("y", dist.Normal(x, 0.5), obs=y)


def fitted() -> str:
    """A fit whose answer is known.

    Raises:
      RuntimeError: it is another one.
    """
    began = time.perf_counter()
    posterior = vb.fit(one_number(10.0), progress=False)
    mean, sd, verdict = float(posterior.mean()["x"]), float(posterior.sd()["x"]), posterior.check().verdict
    text = f"a fit: mean {mean:.3f}, sd {sd:.3f}, {verdict}, in {time.perf_counter() - began:.1f} s"
    if verdict != "good" or abs(mean - 8) > 0.01 or abs(sd - 0.2**0.5) > 0.01:
        raise RuntimeError(f"{text}; the right answer is mean 8.000, sd 0.447")
    return text


if __name__ == "__main__":
    sys.exit(main())
