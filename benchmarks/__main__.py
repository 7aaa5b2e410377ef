"""The door: `python -m benchmarks [SUITE ...] [--quick | --full]`; `--help` lists the suites.

Results are written into `benchmarks/results` after each measurement: `SUITE.json` (every row), `SUITE.md` (the table)
and pictures. `python -m benchmarks SUITE -- OPTIONS` runs the script of one suite with options of its own, as it is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peers import PEERS, installed
from benchmarks.report import Results, summary
from benchmarks.suites import SCRIPTS, SUITES


def main(arguments: list[str]) -> None:
    """Measure what is asked for, and write it."""
    if "--" in arguments:
        (name, *rest), own = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
        if rest or name not in SCRIPTS:
            sys.exit(f"own options are for one of {', '.join(SCRIPTS)}")
        return importlib.import_module(f"benchmarks.{name}").main(own)
    options = parsed(arguments)
    if options.device:
        os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(options.device, options.device)
    pythons = dict(each.split("=", 1) for each in options.python)
    here = {peer: installed(peer, pythons.get(peer, sys.executable)) for peer in options.peers}
    for peer in (peer for peer, found in here.items() if not found):
        print(f'{peer} is not installed here and left out: pip install ".[peers]"', file=sys.stderr)
    everything: list[dict[str, Any]] = []
    broken: list[str] = []
    for name in options.suites:
        results = Results.of(name, options, {peer: found for peer, found in here.items() if found})
        asked = [one for one in SUITES[name].measurements(options.full) if _wanted(one, here, options.only)]
        print(f"# {name}: {len(asked)} measurements", file=sys.stderr)

        def found(row: harness.Row, results: Results = results) -> None:
            results.add(row)
            print(summary(row), file=sys.stderr, flush=True)

        harness.run(asked, options.repetitions or (3 if options.full else 1), pythons, results.rows, found)
        everything.append(results.as_data())
        try:
            results.write(SUITES[name])
            print(results.text(SUITES[name]), flush=True)
        except Exception:  # its rows are written, and the other suites do not depend on it
            traceback.print_exc()
            broken.append(name)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if broken:
        sys.exit(f"no table of {', '.join(broken)}: see above")


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES) + "; all if none")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few minutes; this is what happens if nothing is said")
    size.add_argument("--full", action="store_true", help="all, three times over: hours")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help=f"of {','.join(PEERS)}; all that are installed if not said"
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH", help="another interpreter for a peer"
    )
    parser.add_argument("--repetitions", type=int, help="of each measurement, each another seed")
    parser.add_argument("--only", default="", help="measurements whose name holds this")
    parser.add_argument(
        "--more", action="store_true", help="keep the rows that the results have, measure what is missing"
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], help="which JAX is to use")
    parser.add_argument(
        "--out", type=Path, default=harness.ROOT / "benchmarks" / "results", help="the folder of results"
    )
    parser.add_argument("--json", type=Path, help="all rows of all suites in one file too")
    options = parser.parse_args(arguments)
    options.suites = options.suites or list(SUITES)
    options.peers = [peer for peer in options.peers.split(",") if peer]
    for given, known in ((options.suites, SUITES), (options.peers, PEERS)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    if wrong := [each for each in options.python if each.partition("=")[0] not in PEERS]:
        parser.error(f"--python takes PEER=PATH, with one of {', '.join(PEERS)}, not {', '.join(wrong)}")
    return options


def _wanted(one: harness.Measurement, here: dict[str, Any], only: str) -> bool:
    return only in one.label and (one.peer not in PEERS or bool(here.get(one.peer)))


if __name__ == "__main__":
    main(sys.argv[1:])
