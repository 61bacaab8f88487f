"""Bugs to be planted in what a saga does by the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from saga_core import live, performing
from saga_core.happening import Decision
from saga_core.live import LiveSaga
from saga_core.records import Due, SagaRecord
from saga_core.timing import Moment, Timing
from tests.campaign.bug import Patch, bug


@bug("ran although the saga's deadline had passed")
def deadline_ignored(patch: Patch) -> None:
    patch.setattr(LiveSaga, "time_left", lambda _: None)


@bug("ran although the saga's deadline had passed|the saga rests until")
def deadline_counted_from_the_takeover(patch: Patch) -> None:
    of = Timing.of

    def late(record: SagaRecord) -> Timing:
        return of(replace(record, created_at=record.now))

    patch.setattr(Timing, "of", staticmethod(late))


@bug("the saga rests until")
def deadline_wakes_nobody(patch: Patch) -> None:
    def due_after(_: LiveSaga, decision: Decision) -> Due | None:
        return decision.due

    patch.setattr(LiveSaga, "due_after", due_after)


@bug("failed was recorded after the rollback had begun")
def deadline_stops_a_rollback(patch: Patch) -> None:
    for module in (live, performing):
        if hasattr(module, "deadline_applies"):
            patch.setattr(module, "deadline_applies", lambda *_: True)


@bug("a person who went on did not lift it")
def deadline_never_lifted(patch: Patch) -> None:
    patch.setattr(LiveSaga, "is_overdue", False)


@bug("the saga rests until")
def begins_at_once(patch: Patch) -> None:
    def due(self: Moment, *_: Any) -> Due:
        return Due(delay=timedelta(0))

    patch.setattr(Moment, "due", due)
