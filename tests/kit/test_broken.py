"""The suite is itself tested: it finds every bug, by the right rule, and nothing but bugs.

`SAGA_CAMPAIGN=full` runs the healthy store a hundred times instead of three.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from saga_testing import MemoryStore
from saga_testing.conformance import handles, wakeups
from saga_testing.conformance.queues import QueueRules
from tests.kit.broken import BUGS, Bug
from tests.kit.running import failures, plain_rules

RUNS = 100 if os.environ.get("SAGA_CAMPAIGN") == "full" else 3
MOST_RULES = 5
MOST_LINES = 10
READS, WRITES = ("load", "inbox", "history", "find", "count"), ("create", "commit", "signal")
OF_QUEUES = {*vars(QueueRules), "test_first_in_the_queue_wakes"}


class LateStore(MemoryStore):
    """Applies a write some turns after the call, also when the caller has been cancelled since.

    So does every store that works in a thread or behind a shield: the contract allows it.
    """

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in READS + WRITES:
            return found
        turns = 1 if name in READS else 6
        return lambda *args, **kwargs: asyncio.shield(self._late(turns, found, *args, **kwargs))

    async def _late(self, turns: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await call(*args, **kwargs)


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what will not come: a store in memory wakes within the same turn of a loop."""
    monkeypatch.setattr(wakeups, "SOON", 0.5)
    monkeypatch.setattr(handles, "PATIENCE", 0.5)


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_bug_is_found_by_its_rule_and_by_few_others(bug: Bug) -> None:
    found = failures(bug.store())
    assert list(found)[:1] == [bug.rule]
    # Each rule of queues needs nearly all the rest of a store, and most of what others are about.
    counted = [rule for rule in found if rule == bug.rule or rule not in OF_QUEUES]
    assert len(counted) <= MOST_RULES, counted
    for rule in counted:
        assert found[rule].is_a_verdict, f"an accident: {found[rule]}"


def test_healthy_store_passes_many_times_in_a_row() -> None:
    for _ in range(RUNS):
        assert not failures(MemoryStore)


def test_store_whose_cancelled_calls_land_later_is_healthy() -> None:
    assert not failures(LateStore)


def test_each_bug_is_found_first_by_another_rule() -> None:
    first = Counter(bug.rule for bug in BUGS)
    assert [rule for rule, bugs in first.items() if bugs > 1] == []
    assert first.keys() <= {rule.name for rule in plain_rules()}
    assert len(BUGS) >= 25


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_bug_is_a_small_diff_to_one_method(bug: Bug) -> None:
    assert 0 < bug.size <= MOST_LINES


def test_no_two_bugs_are_at_one_place() -> None:
    places: dict[str, list[range]] = {}
    for bug in BUGS:
        places.setdefault(bug.method, []).append(bug.place)
    for method, taken in places.items():
        taken.sort(key=lambda place: place.start)
        for one, two in pairwise(taken):
            assert one.stop <= two.start, method
