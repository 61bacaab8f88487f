"""`Schedules`: what application code calls."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from saga_core import (
    SagaAdmin,
    SagaDefinitionError,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
)
from saga_core.codec import decode_json, encode_json
from saga_core.records import SagaRecord
from saga_core.status import ACTIVE
from saga_cron.chain import chain, check_fits, links, read_link
from saga_cron.line import CronLine
from saga_cron.listing import ScheduleInfo, list_schedules
from saga_cron.schedule import (
    LINK_TAG,
    LINK_VERSION,
    Link,
    Missed,
    Schedule,
    link_name,
    unsettled_since,
)

__all__ = ["Schedules"]

REMOVAL_PAUSE = 0.02
"""Seconds until a link that is being driven is looked at again while its schedule is removed."""

NOT_COMPLETED = tuple(status for status in SagaStatus if status is not SagaStatus.COMPLETED)


class Schedules:
    """Starts sagas by cron lines; whoever drives due sagas drives the schedules too.

    A schedule lives in the store as a chain of sagas, each of which waits for a tick, starts the
    runs that are due and makes the next. So it survives every process, and a tick starts one
    saga, however many workers declare the schedule.
    """

    def __init__(self, orchestrator: SagaOrchestrator) -> None:
        self._orchestrator = orchestrator
        self._store = orchestrator.store

    async def add(
        self,
        name: str,
        *,
        saga_name: str,
        cron: str,
        timezone: str = "UTC",
        missed: Missed = "run_once",
        max_missed: int = 100,
        grace: timedelta = timedelta(minutes=1),
        initial_data: Any = None,
        time_field: str | None = None,
        wait: bool = True,
    ) -> None:
        """Declare a schedule: in every worker, at each of its starts.

        One that stands already as declared is left alone; another one of this name is replaced,
        paused if it was, and its ticks that are overdue by then are those of the new line. The
        declaration that comes last counts. The first tick is the first after the declaration, by
        the store's clock. A run is a saga `saga_name`, tagged `schedule:<name>`, whose id follows
        from the name and the planned time. It gets `initial_data`, and in it, with `time_field`,
        the planned time in UTC under that key.

        A tick that could not be begun within `grace` is missed: with "skip" it is left out, with
        "run_once" the newest of them is made up for, unless another tick is in time by then, and
        with "run_all" each, but no more than the newest `max_missed`. `wait=False` leaves also the
        first look at the schedule to the workers.

        Raises `SagaDefinitionError` for a line that cannot be read or never fires, a zone that is
        not known, a saga that is not registered here, or another value that does not do,
        `MissingDriverError` without cronsim, `PayloadError` for data that cannot be stored, with
        some kilobytes that the schedule adds, and `StoreUnavailableError`; then declare it again.
        """
        limits = self._orchestrator.engine.limits
        what = f"initial_data of schedule '{name}'"
        data = decode_json(encode_json(initial_data, what=what, limits=limits), what=what)
        if time_field is not None and not (data is None or isinstance(data, dict)):
            raise SagaDefinitionError(
                f"schedule {name!r}: time_field needs initial_data to be a mapping, "
                f"got {type(initial_data).__name__}"
            )
        try:
            schedule = Schedule(
                name=name,
                saga_name=saga_name,
                cron=cron,
                timezone=timezone,
                missed=missed,
                max_missed=max_missed,
                grace=grace,
                initial_data=data,
                time_field=time_field,
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            what = ".".join(str(each) for each in first["loc"])
            raise SagaDefinitionError(
                f"schedule {name!r}: {what} {first['input']!r} will not do: {first['msg']}"
            ) from None
        CronLine(cron, timezone)
        check_fits(schedule, limits)
        self._orchestrator.engine.registry.latest(saga_name)
        self._register(name)
        await self._declare(schedule, wait)

    async def remove(self, name: str) -> bool:
        """End a schedule: what it has started goes on, no tick follows. False if there is none.

        A worker that declares it later begins it anew. Waits for a tick that is just being begun.
        """
        self._register(name)
        admin = SagaAdmin(engine=self._orchestrator.engine)
        sent: set[UUID] = set()
        while standing := [record async for record in links(self._store, name, ACTIVE)]:
            for record in standing:
                if not (record.is_held and record.saga_id in sent):
                    await _cancel(admin, record, "the schedule was removed")
                sent.add(record.saga_id)
            if any(record.is_held for record in standing):
                await asyncio.sleep(REMOVAL_PAUSE)
        return bool(sent)

    async def list(self) -> list[ScheduleInfo]:
        """Return all schedules in the store, those that others have declared included."""
        return await list_schedules(self._store)

    def _register(self, name: str) -> None:
        # Another `Schedules` of this orchestrator may have done so.
        if self._orchestrator.engine.registry.get(link_name(name), LINK_VERSION) is None:
            self._orchestrator.register(
                link_name(name), chain(self._orchestrator), version=LINK_VERSION
            )

    async def _declare(self, schedule: Schedule, wait: bool) -> None:
        lowest = 1
        while True:
            records = [each async for each in links(self._store, schedule.name, NOT_COMPLETED)]
            known = [(record, read_link(record)) for record in records]
            standing = [(record, link) for record, link in known if record.state.active]
            current = max((link for _, link in standing), key=Link.rank, default=None)
            if current is not None and current.schedule == schedule:
                break
            lowest = max([lowest, *(link.generation + 1 for _, link in known)])
            since = min(
                (unsettled_since(link, record.created_at) for record, link in standing),
                default=None,
            )
            first = Link(schedule=schedule, generation=lowest, since=since)
            paused = any(record.state.is_paused for record, _ in standing)
            if await self._is_used(first):
                lowest += 1
                continue
            await self._begin(first, wait and not paused)
            current = first
            break
        admin = SagaAdmin(engine=self._orchestrator.engine)
        old = [record for record, link in standing if link.rank() < current.rank()]
        if any(record.state.is_paused for record in old):
            # No link runs beside an older one that is paused, so the new one has not begun.
            now = {record.saga_id for record, link in standing if link.rank() == current.rank()}
            for saga_id in now or {current.first_id(self._store.namespace)}:
                await _pause(admin, saga_id)
        for record in old:
            if record.state.is_paused or not record.is_held:
                await _cancel(admin, record, "the schedule was changed")

    async def _is_used(self, first: Link) -> bool:
        try:
            return not (await self._store.load(first.first_id(self._store.namespace))).state.active
        except SagaNotFoundError:
            return False

    async def _begin(self, first: Link, wait: bool) -> None:
        try:
            await self._orchestrator.start(
                saga_name=link_name(first.schedule.name),
                initial_data=first,
                saga_id=first.first_id(self._store.namespace),
                tags=[LINK_TAG],
                wait=wait,
            )
        except SagaStateError:
            # Somebody has declared the same at the same time, and has seen another `since`.
            await self._store.load(first.first_id(self._store.namespace))


async def _pause(admin: SagaAdmin, saga_id: UUID) -> None:
    try:
        await admin.pause(saga_id, reason="the schedule was paused when it was changed")
    except SagaStateError:
        return  # somebody else who declares it has done so, or a person has resumed it


async def _cancel(admin: SagaAdmin, record: SagaRecord, reason: str) -> None:
    try:
        await admin.cancel(record.saga_id, reason=reason, wait=not record.is_held)
    except (SagaStateError, SagaNotFoundError):
        return  # it has ended meanwhile; whoever asks looks again
