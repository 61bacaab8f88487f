"""What a person orders: carried out where nobody drives the saga, else sent to whoever does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

from saga_core.choosing import begins_anew
from saga_core.commands import Command
from saga_core.decide import decide
from saga_core.engine import PATIENCE, SagaEngine
from saga_core.errors import ActiveSagaAlreadyExistsError
from saga_core.finding import holder_of
from saga_core.happening import Happened, Operator
from saga_core.intervention import HeldElsewhereError, held_elsewhere, intervene
from saga_core.kinship import check_parent_waits
from saga_core.live import LiveSaga
from saga_core.obeying import happening_of
from saga_core.records import Receipt, SagaRecord, Signal
from saga_core.status import SignalKind
from saga_core.waiting import wait_until_heard
from saga_core.writing import settle

__all__ = ["Order", "give", "order_of", "rehearse", "retry_order"]


@dataclass(frozen=True, slots=True)
class Order:
    """One command of a person."""

    happened: Callable[[SagaRecord, LiveSaga], Happened]
    """What it means for a saga that nobody drives."""
    kind: SignalKind | None = None
    """How it is sent to a driver; None if it is refused while there is one."""
    payload: str = "null"
    readable: bool = True
    """Whether it needs a saga whose data can be decoded."""
    by_parent: bool = False
    """Whether it comes from the saga's parent."""


def order_of(
    kind: SignalKind,
    by: Operator,
    *,
    step_id: str | None = None,
    new_input: str | None = None,
    number: int = 0,
    readable: bool = True,
) -> Order:
    """Return an order that means the same to a driver as to a saga that nobody drives."""
    command = Command(by, step_id, new_input, number)

    def happened(_: SagaRecord, live: LiveSaga) -> Happened:
        return happening_of(live, kind, command, due=live.due, pause=live.pause)

    return Order(happened, kind, command.encode(), readable, kind is SignalKind.RECALL)


def retry_order(by: Operator, step_id: str | None = None) -> Order:
    """Return the order to try the current step again, or one step of a parallel saga."""

    def happened(_: SagaRecord, live: LiveSaga) -> Happened:
        return begins_anew(live, by, step_id)

    return Order(happened)


async def rehearse(engine: SagaEngine, saga_id: UUID, order: Order) -> bool:
    """Tell whether an order would be sent to a driver, and raise what `give` would raise by now.

    Changes nothing.
    """
    record = await engine.store.load(saga_id)
    if record.is_held:
        if order.kind is None:
            raise held_elsewhere(saga_id)
        return True
    live = await engine.look_at(record, upcast=order.readable)
    if order.readable:
        live.read()
    decision = decide(live.definition, live.state, live.outputs, order.happened(record, live))
    revived = record.state.has_ended and not decision.state.has_ended
    if revived and not order.by_parent:
        await check_parent_waits(engine.store, record)
    revives = decision.state.active and not record.state.active
    if revives and record.aggregation_id is not None:
        holder = await holder_of(engine.store, record.aggregation_id)
        if holder is not None:
            raise ActiveSagaAlreadyExistsError(
                f"aggregate '{record.aggregation_id}' has an active saga, {holder}",
                saga_id=holder,
            )
    return False


async def give(
    engine: SagaEngine, saga_id: UUID, order: Order, *, drive: bool = False, wait: bool = False
) -> bool:
    """Carry an order out, or send it to whoever drives the saga; True if it was sent.

    `drive` drives the saga on in this task once the order is carried out. `wait` waits for a
    driver to obey, and to end the saga or let it rest. A saga that changes hands meanwhile gets
    the order once all the same. Raises what `intervene` does.
    """
    # The one signal of this order: put into the inbox again, it is a duplicate.
    signal = Signal(
        event_id=str(uuid4()), kind=order.kind or SignalKind.EVENT, payload=order.payload
    )
    sent: str | None = None
    while True:
        try:
            await intervene(
                engine,
                saga_id,
                order.happened,
                drive=drive,
                sent=sent,
                readable=order.readable,
                by_parent=order.by_parent,
            )
        except HeldElsewhereError:
            if order.kind is None:
                raise
            receipt = await _send(engine, saga_id, signal)
            engine.stir(saga_id)
            if not receipt.held:
                sent = signal.event_id if receipt.accepted else sent
                continue
            if order.kind is SignalKind.ABORT:
                engine.interrupt(saga_id)
            if wait:
                await wait_until_heard(engine, saga_id, signal.event_id)
            return True
        return False


async def _send(engine: SagaEngine, saga_id: UUID, signal: Signal) -> Receipt:
    """Put the command into the inbox; once, also where the first answer is lost."""
    return await settle(
        lambda: engine.store.signal(saga_id, signal),
        what=lambda: f"a command to saga {saga_id}",
        outage=engine.outage,
        until=asyncio.get_running_loop().time() + PATIENCE,
    )
