"""Loops that a trace has unrolled: operations that come again and again, each time from what they gave before."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from vbppl.core.programs.rerolling.operations import Needs, Operation, identity, is_variable
from vbppl.core.programs.rerolling.rounds import Round, rounds_of

TURNS = 8  # of a loop, below which it stays unrolled
LONGEST = 128  # operations of a turn
LOOK = 2  # operations before it, by which one is told from others of its kind
LOOPS = 8  # of a program


@dataclasses.dataclass(eq=False)
class Loop(Operation):
    """Operations that come again and again.

    Attributes:
      equations: of one turn, in order.
      sources: for each of them, and each of its operands, where it is from: ("now", equation) is the result of one in
        this turn, ("before", equation) of one in the turn before, ("shared", number) is the same in all turns, and
        ("along", number) has its own value in each.
      starts: by equation, what it is said to have given before the first turn.
      shared: atoms.
      along: for each number an atom for each turn.
      kept: by equation the variables of its results, turn by turn, where something else needs them.
      length: the turns.
    """

    equations: Sequence[Any] = ()
    sources: Sequence[Sequence[tuple[str, int]]] = ()
    starts: dict[int, Any] = dataclasses.field(default_factory=dict)
    shared: Sequence[Any] = ()
    along: Sequence[Sequence[Any]] = ()
    kept: dict[int, Sequence[Any]] = dataclasses.field(default_factory=dict)
    length: int = 0


def rounds_with_loops(operations: Sequence[Operation], outputs: Sequence[Any]) -> list[Round]:
    """The rounds of a program that gives `outputs`, in which what comes again and again is one operation."""
    needs = Needs(operations)
    rounds = rounds_of(operations, needs)
    for _ in range(LOOPS):
        loop = _first_loop(rounds, needs, set(filter(is_variable, outputs)))
        if loop is None:
            break
        found, members, after = loop
        others = [each for each in operations if each not in members]
        before, later = ([each for each in others if (each in after) == is_later] for is_later in (False, True))
        operations = [*before, found, *later]
        needs = Needs(operations)
        rounds = rounds_of(operations, needs)
    return rounds


def _first_loop(
    rounds: Sequence[Round], needs: Needs, wanted: set[Any]
) -> tuple[Loop, set[Operation], set[Operation]] | None:
    """A loop, what it is in the place of, and what needs some of that."""
    left = _left(rounds, needs)
    for first, length, turns in _repeats([label for _, label in left]):
        some = [each for each, _ in left[first : first + turns * length]]
        after = _after(set(some), needs)
        feeds_itself = any(need in after for each in some for need in needs.of[each])
        split = [some[at : at + length] for at in range(0, len(some), length)]
        if not feeds_itself and (loop := _loop(split, needs, wanted)) is not None:
            return loop, set(some), after
    return None


def _repeats(labels: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Where the same labels come again and again: the first, how many are a turn, and the turns; short ones before."""
    numbers = np.array(labels, int)
    for length in range(1, min(LONGEST, len(labels) // TURNS) + 1):
        edges = np.diff(np.concatenate([[0], numbers[length:] == numbers[:-length], [0]]))
        for begin, end in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()):
            # The first turns may have begun in another way.
            for first in range(begin, min(begin + 3 * length, end), length):
                if (turns := (end + length - first) // length) >= TURNS:
                    yield first, length, turns


def _left(rounds: Sequence[Round], needs: Needs) -> list[tuple[Operation, int]]:
    """The operations that stand alone, in order, each with a label: equal are those that look alike from behind."""
    numbers: dict[Hashable, int] = {}
    labels, alone = {}, [round_ for round_ in rounds if len(round_.operations) == 1]
    for number, (_, mates) in enumerate(rounds):
        for each in mates:
            is_single = len(mates) == 1 and each.kind is not None and len(each.outputs) == 1
            labels[each] = numbers.setdefault(("kind", each.kind) if is_single else ("round", number), len(numbers))
    singles = [each for _, (each,) in alone]
    for _ in range(LOOK):
        seen = {each: (labels[each], *(labels[need] for need in needs.of[each])) for each in singles}
        labels.update((each, numbers.setdefault(("seen", label), len(numbers))) for each, label in seen.items())
    found = [(when, labels[each], each) for when, (each,) in alone]
    return [(each, label) for _, label, each in sorted(found, key=lambda item: item[:2])]


def _loop(turns: Sequence[Sequence[Operation]], needs: Needs, wanted: set[Any]) -> Loop | None:
    """Turns as one operation; None where each is not from the one before in the same way."""
    place = {each.outputs[0]: (t, j) for t, turn in enumerate(turns) for j, each in enumerate(turn)}
    members = {each for turn in turns for each in turn}
    if any(each.kind is None or len(each.outputs) != 1 for each in members):
        return None
    loop = Loop([], [], equations=[each.equation for each in turns[0]], length=len(turns))
    shared: dict[Hashable, tuple[int, Any]] = {}
    sources, along = [], []
    for mates in zip(*turns):
        if len({each.kind for each in mates}) > 1:
            return None
        mine = []
        for atoms in zip(*(each.inputs for each in mates)):
            source = _source(atoms, [place.get(a) if is_variable(a) else None for a in atoms])
            if source is None:
                return None
            if source[0] == "before":
                start = loop.starts.setdefault(source[1], atoms[0])
                if identity(start) != identity(atoms[0]):
                    return None
            elif source[0] == "shared":
                source = "shared", shared.setdefault(identity(atoms[0]), (len(shared), atoms[0]))[0]
            elif source[0] == "along":
                source = "along", len(along)
                along.append(atoms)
            mine.append(source)
        sources.append(mine)
    loop.sources, loop.along, loop.shared = sources, along, [atom for _, atom in shared.values()]
    for j, mates in enumerate(zip(*turns)):
        if any(each.outputs[0] in wanted or not members.issuperset(needs.users[each]) for each in mates):
            loop.kept[j] = [each.outputs[0] for each in mates]
    loop.inputs = [*loop.starts.values(), *loop.shared, *itertools.chain.from_iterable(along)]
    loop.outputs = list(itertools.chain.from_iterable(loop.kept.values()))
    return loop


def _source(atoms: Sequence[Any], places: Sequence[tuple[int, int] | None]) -> tuple[str, int] | None:
    """Where an operand is from, whose atom and place within the turns are given for each turn."""
    if all(place is None for place in places):
        return ("shared", 0) if len(set(map(identity, atoms))) == 1 else ("along", 0)
    if places[1] is None:
        return None
    t, j = places[1]
    if t == 1 and all(place == (now, j) for now, place in enumerate(places)):
        return "now", j
    if t == 0 and places[0] is None and all(place == (now, j) for now, place in enumerate(places[1:])):
        return "before", j
    return None


def _after(members: set[Operation], needs: Needs) -> set[Operation]:
    """What needs some of these, at once or by others."""
    found: set[Operation] = set()
    ahead = [user for each in members for user in needs.users[each]]
    while ahead:
        each = ahead.pop()
        if each not in found and each not in members:
            found.add(each)
            ahead += needs.users[each]
    return found
