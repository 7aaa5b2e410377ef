"""A catalogue of wrong programs, each with what it is told, whole: the site, the values that disagree, and the mend."""

from __future__ import annotations

import re

import pytest


class Catalogue(dict):
    """Functions that go wrong, by their names, each with its message."""

    def told(self, message):
        """What the function does goes wrong, with this message."""

        def keep(function):
            assert function.__name__ not in self, "two wrong programs of one name"
            self[function.__name__] = (function, message.strip())
            return function

        return keep

    def check(self, name):
        """The program is told what is stored."""
        function, message = self[name]
        with pytest.raises((TypeError, ValueError)) as caught:
            function()
        assert re.sub(r"\S+/tests/\S+\.py:\d+", "FILE:LINE", str(caught.value)) == message
