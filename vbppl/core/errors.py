"""Errors that say what is wrong, where, which values disagree, and how to mend it."""

from __future__ import annotations


class ModelError(ValueError):
    """A model, guide or data set that cannot mean what it says.

    The message has up to four parts, in this order: the site, what is wrong, the values
    that disagree, and the mend.

    >>> print(ModelError("the name is used twice.", site="mu", mend="Rename one of the two."))
    site 'mu': the name is used twice.
      To mend it: Rename one of the two.
    """

    def __init__(self, what: str, *, site: str | None = None, details: str = "", mend: str = ""):
        self.what, self.site, self.details, self.mend = what, site, details, mend
        lines = [f"site '{site}': {what}" if site else what]
        if details:
            lines += ["  " + line for line in details.splitlines()]
        if mend:
            lines.append(f"  To mend it: {mend}")
        super().__init__("\n".join(lines))


class VbpplWarning(UserWarning):
    """A fit that ended, but whose answer needs a second look; the text says why."""
