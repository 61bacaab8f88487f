"""Run the rules of the suite on a memory store without pytest around each: thousands in seconds.

The topics `machine` and `turns` are left out: random calls and many callers are meant to be red
for nearly every bug, so they can't say which rule a bug breaks.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import pytest

from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing import MemoryStore, conformance
from saga_testing.conformance import StoreHarness
from saga_testing.conformance.guard import TOPICS

__all__ = ["Failure", "Rule", "failures", "plain_rules"]

_SUITE = Path(conformance.__file__).parent
_APART = {"machine", "turns"}
_PATIENCE = 30.0
"""Seconds for one rule: reached only by a rule that hangs, which is an accident."""


class SlowClock:
    """A day behind the machine, so that a store which asks the caller's clock is found out."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=1)


class KitHarness(StoreHarness):
    """Handles of one class on data of their own; ageing goes past what the class may break."""

    capabilities = frozenset({Capability.WAKEUP})

    def __init__(self, store_class: type[MemoryStore]) -> None:
        self._class = store_class
        self._healthy = MemoryStore(clock=SlowClock())

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        yield self._class(namespace, clock=self._healthy.clock, data=self._healthy.data)

    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        healthy = MemoryStore(namespace, clock=self._healthy.clock, data=self._healthy.data)
        row = healthy.data.rows[namespace, saga_id]
        record = row.record
        aged = replace(
            record,
            due_at=None if record.due_at is None else record.due_at - by,
            created_at=record.created_at - by,
            updated_at=record.updated_at - by,
        )
        row.history[:] = [replace(entry, at=entry.at - by) for entry in row.history]
        row.inbox[:] = [replace(signal, at=signal.at - by) for signal in row.inbox]
        healthy._store(row, aged)


@dataclass(frozen=True, slots=True)
class Rule:
    """One test of the suite, with the values of its parameters."""

    topic: type
    name: str
    parameters: dict[str, Any]

    async def __call__(self, harness: StoreHarness) -> None:
        method = getattr(self.topic(), self.name)
        values = dict(self.parameters)
        wanted = inspect.signature(method).parameters
        if "harness" in wanted:
            values["harness"] = harness
        if "store" not in wanted:
            await method(**values)
            return
        async with harness.open() as store:
            await method(store=store, **values)


@dataclass(frozen=True, slots=True)
class Failure:
    """A rule that is red, and what made it so."""

    rule: str
    error: BaseException

    @property
    def is_a_verdict(self) -> bool:
        """Whether a rule of the suite said no, as against something that merely went wrong."""
        if not isinstance(self.error, (AssertionError, pytest.fail.Exception)):
            return False
        frames = [Path(frame.f_code.co_filename) for frame, _ in _walk(self.error.__traceback__)]
        ours = [path for path in frames if "_pytest" not in path.parts]
        return bool(ours) and ours[-1].is_relative_to(_SUITE)

    def __str__(self) -> str:
        last = "".join(traceback.format_exception(self.error)[-4:])
        return f"{self.rule}\n{last}"


def plain_rules() -> list[Rule]:
    """Return every rule but those of the topics that stand apart, in the suite's order."""
    topics = [one for one in TOPICS if one.__module__.rpartition(".")[2] not in _APART]
    return [
        Rule(topic, name, parameters)
        for topic in topics
        for name, method in vars(topic).items()
        if name.startswith("test_")
        for parameters in _parameters(method)
    ]


def failures(
    store_class: type[MemoryStore],
    harness_class: type[KitHarness] = KitHarness,
    only: type | None = None,
) -> dict[str, Failure]:
    """Run every plain rule, of one topic if one is given, on a new store of this class each.

    Return the red ones, in order.
    """

    async def run() -> dict[str, Failure]:
        found: dict[str, Failure] = {}
        for rule in plain_rules():
            if only is not None and rule.topic is not only:
                continue
            try:
                async with asyncio.timeout(_PATIENCE):
                    await rule(harness_class(store_class))
            except pytest.skip.Exception:
                continue
            except (Exception, pytest.fail.Exception) as error:
                found.setdefault(rule.name, Failure(rule.name, error))
        return found

    return asyncio.run(run())


def _parameters(method: Any) -> Iterator[dict[str, Any]]:
    marks = [mark for mark in getattr(method, "pytestmark", ()) if mark.name == "parametrize"]
    choices = []
    for mark in marks:
        names = [name.strip() for name in mark.args[0].split(",")]
        rows = [value if len(names) > 1 else (value,) for value in mark.args[1]]
        choices.append([dict(zip(names, row, strict=True)) for row in rows])
    for combination in product(*choices):
        yield {name: value for part in combination for name, value in part.items()}


def _walk(trace: TracebackType | None) -> Iterator[tuple[Any, int]]:
    return traceback.walk_tb(trace)
