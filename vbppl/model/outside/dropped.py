"""A model that another applies in a statement of its own, `part(x)`: it runs nothing, and its sites are lost.

Python tells nobody that a value was dropped, but a weak reference hears of it, and the caller's bytecode says whether
the call's result is dropped where it stands.
"""

from __future__ import annotations

import dis
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from vbppl.core.errors import ModelError

CACHE, POP_TOP = dis.opmap["CACHE"], dis.opmap["POP_TOP"]


def told_if_dropped(applied: Any, name: str, tell: Callable[[str], None], caller: types.FrameType) -> Any:
    """A reference to `applied`, to be kept, that tells `name` if it dies where the call's result is dropped.

    That is a statement of its own, `part(x)`. What is bound to a name, or kept by the call around it, lives longer.
    """
    code, at = caller.f_code.co_code, caller.f_lasti + 2
    while code[at] == CACHE:
        at += 2
    if code[at] != POP_TOP:
        return None
    place = (id(caller), at)

    def gone(_: Any) -> None:
        frame = sys._getframe(1)
        if (id(frame), frame.f_lasti) == place:
            tell(name)

    return weakref.ref(applied, gone)


def check_none_dropped(names: Sequence[str]) -> None:
    """Refuse a model that another has applied to its arguments, which runs nothing, and has dropped at once."""
    for name in names:
        mend = f'State it as a part, vb.sample("part", {name}(...)); or call a plain function, without @vb.model.'
        what = f"{name}(...) stands as a statement of its own in a model, where it runs nothing: its sites are lost."
        raise ModelError(what, mend=mend)
