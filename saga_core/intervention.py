"""Changes from outside the driver: an event, or what a person asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from saga_core.commands import Command
from saga_core.decide import decide, ignore_command
from saga_core.engine import SagaEngine
from saga_core.errors import PayloadError, SagaStateError
from saga_core.finding import check_turn
from saga_core.happening import Decision, Happened, SkipRequested
from saga_core.kinship import check_parent_waits
from saga_core.lease import LeaseLostError
from saga_core.live import LiveSaga
from saga_core.names import check_saga_id
from saga_core.records import Lease, LeaseAction, SagaRecord, Signal
from saga_core.status import SignalKind
from saga_core.writing import to_the_end

__all__ = ["HeldElsewhereError", "held_elsewhere", "intervene"]

TRIES = 25

PAUSE = 0.001
"""Seconds by which the pause grows until a saga that somebody has changed is read again."""


class HeldElsewhereError(SagaStateError):
    """Somebody drives the saga, so it must not be changed from outside."""


def held_elsewhere(saga_id: UUID) -> HeldElsewhereError:
    """Return what is raised for a saga that is being driven."""
    return HeldElsewhereError(
        f"saga {saga_id} is RUNNING: it is being driven right now. Wait until it waits or ends.",
        saga_id=saga_id,
    )


async def intervene(
    engine: SagaEngine,
    saga_id: UUID,
    happened: Callable[[SagaRecord, LiveSaga], Happened | None],
    *,
    drive: bool,
    event: Callable[[], Signal | None] | None = None,
    sent: str | None = None,
    readable: bool = True,
    by_parent: bool = False,
) -> bool:
    """Commit what follows from `happened` for a saga that nobody drives, and drive it on.

    `happened` looks at the saga as it stands and returns None to leave it alone (then the
    answer is False), or raises. Whoever changes the saga in between makes it look again.
    `event` is asked after `happened` for the event that is stored with the change; of a type
    that a step awaits it is kept for it, else used up. With `drive` the saga is driven in the
    caller's task until it ends or waits; else it is left due for a worker. `sent` is the event
    id of a command of the same meaning that lies in the inbox: it is used up with the change,
    or with a refusal, so that nobody obeys it once more; where a driver has done so already
    there is nothing left to do. A child that has ended is brought back only `by_parent`, or while
    its parent waits for it. Unless `readable` is False, a saga that cannot be decoded is
    refused with `SagaStateError`. Raises `HeldElsewhereError` if somebody holds an unexpired
    lease.
    """
    check_saga_id(saga_id)
    loop = asyncio.get_running_loop()
    for attempt in range(TRIES):
        record = await engine.store.load(saga_id)
        if record.is_held:
            raise held_elsewhere(saga_id)
        if sent is not None and await _used_up(engine, saga_id, sent):
            return True
        since = loop.time()
        live = await engine.look_at(record, upcast=readable)
        try:
            if readable:
                live.read()
            what = happened(record, live)
            if what is None:
                return False
            decision = decide(live.definition, live.state, live.outputs, what)
            if record.state.has_ended and not decision.state.has_ended and not by_parent:
                await check_parent_waits(engine.store, record)
        except SagaStateError as error:
            if sent is not None and not await _withdrawn(engine, live, sent, error):
                continue
            error.saga_id = saga_id
            raise
        except PayloadError as error:
            if readable and _is_unreadable(live):
                raise SagaStateError(
                    f"saga {saga_id} is {live.state.status} and cannot be read: {error}. Only "
                    "abort ends it; or mend it in the store.",
                    saga_id=saga_id,
                ) from error
            raise
        if isinstance(what, SkipRequested):
            await check_turn(engine.store, record)
        brought = None if event is None else event()
        arrived = () if brought is None else (brought,)
        used = [sent, *(one.event_id for one in arrived if one.kind is SignalKind.EVENT)]
        known = live.seen
        try:
            # A signal that nobody has heard yet may lie before the event: it must stay unseen.
            committed = await to_the_end(
                engine.commit(
                    live,
                    decision,
                    lease=_lease(engine, decision, drive),
                    seen=known - len(arrived),
                    signals_in=arrived,
                    consumed=tuple(event_id for event_id in used if event_id is not None),
                )
            )
        except LeaseLostError as lost:
            if lost.recorded:
                return True
            await asyncio.sleep(PAUSE * attempt)
            continue
        except asyncio.CancelledError:
            if drive:
                await engine.abandon(live)
            raise
        live.rests.keep(one.as_stored(seq=committed.signals, at=live.now) for one in arrived)
        if committed.signals == known + len(arrived):
            live.seen = committed.signals
        if decision.drive and drive:
            await engine.drive(live, since=since)
        return True
    raise SagaStateError(
        f"saga {saga_id} changes faster than it can be read; try again", saga_id=saga_id
    )


async def _used_up(engine: SagaEngine, saga_id: UUID, sent: str) -> bool:
    inbox = await engine.store.inbox(saga_id)
    return any(signal.event_id == sent and signal.consumed for signal in inbox)


async def _withdrawn(engine: SagaEngine, live: LiveSaga, sent: str, error: SagaStateError) -> bool:
    """Use up a command that is refused; False if the saga has changed meanwhile."""
    inbox = await engine.store.inbox(live.saga_id)
    by = next((Command.decode(each.payload).by for each in inbox if each.event_id == sent), None)
    ignored = ignore_command(live.state, None, reason=str(error), by=by)
    try:
        await to_the_end(engine.commit(live, ignored, lease=LeaseAction.KEEP, consumed=(sent,)))
    except LeaseLostError as lost:
        return lost.recorded
    return True


def _is_unreadable(live: LiveSaga) -> bool:
    try:
        live.read()
    except PayloadError:
        return True
    return False


def _lease(engine: SagaEngine, decision: Decision, drive: bool) -> Lease | LeaseAction:
    if decision.drive and drive:
        return Lease(engine.worker, engine.execution_lease)
    return LeaseAction.RELEASE
