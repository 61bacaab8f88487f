"""Say how two states of a world differ, in lines that a reader can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["differences"]

MOST_LINES = 12


def differences(before: Any, after: Any) -> tuple[str, ...]:
    """Return what is in one and not in the other; empty if they are equal."""
    lines = _lines("world", before, after)
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
    return tuple(lines)


def _lines(where: str, before: Any, after: Any) -> list[str]:
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines = []
        for key in (*before, *(key for key in after if key not in before)):
            at = f"{where}[{key!r}]"
            if key not in after:
                lines.append(f"{at} is gone, it was {_short(before[key])}")
            elif key not in before:
                lines.append(f"{at} is left: {_short(after[key])}")
            else:
                lines += _lines(at, before[key], after[key])
        if lines:
            return lines
    if isinstance(before, set | frozenset) and isinstance(after, set | frozenset):
        return [
            *(f"{where}: {_short(each)} is gone" for each in sorted(before - after, key=repr)),
            *(f"{where}: {_short(each)} is left" for each in sorted(after - before, key=repr)),
        ]
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        gone, left = _without(before, after), _without(after, before)
        if gone or left:
            return [
                *(f"{where}: {_short(each)} is gone" for each in gone),
                *(f"{where}: {_short(each)} is left" for each in left),
            ]
    return [f"{where} was {_short(before)} and is {_short(after)}"]


def _without(these: Any, those: Any) -> list[Any]:
    rest = list(those)
    found = []
    for each in these:
        if each in rest:
            rest.remove(each)
        else:
            found.append(each)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
