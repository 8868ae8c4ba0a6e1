"""What a check of `alongside doctor` finds."""

from __future__ import annotations

from ._printing import words


class Finding:
    """What a check has found.

    Attributes:
        level: "info", which is as it should be, "warning" or "error".
        subject: what it is about: "scope user", "kernel".
        text: in one sentence.
        mend: how to mend it; empty if nothing needs to be.
    """

    def __init__(self, level: str, subject: str, text: str, mend: str = "") -> None:
        self.level = level
        self.subject = subject
        self.text = text
        self.mend = mend


def finding_of(error: Exception, subject: str, level: str) -> Finding:
    """Give an error as a finding: what it says in its first line, and below how to mend it."""
    text, _, mend = words(error).partition("\n")
    return Finding(level, subject, text, mend)
