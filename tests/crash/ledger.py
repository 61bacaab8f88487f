"""What steps really did, kept outside the store: one line per deed, safe against `kill -9`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Deed", "Ledger"]


@dataclass(frozen=True)
class Deed:
    """One line: a step's code began or ended."""

    moment: str
    direction: str
    step_id: str
    attempt: int
    fence: int
    pid: int

    @property
    def began(self) -> bool:
        return self.moment == "begin"


class Ledger:
    """An append-only file. A line is one write, so it is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, moment: str, direction: str, step_id: str, attempt: int, fence: int) -> None:
        line = f"{moment} {direction} {step_id} {attempt} {fence} {os.getpid()}\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[Deed]:
        if not self._path.exists():
            return []
        deeds = []
        for line in self._path.read_text().splitlines():
            moment, direction, step_id, attempt, fence, pid = line.split()
            deeds.append(Deed(moment, direction, step_id, int(attempt), int(fence), int(pid)))
        return deeds
