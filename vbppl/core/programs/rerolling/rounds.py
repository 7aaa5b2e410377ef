"""Which operations are done together: those that are alike, and equally far from the program's beginning or its end.

Operations are alike that have the same primitive, settings and shapes. By the longest way from the program's arguments
are joined those of which all that they need is joined so too, all others by the longest way to its end. So none waits
for itself: those of one length of way cannot depend on each other, and of the first none depends on one of the second.
Where there are several slices of an array, they follow it at once, whatever their users wait for.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from vbppl.core.programs.rerolling.operations import Needs, Operation

FEW = 4  # alike operations, below which they stay as they are


class Round(NamedTuple):
    """Operations that are done together, in their order side by side, or one alone.

    Attributes:
      when: what orders rounds.
      operations: none of which needs another.
    """

    when: tuple[int, int, int]
    operations: Sequence[Operation]


def rounds_of(operations: Sequence[Operation], needs: Needs) -> list[Round]:
    """All operations, in an order in which they can be done, those together that are alike."""
    families = collections.Counter(each.family for each in operations if each.family is not None)
    kinds = {each: each.family if families[each.family] >= FEW else each.kind for each in operations}
    early = collections.Counter((kinds[each], needs.from_start[each]) for each in operations)
    late = collections.Counter((kinds[each], needs.to_end[each]) for each in operations)
    when: dict[Operation, tuple[int, int, int]] = {}
    found: dict[tuple[tuple[int, int, int], Hashable], list[Operation]] = collections.defaultdict(list)
    for each in operations:
        kind, whole = kinds[each], needs.of[each]
        more = late[kind, needs.to_end[each]] if kind is not None else 0
        if families[each.family] >= FEW and whole:
            when[each] = (*when[whole[0]][:2], when[whole[0]][2] + 1)
        elif all(when[need][0] == 0 for need in whole) and (more < FEW or early[kind, needs.from_start[each]] >= more):
            when[each] = (0, needs.from_start[each], 0)
        else:
            when[each] = (1, -needs.to_end[each], 0)
        found[when[each], each if kind is None else kind].append(each)
    ordered = [Round(at, mates) for (at, _), mates in sorted(found.items(), key=lambda item: item[0][0])]
    return _by_company(ordered, needs)


def _by_company(rounds: Sequence[Round], needs: Needs) -> list[Round]:
    """In each round apart from each other what comes from other rounds or goes to others: arrays then stay whole."""
    turn = {each: number for number, (_, mates) in enumerate(rounds) if len(mates) >= FEW for each in mates}
    found = []
    for when, mates in rounds:
        parts: dict[Hashable, list[Operation]] = collections.defaultdict(list)
        for each in mates:
            users = sorted({turn.get(user, -1) for user in needs.users[each]})
            parts[tuple(turn.get(need, -1) for need in needs.of[each]), tuple(users)].append(each)
        rest = [each for part in parts.values() if len(part) < FEW for each in part]
        whole = [part for part in parts.values() if len(part) >= FEW]
        whole += [rest] if len(rest) >= FEW else [[each] for each in rest]
        found += [Round(when, part) for part in whole]
    return found
