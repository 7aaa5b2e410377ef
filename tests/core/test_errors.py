"""An error is one text with its parts in order, and each part is also there for a program."""

from __future__ import annotations

import pytest

from vbppl.core.errors import ModelError, VbpplWarning


@pytest.mark.parametrize(
    "error, text",
    [
        (ModelError("it is wrong."), "it is wrong."),
        (ModelError("it is wrong.", site="mu"), "site 'mu': it is wrong."),
        (ModelError("it is wrong.", details="a: 1\nb: 2"), "it is wrong.\n  a: 1\n  b: 2"),
        (ModelError("it is wrong.", mend="Mend it."), "it is wrong.\n  To mend it: Mend it."),
        (
            ModelError("it is wrong.", site="mu", details="a: 1", mend="Mend it."),
            "site 'mu': it is wrong.\n  a: 1\n  To mend it: Mend it.",
        ),
    ],
    ids=["what", "site", "details", "mend", "all"],
)
def test_the_parts_stand_in_order(error, text):
    assert str(error) == text


def test_the_parts_can_be_asked_for():
    error = ModelError("it is wrong.", site="mu", details="a: 1", mend="Mend it.")
    assert (error.what, error.site, error.details, error.mend) == ("it is wrong.", "mu", "a: 1", "Mend it.")


def test_callers_may_catch_them_as_pythons_own():
    assert issubclass(ModelError, ValueError) and issubclass(VbpplWarning, UserWarning)
