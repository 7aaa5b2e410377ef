"""What pytest's way to import would break: the words of the root that are called like a wing."""

from __future__ import annotations

import vbppl

WORDS = {name: getattr(vbppl, name) for name in ("model", "target")}


def pytest_collection_finish() -> None:
    """Give the words back: pytest makes every module that it collects an attribute of its package, over `vb.model`."""
    for name, word in WORDS.items():
        setattr(vbppl, name, word)
