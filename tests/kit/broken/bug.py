"""A bug as a diff to one method of `MemoryStore`, so that a copy of the rest cannot go stale.

What a commit makes of a row, `Transition.as_record`, counts as one of its methods.
"""

from __future__ import annotations

import difflib
import inspect
import textwrap
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from saga_core.records import SagaRecord, Transition
from saga_testing import MemoryStore

__all__ = ["Bug"]


@dataclass(frozen=True, slots=True)
class Bug:
    """What a method says wrongly, and the first rule of the suite that must be red for it."""

    name: str
    method: str
    right: str
    """Stands exactly once in the method, dedented."""
    wrong: str
    rule: str
    of: type[MemoryStore] = MemoryStore
    """Whose method it is."""

    @property
    def place(self) -> range:
        """Where in the method the bug is, in characters."""
        source = self._source()
        if source.count(self.right) != 1:
            raise ValueError(f"{self.name}: {self.right!r} is not just once in {self.method}")
        start = source.index(self.right)
        return range(start, start + len(self.right))

    @property
    def size(self) -> int:
        """How many lines a diff of it adds and takes away."""
        right = self._source().splitlines()
        lines = list(difflib.unified_diff(right, self._broken().splitlines(), n=0))[2:]
        return sum(line.startswith(("+", "-")) for line in lines)

    def store(self) -> type[MemoryStore]:
        """Return the store with this bug."""
        names: dict[str, Any] = {
            "datetime": datetime,
            **self._right().__globals__,
        }
        exec(compile(self._broken(), f"<{self.name}>", "exec"), names)
        broken = names[self.method]
        if self.method != "as_record":
            return type("BrokenStore", (self.of,), {self.method: broken})

        def _after(store: MemoryStore, before: SagaRecord, transition: Transition) -> SagaRecord:
            after: SagaRecord = broken(transition, before, now=store._now())
            return after

        return type("BrokenStore", (MemoryStore,), {"_after": _after})

    def __str__(self) -> str:
        return self.name

    def _right(self) -> Any:
        return getattr(Transition if self.method == "as_record" else self.of, self.method)

    def _source(self) -> str:
        return textwrap.dedent(inspect.getsource(self._right()))

    def _broken(self) -> str:
        place = self.place
        source = self._source()
        return source[: place.start] + self.wrong + source[place.stop :]
