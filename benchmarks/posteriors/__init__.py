"""Real and classic posteriors with long references: how far is a fit from the truth, and does it know?

`python -m benchmarks posteriors` prints the table. An error of a mean is in standard deviations of the reference, in
the model's own unconstrained space; "on supports" is the worst mean and log sd error there; sites without a usable
variance are compared by median and central interval. "Resampled" are the errors of `posterior.resample` where the
verdict is "corrected"; "answer" those on supports of what the posterior says by itself, **off** if one is beyond 0.1
sd or 0.15 log sd and two standard errors of the reference. Linear response belongs to a mean-field fit of its own.
`--reference` makes the references anew, which takes half an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import jax

from benchmarks import machine
from benchmarks.posteriors import nuts, store
from benchmarks.posteriors.catalogue import ENTRIES, Entry
from benchmarks.posteriors.table import HEAD, Measured, closing, measure, measure_response, row


def main(arguments: list[str]) -> None:
    """Print the table, or make the references."""
    parser = argparse.ArgumentParser("python -m benchmarks posteriors", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", help="which posteriors; `further` are those of further.py; all others if none"
    )
    parser.add_argument("--guide", default="auto", help="auto, mean_field or full_rank")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each")
    parser.add_argument("--float64", action="store_true", help="fit in float64")
    parser.add_argument("--no-response", action="store_true", help="leave out the mean-field fit for linear response")
    parser.add_argument("--nuts", action="store_true", help="NumPyro's NUTS beside the first fit of each")
    parser.add_argument("--json", type=Path, help="where the fits are written too, a line each")
    parser.add_argument("--data", type=Path, help="an .npz with posteriordb's radon_mn, for the posterior `radon`")
    parser.add_argument("--reference", choices=["all", "limits"], nargs="?", const="all", help="make the references")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {name for entry in ENTRIES for name in (entry.name, entry.label)}
    if unknown:
        parser.error(f"no posterior is called {', '.join(sorted(unknown))}: {', '.join(e.name for e in ENTRIES)}")
    entries = [e for e in ENTRIES if {e.name, e.label} & set(options.names) or not (options.names or e.label)]
    entries = [entry for entry in entries if options.data or not entry.file]
    if options.reference:
        with jax.enable_x64(True):
            make_references(entries, options.data, options.reference)
    else:
        with jax.enable_x64(options.float64):
            print_table(entries, options)


def print_table(entries: list[Entry], options: argparse.Namespace) -> None:
    """A line as soon as it is known, then the counts."""
    known, fits, raised = store.load(), list[Measured](), list[str]()
    bits = 64 if options.float64 else 32
    print(f"{machine.described()}; guide {options.guide}, float{bits}, {options.seeds} seeds\n\n{HEAD}", flush=True)
    for entry in entries:
        if entry.name in known:
            try:
                some = _fits(entry, known[entry.name], options)
            except Exception as error:  # a fit that raises is a result too, and the worst one
                raised.append(f"{entry.name} ({type(error).__name__}: {error})")
                print(f"| {entry.name} | | | **raised {type(error).__name__}** |", flush=True)
            else:
                fits += some
    missing = [entry.name for entry in entries if entry.name not in known]
    if missing:
        print(f"\nWithout a reference yet (`--reference {' '.join(missing)}` makes it): left out.")
    print(f"\n{closing(fits)}\nRaised: {len(raised)}{''.join(f'; {each}' for each in raised)}.")


def _fits(entry: Entry, reference: dict, options: argparse.Namespace) -> list[Measured]:
    model = entry.model(options.data)
    some = [measure(entry, reference, model, options.guide, seed) for seed in range(options.seeds)]
    if options.nuts:
        some[0] = dataclasses.replace(some[0], nuts=nuts.seconds(model, 0))
    response = None if options.no_response else measure_response(entry, reference, model)
    print(row(some, response), flush=True)
    if options.json:
        with options.json.open("a") as file:
            file.writelines(json.dumps(dataclasses.asdict(fit)) + "\n" for fit in some)
    return some


def make_references(entries: list[Entry], path: Path | None, what: str) -> None:
    """Make and store one after the other."""
    from benchmarks.posteriors import reference  # BlackJAX and SciPy are wanted for this alone

    for entry in entries:
        if what == "all":
            store.save(entry.name, reference.make(entry, path))
        made = store.load()[entry.name]
        if not entry.label:
            made["limits"] = reference.limits(entry, path)
            store.save(entry.name, made)
        print(f"{entry.name}: {made['made']}, {made.get('limits', 'no limits')}", flush=True)
