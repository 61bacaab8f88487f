"""Sagas that cannot be driven here are left alone for longer and longer, and told of once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from saga_core import SagaDefinitionError, SagaStatus
from saga_core.records import NewSaga, SagaRecord, SagaState
from saga_core.refusals import Refusals

LONGEST = timedelta(seconds=10)
ERROR = SagaDefinitionError("no such step")


def record(number: int, version: str = "1") -> SagaRecord:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    new = NewSaga(
        saga_id=UUID(int=number),
        saga_name="story",
        definition_version=version,
        fingerprint="f",
        data="1",
        state=SagaState(status=SagaStatus.RUNNING, step_id="a"),
    )
    return replace(new.as_record(now=now, due_at=now))


def test_delay_doubles_up_to_the_longest() -> None:
    refusals = Refusals(longest=LONGEST)
    delays = [refusals.delay(record(1), ERROR).total_seconds() for _ in range(60)]
    assert delays[:7] == [0.25, 0.5, 1, 2, 4, 8, 10]
    assert set(delays[6:]) == {10}


def test_each_saga_has_a_delay_of_its_own_until_it_is_driven() -> None:
    refusals = Refusals(longest=LONGEST)
    refusals.delay(record(1), ERROR)
    assert refusals.delay(record(2), ERROR) == timedelta(seconds=0.25)
    refusals.forget(UUID(int=1))
    refusals.forget(UUID(int=1))
    assert refusals.delay(record(1), ERROR) == timedelta(seconds=0.25)
    assert refusals.delay(record(2), ERROR) == timedelta(seconds=0.5)


def test_one_warning_for_each_name_and_version(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(longest=LONGEST)
    for number in range(3):
        refusals.delay(record(number), ERROR)
        refusals.delay(record(number, "2"), ERROR)
    assert [each.getMessage() for each in caplog.records] == [
        f"sagas 'story' of version '{version}' cannot be driven here and are left to others: "
        "no such step"
        for version in ("1", "2")
    ]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saga_core.refusals.REMEMBERED", 3)
    refusals = Refusals(longest=LONGEST)
    for number in range(10):
        refusals.delay(record(number), ERROR)
    assert len(refusals._times) <= 3
