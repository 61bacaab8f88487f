"""The chain of a schedule: each link is a saga that starts what is due and makes the next one.

What is due is decided once, by the store's clock, and recorded. All that is written afterwards has
an id that follows from it, so a link that is driven again does nothing twice, and a link ends only
once the next one is there, so that the chain never breaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from saga_core import (
    BaseStep,
    ExponentialRetry,
    Query,
    SagaBuilder,
    SagaDefinition,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    SagaStore,
    StepContext,
)
from saga_core.codec import PayloadLimits, decode_json, encode_json
from saga_core.records import SagaRecord
from saga_core.status import ACTIVE
from saga_cron.line import CronLine
from saga_cron.schedule import LINK_TAG, Link, Schedule, link_name, next_id, run_id, run_tag

__all__ = ["chain", "check_fits", "links", "read_link"]

PATIENT = ExponentialRetry(
    max_attempts=None, base_delay=timedelta(seconds=1), max_delay=timedelta(minutes=1)
)
"""A schedule never gives up: what it starts may be registered by the next release only."""


RUNS_AT_ONCE = 100
"""Runs that one link starts. The next one starts the rest, so that no plan outgrows a payload."""

WIDEST = datetime.max.replace(tzinfo=UTC)
"""A time whose text is as long as that of any other."""


class Plan(BaseModel):
    """What a link does, decided once."""

    link: Link
    runs: tuple[AwareDatetime, ...] = ()
    settled: AwareDatetime
    next_at: AwareDatetime | None = None
    """None where the chain ends: it was superseded."""


class _Decide(BaseStep[Link, Plan]):
    """Look at the store's clock, and at whether the schedule has been changed."""

    def __init__(self, orchestrator: SagaOrchestrator) -> None:
        self._store = orchestrator.store

    async def execute(self, inp: Link, ctx: StepContext) -> Plan:
        record = await self._store.load(ctx.saga_id)
        after, now = inp.settled(record.created_at), record.now
        paused: UUID | None = None
        async for other in links(self._store, inp.schedule.name, ACTIVE):
            rank = read_link(other).rank()
            if rank > inp.rank():
                return Plan(link=inp, settled=after)
            if rank < inp.rank() and other.state.is_paused:
                paused = other.saga_id
        if paused is not None:
            # Whoever has changed the schedule has yet to pause this link, or died before.
            raise SagaStateError(
                f"the schedule was paused before it was changed: declare it again, which pauses "
                f"it as it is now, or resume saga {paused}"
            )
        line = CronLine(inp.schedule.cron, inp.schedule.timezone)
        runs, settled = _due(inp.schedule, line, after, now), max(after, now)
        if len(runs) > RUNS_AT_ONCE:
            runs = runs[:RUNS_AT_ONCE]
            settled = runs[-1]
        return Plan(link=inp, runs=runs, settled=settled, next_at=line.after(settled))


class _Begin(BaseStep[Plan, Plan]):
    """Start what is due, then make the next link."""

    def __init__(self, orchestrator: SagaOrchestrator) -> None:
        self._orchestrator = orchestrator

    async def execute(self, inp: Plan, ctx: StepContext) -> Plan:
        schedule = inp.link.schedule
        for planned in inp.runs:
            await self._start(schedule, planned)
        if inp.next_at is not None:
            following = inp.link.model_copy(
                update={"after": inp.settled, "planned": inp.next_at, "since": None}
            )
            await self._orchestrator.start(
                saga_name=link_name(schedule.name),
                initial_data=following,
                saga_id=next_id(ctx.saga_id),
                start_at=inp.next_at,
                tags=[LINK_TAG],
                wait=False,
            )
        return inp

    async def _start(self, schedule: Schedule, planned: datetime) -> None:
        saga_id = run_id(self._orchestrator.store.namespace, schedule.name, planned)
        try:
            await self._orchestrator.store.load(saga_id)
        except SagaNotFoundError:
            await self._orchestrator.start(
                saga_name=schedule.saga_name,
                initial_data=schedule.data_of(planned),
                saga_id=saga_id,
                tags=[run_tag(schedule.name)],
                wait=False,
            )


def _due(
    schedule: Schedule, line: CronLine, after: datetime, now: datetime
) -> tuple[datetime, ...]:
    if now <= after:
        return ()  # a person was early, or the store's clock went back
    in_time = max(after, now - schedule.grace - timedelta(microseconds=1))
    punctual, _ = line.newest(schedule.max_missed, after=in_time, until=now)
    if schedule.missed == "skip":
        return tuple(punctual)
    if schedule.missed == "run_all":
        return tuple(line.newest(schedule.max_missed, after=after, until=now)[0])
    missed, _ = line.newest(1, after=after, until=in_time)
    return tuple(punctual or missed)


def chain(orchestrator: SagaOrchestrator) -> SagaDefinition:
    """Return the definition of a link."""
    builder = SagaBuilder(compensate_on_failure=False)
    decided = builder.add_step(
        step=_Decide(orchestrator),
        step_id="decide",
        input_map=lambda ctx: Link.model_validate(ctx.initial_data),
        retry_policy=PATIENT,
    )
    builder.add_step(
        step=_Begin(orchestrator),
        step_id="begin",
        input_map=lambda plan: plan,
        depends_on=decided,
        retry_policy=PATIENT,
    )
    return builder.build()


def check_fits(schedule: Schedule, limits: PayloadLimits) -> None:
    """Raise `PayloadError` for a schedule whose links would be too large once they begin runs."""
    link = Link(schedule=schedule, generation=10**9, after=WIDEST, planned=WIDEST, since=WIDEST)
    runs = (WIDEST,) * RUNS_AT_ONCE
    plan = Plan(link=link, runs=runs, settled=WIDEST, next_at=WIDEST)
    what = f"schedule '{schedule.name}', with the times of {RUNS_AT_ONCE} runs,"
    encode_json(plan, what=what, limits=limits)


async def links(
    store: SagaStore, schedule: str | None, statuses: tuple[SagaStatus, ...]
) -> AsyncIterator[SagaRecord]:
    """Yield the links in these statuses, of one schedule or of all."""
    cursor = None
    name = None if schedule is None else link_name(schedule)
    while True:
        page = await store.find(
            Query(saga_name=name, statuses=statuses, tag=LINK_TAG, cursor=cursor)
        )
        for record in page.records:
            yield record
        cursor = page.cursor
        if cursor is None:
            return


def read_link(record: SagaRecord) -> Link:
    """Return what a link was made with."""
    return Link.model_validate(decode_json(record.data, what="a schedule's link"))
