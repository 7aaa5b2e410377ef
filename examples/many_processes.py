"""One regression fitted by several processes, each of which has made only its own rows.

    python examples/many_processes.py --processes 4

starts them here. On several machines Slurm, Kubernetes or Ray starts them instead (docs/many_machines.md), with
`jax.distributed.initialize()` in the place of `start`; all that follows is the same.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys

import jax
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

SLOPES = np.array([1.0, -1.0, 0.5])


@vb.model
def regression(x, y):
    slopes = vb.sample("slopes", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    with vb.plate("row", len(y)):
        mean = vb.subsample(x, event_dim=1) @ slopes
        vb.sample("y", dist.Normal(mean, noise), obs=vb.subsample(y))


def rows(numbers):
    """The rows of these numbers: a process reads its own from wherever they lie."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(numbers.stop, len(SLOPES)))[numbers.start :]
    return x, x @ SLOPES + 0.5 * np.random.default_rng(1).normal(size=numbers.stop)[numbers.start :]


def fit(process, processes, total):
    """The posterior, the same in every process."""
    ends = np.linspace(0, total, processes + 1).astype(int)
    mine = rows(range(ends[process], ends[process + 1]))
    x, y = vb.shard(*mine)  # the rows of all processes, of which each device holds its share
    return len(mine[1]), vb.fit(regression(x, y))


def main(process, processes, total):
    held, posterior = fit(process, processes, total)
    slopes = np.round(posterior.mean()["slopes"], 4)
    print(f"process {process} of {processes} holds {held:,} of {total:,} rows: slopes {slopes}, ELBO {posterior.elbo}")
    if process == 0:
        print(posterior.check())


def start(processes, total):
    """Start the processes on this machine; the status of the worst."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, f"--processes={processes}", f"--rows={total}", f"--port={port}"]
    started = [subprocess.Popen([*command, f"--process={number}"]) for number in range(processes)]
    return max(each.wait() for each in started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rows", type=int, default=10_001)
    parser.add_argument("--process", type=int, help="set by the one that starts the others")
    parser.add_argument("--port", type=int)
    asked = parser.parse_args()
    if asked.process is None:
        sys.exit(start(asked.processes, asked.rows))
    # The others of one that has died are to wait seconds, not minutes.
    patience = {"heartbeat_timeout_seconds": 20, "shutdown_timeout_seconds": 20}
    jax.distributed.initialize(f"127.0.0.1:{asked.port}", asked.processes, asked.process, **patience)
    main(asked.process, asked.processes, asked.rows)
