"""What worker processes write down, outside the store, and the verdict on it.

Each process has a file of its own; a line is one write, so a `kill -9` leaves it whole or not at
all. A line says which saga was claimed, begun or committed, under which fence and version.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

__all__ = ["Deed", "Line", "Notebook", "read", "repeated_steps", "takeovers", "wrongs"]


class Deed(StrEnum):
    CLAIMED = "claimed"
    """`what` is the claim id, with `again` behind it if the saga had a holder before."""
    BEGUN = "begun"
    """`what` is the step id; a step sees no version, so that is 0."""
    COMMITTED = "committed"
    """`what` is the commit id; the version is the one that the commit made."""


@dataclass(frozen=True, slots=True)
class Line:
    process: int
    deed: Deed
    saga_id: UUID
    fence: int
    version: int
    what: str
    again: bool = False


class Notebook:
    """One process's file. Closed with the process."""

    def __init__(self, folder: Path, process: int) -> None:
        self._file = os.open(folder / f"{process}.notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(
        self, deed: Deed, saga_id: UUID, fence: int, version: int, what: str, *, again: bool = False
    ) -> None:
        os.write(self._file, f"{deed} {saga_id} {fence} {version} {what} {again:d}\n".encode())


def read(folder: Path) -> list[Line]:
    """Return the lines of all processes, each process's in the order it wrote them."""
    lines = []
    for file in sorted(folder.glob("*.notes")):
        for text in file.read_text().splitlines():
            deed, saga_id, fence, version, what, again = text.split()
            lines.append(
                Line(
                    int(file.stem),
                    Deed(deed),
                    UUID(saga_id),
                    int(fence),
                    int(version),
                    what,
                    again=again == "1",
                )
            )
    return lines


def wrongs(lines: Iterable[Line]) -> list[str]:
    """Return what must never be, whoever was killed and when; empty if all is well.

    A fence belongs to one claim, a version to one write, a later version never has a lower fence,
    and a step begins only in the process whose claim gave the fence it sees.
    """
    claims: defaultdict[tuple[UUID, int], set[tuple[int, str]]] = defaultdict(set)
    writes: defaultdict[UUID, dict[int, set[tuple[int, int, str]]]] = defaultdict(dict)
    steps = []
    for line in lines:
        if line.deed is Deed.BEGUN:
            steps.append(line)
            continue
        if line.deed is Deed.CLAIMED:
            claims[line.saga_id, line.fence].add((line.process, line.what))
        write = (line.fence, line.process, line.what)
        writes[line.saga_id].setdefault(line.version, set()).add(write)
    found = [
        f"{saga_id}: fence {fence} was given to {len(by)} claims, {sorted(by)}"
        for (saga_id, fence), by in claims.items()
        if len(by) > 1
    ]
    for saga_id, versions in writes.items():
        found += [
            f"{saga_id}: version {version} was made by {len(by)} writes, {sorted(by)}"
            for version, by in versions.items()
            if len(by) > 1
        ]
        fences = [min(versions[version])[0] for version in sorted(versions)]
        if fences != sorted(fences):
            found.append(f"{saga_id}: a later version has a lower fence, {fences}")
    found += [
        f"{step.saga_id}: {step.what} began in process {step.process} under fence {step.fence}, "
        f"which it had not claimed"
        for step in steps
        if step.process not in {process for process, _ in claims[step.saga_id, step.fence]}
    ]
    return found


def repeated_steps(lines: Iterable[Line]) -> int:
    """Return how many steps began again."""
    begun = Counter((line.saga_id, line.what) for line in lines if line.deed is Deed.BEGUN)
    return sum(times - 1 for times in begun.values())


def takeovers(lines: Iterable[Line]) -> int:
    """Return how many claims found a holder that had let its lease run out."""
    return sum(line.deed is Deed.CLAIMED and line.again for line in lines)
