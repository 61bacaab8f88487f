"""What schedules a store holds, and when each is due next. Needs no cronsim."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from saga_core import SagaStatus, SagaStore
from saga_core.records import SagaRecord
from saga_core.status import ACTIVE
from saga_cron.chain import links, read_link
from saga_cron.schedule import Link, Schedule

__all__ = ["ScheduleInfo", "list_schedules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """A schedule as the store holds it."""

    schedule: Schedule
    next_at: datetime | None
    """When it is looked at next: its next tick, or a retry. None while it is paused, or STUCK."""
    saga_id: UUID
    """The link that waits for that time: pause it, and the schedule pauses."""
    status: SagaStatus
    is_paused: bool
    last_error: str | None


async def list_schedules(store: SagaStore) -> list[ScheduleInfo]:
    """Return the schedules of the store's namespace by name, each as it counts now."""
    newest: dict[str, tuple[tuple[int, str], datetime, SagaRecord, Link]] = {}
    async for record in links(store, None, ACTIVE):
        link = read_link(record)
        held = newest.get(link.schedule.name)
        if held is None or (link.rank(), record.created_at) > held[:2]:
            newest[link.schedule.name] = (link.rank(), record.created_at, record, link)
    return [_info(*newest[name][2:]) for name in sorted(newest)]


def _info(record: SagaRecord, link: Link) -> ScheduleInfo:
    return ScheduleInfo(
        schedule=link.schedule,
        next_at=None if record.worker is not None else record.due_at,
        saga_id=record.saga_id,
        status=record.state.status,
        is_paused=record.state.is_paused,
        last_error=record.state.last_error,
    )
