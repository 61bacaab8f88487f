"""Apply a printed diff, and nothing but that diff."""

from __future__ import annotations

import re

__all__ = ["patched"]

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def patched(text: str, diff: str) -> str:
    """Return the text with a unified diff applied: no fuzz, no offset, every line accounted for."""
    head, *lines = diff.split("\n+++ ", 1)[1].splitlines()
    assert diff.startswith("--- "), head
    old, new = text.splitlines(), list[str]()
    at = taken = given = 0
    for line in lines:
        if hunk := _HUNK.fullmatch(line):
            assert (taken, given) == (0, 0), f"the hunk before {line!r} has not its length"
            start, taken, begin, given = (int(number or 1) for number in hunk.groups())
            new += old[at : start - 1]
            at = start - 1
            assert len(new) == begin - 1, line
            continue
        sign, content = line[:1] or " ", line[1:]
        assert sign in (" ", "-", "+"), line
        if sign != "+":
            assert old[at] == content, f"line {at + 1} is {old[at]!r}, the diff has {content!r}"
            at, taken = at + 1, taken - 1
        if sign != "-":
            new.append(content)
            given -= 1
    assert (taken, given) == (0, 0), "the last hunk has not its length"
    return "\n".join([*new, *old[at:]]) + "\n"
