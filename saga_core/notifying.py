"""Bring an event to a saga: with its token at once, or into its inbox for when it is awaited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel

from saga_core.codec import encode_json
from saga_core.crew import views_of
from saga_core.engine import SagaEngine
from saga_core.errors import PayloadError, SagaError, SagaNotFoundError, SagaStateError
from saga_core.events import TypedEvent, event_models, writing_codec
from saga_core.finding import holder_of
from saga_core.happening import EventArrived, Happened, InBranch, Woken
from saga_core.intervention import HeldElsewhereError, intervene
from saga_core.live import LiveSaga
from saga_core.names import check_aggregation_id, check_label, check_saga_id, check_token
from saga_core.records import SagaRecord, SagaState, Signal
from saga_core.status import Direction, SagaStatus, SignalKind
from saga_core.timing import AT_START, is_unbegun
from saga_core.versions import as_driven
from saga_core.waking import awaited_models

__all__ = ["NotifyReason", "NotifyResult", "notify", "notify_result", "signal"]

MOST_EVENTS = 10_000
"""Events that one saga keeps without having used them."""


class NotifyReason(StrEnum):
    """Why an event was taken, or was not."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """An event with this `event_id` was there already; nothing changed."""
    NOT_SUSPENDED = "not_suspended"
    """The saga does not wait: it is being driven, is STUCK or has ended."""
    STALE_TOKEN = "stale_token"  # noqa: S105 - a word, no secret
    """The token belongs to another step, or was used."""
    TYPE_MISMATCH = "type_mismatch"
    """The step waits for an event of another type, or the content does not fit its type."""
    CORRELATION_MISMATCH = "correlation_mismatch"
    EXPIRED = "expired"
    """The wait's time is over, and the saga is about to hear of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyResult:
    """What became of an event."""

    saga_id: UUID
    event_id: str
    accepted: bool
    """It was stored by this very call."""
    duplicate: bool
    reason: NotifyReason
    status: SagaStatus
    """How the saga stood when the call returned."""

    def __bool__(self) -> bool:
        return self.accepted


async def notify(
    engine: SagaEngine,
    *,
    saga_id: UUID,
    token: UUID,
    event: Any,
    event_id: str | None = None,
    event_type: str | None = None,
    correlation_id: str | None = None,
    drive: bool,
) -> tuple[NotifyReason, str]:
    """Give an event to a saga that waits with this token, and drive it on.

    Returns what became of it, and its id.
    """
    check_token(token)
    check_label(event_id, "event_id")
    check_label(correlation_id, "correlation_id")
    if isinstance(event, BaseModel):
        writing_codec(type(event))  # its error would be taken for that of an event of another type
    encode_json(event, what="event", limits=engine.limits)
    call = _Call(engine, token, event, event_id or str(uuid4()), event_type, correlation_id)
    try:
        await intervene(engine, saga_id, call.look, drive=drive, event=call.signal)
    except HeldElsewhereError:
        taken = await call.send(saga_id)
        if taken is not None:
            return taken, call.event_id
        known = event_id is not None and await _is_known(engine, saga_id, event_id)
        reason = NotifyReason.DUPLICATE if known else NotifyReason.NOT_SUSPENDED
        return reason, call.event_id
    return call.reason, call.event_id


async def notify_result(
    engine: SagaEngine, saga_id: UUID, reason: NotifyReason, event_id: str
) -> NotifyResult:
    """Say what became of an event, with the saga's status by now."""
    return NotifyResult(
        saga_id=saga_id,
        event_id=event_id,
        accepted=reason is NotifyReason.ACCEPTED,
        duplicate=reason is NotifyReason.DUPLICATE,
        reason=reason,
        status=(await engine.store.load(saga_id)).state.status,
    )


class _Call:
    """One `notify`: what it brings, judged anew whenever the saga has changed."""

    def __init__(
        self,
        engine: SagaEngine,
        token: UUID,
        event: Any,
        event_id: str,
        event_type: str | None,
        correlation_id: str | None,
    ) -> None:
        self.event_id = event_id
        self.reason = NotifyReason.ACCEPTED
        self._engine = engine
        self._token = token
        self._event = event
        self._event_type = event_type
        self._correlation_id = correlation_id
        self._signal: Signal | None = None

    def signal(self) -> Signal | None:
        """Return what the last look has found fit to be stored."""
        return self._signal

    def look(self, record: SagaRecord, live: LiveSaga) -> Happened | None:
        """Judge the saga as it stands; None, with the reason noted, if the event is not taken."""
        self._signal = None
        if live.runs_branches:
            return self._look_at_branches(live)
        self.reason = self._judge(record.state, live)
        if self.reason is not NotifyReason.ACCEPTED:
            return None
        return self._taken(live)

    def _look_at_branches(self, live: LiveSaga) -> Happened | None:
        """Judge the step of a parallel saga that has this token."""
        moves = live.state.status in (SagaStatus.SUSPENDED, SagaStatus.COMPENSATING)
        branch = views_of(live).with_token(self._token)
        if live.rests.knows(self.event_id):
            self.reason = NotifyReason.DUPLICATE
        elif not moves or live.state.is_paused or live.state.waiting_for == AT_START:
            self.reason = NotifyReason.NOT_SUSPENDED
        else:
            self.reason = NotifyReason.STALE_TOKEN
        if branch is not None and self.reason is NotifyReason.STALE_TOKEN:
            self.reason = self._judge(branch.state, branch)
        if branch is None or self.reason is not NotifyReason.ACCEPTED:
            return None
        happened = self._taken(branch)
        return None if happened is None else InBranch(branch.state.step_id or "", happened)

    async def send(self, saga_id: UUID) -> NotifyReason | None:
        """Put the event into the inbox of a parallel saga, one of whose steps waits for it.

        Another of its steps runs, so that it is being driven. None for any other saga, and if no
        step waits with this token.
        """
        live = await self._engine.look_at(await self._engine.store.load(saga_id))
        if not live.runs_branches:
            return None
        live.read()
        branch = views_of(live).with_token(self._token)
        if branch is None:
            return None
        self.reason = self._judge(branch.state, branch)
        if self.reason is not NotifyReason.ACCEPTED:
            return self.reason
        if not branch.rests.waits:
            return None
        if self._answer(branch, meant=True) is None:
            return self.reason
        assert self._signal is not None  # noqa: S101 - an answer has one
        receipt = await self._engine.store.signal(saga_id, self._signal)
        self._engine.stir(saga_id)
        if receipt.duplicate:
            return NotifyReason.DUPLICATE
        return NotifyReason.ACCEPTED if receipt.accepted else NotifyReason.NOT_SUSPENDED

    def _taken(self, live: LiveSaga) -> Happened | None:
        if live.rests.waits and live.rests.waits[-1].rest.events:
            return self._answer(live)
        text = encode_json(self._event, what="event", limits=self._engine.limits)
        self._signal = Signal(event_id=self.event_id, kind=SignalKind.EVENT, payload=text)
        live.hear_event(text)
        step = live.definition.step(live.state.step_id or "")
        return EventArrived(text, live.map_input(step), uuid4())

    def _judge(self, state: SagaState, live: LiveSaga) -> NotifyReason:
        wait = live.rests.waits[-1] if live.rests.waits else None
        awaits = wait is not None and bool(wait.rest.events)
        forward = state.direction is Direction.FORWARD
        resting = state.status is (SagaStatus.SUSPENDED if forward else SagaStatus.COMPENSATING)
        if live.rests.knows(self.event_id):
            return NotifyReason.DUPLICATE
        # Of a saga that is yet to begin no step has had the token.
        if not resting or state.is_paused or is_unbegun(state) or not (forward or awaits):
            return NotifyReason.NOT_SUSPENDED
        if state.token != self._token:
            return NotifyReason.STALE_TOKEN
        if wait is None or not awaits:
            return NotifyReason.ACCEPTED
        if wait.ends is not None and wait.ends < live.now:
            return NotifyReason.EXPIRED
        wanted = wait.rest.correlation_id
        if wanted is not None and self._correlation_id not in (None, wanted):
            return NotifyReason.CORRELATION_MISMATCH
        return NotifyReason.ACCEPTED

    def _answer(self, live: LiveSaga, *, meant: bool = False) -> Happened | None:
        """Return what the event does to a wait; `meant` for it, it passes other steps by."""
        rest = live.rests.waits[-1].rest
        models = awaited_models(live, live.definition.step(live.state.step_id or ""))
        event = self._typed(rest.events, rest.correlation_id, models)
        if event is None:
            self.reason = NotifyReason.TYPE_MISMATCH
            return None
        if meant:
            event = replace(event, token=str(self._token))
        payload = event.encode()
        self._signal = Signal(event_id=self.event_id, kind=SignalKind.TYPED_EVENT, payload=payload)
        return Woken(event.text, uuid4(), self.event_id)

    def _typed(
        self,
        names: tuple[str, ...],
        correlation_id: str | None,
        models: Mapping[str, type[BaseModel]],
    ) -> TypedEvent | None:
        """Return the event as the first awaited type that it fits."""
        limits = self._engine.limits
        tried = names if self._event_type is None else (self._event_type,)
        for name in tried:
            if name not in names:
                continue
            try:
                is_model = isinstance(self._event, BaseModel)
                event = TypedEvent.of(
                    self._event,
                    event_type=None if is_model else name,
                    correlation_id=self._correlation_id or correlation_id,
                    limits=limits,
                )
                if event.name not in names:
                    return None
                if event.name in models:
                    event.read(models[event.name])
            except (SagaError, TypeError):
                continue
            return event
        return None


async def signal(
    engine: SagaEngine,
    *,
    saga_id: UUID | None,
    aggregation_id: str | None,
    event: Any,
    event_type: str | None,
    event_id: str | None,
    correlation_id: str | None,
) -> NotifyResult:
    """Put a typed event into a saga's inbox."""
    if (saga_id is None) == (aggregation_id is None):
        raise SagaStateError("signal needs a saga_id or an aggregation_id, one of them")
    if saga_id is not None:
        check_saga_id(saga_id)
    check_aggregation_id(aggregation_id)
    check_label(event_id, "event_id")
    typed = TypedEvent.of(
        event, event_type=event_type, correlation_id=correlation_id, limits=engine.limits
    )
    if saga_id is None:
        saga_id = await _held_by(engine, aggregation_id)
    sent = Signal(
        event_id=event_id or str(uuid4()), kind=SignalKind.TYPED_EVENT, payload=typed.encode()
    )
    record = await engine.store.load(saga_id)
    _check_content(engine, record, typed)
    if record.signals >= MOST_EVENTS:
        await _check_room(engine, record)
    receipt = await engine.store.signal(saga_id, sent)
    if receipt.held:
        engine.stir(saga_id)
    if receipt.duplicate:
        reason = NotifyReason.DUPLICATE
    elif receipt.accepted:
        reason = NotifyReason.ACCEPTED
    else:
        status = (await engine.store.load(saga_id)).state.status
        raise SagaStateError(
            f"signal: saga {saga_id} has ended as {status}, so it takes no event any more; event "
            f"{sent.event_id} was not stored",
            saga_id=saga_id,
        )
    return NotifyResult(
        saga_id=saga_id,
        event_id=sent.event_id,
        accepted=reason is NotifyReason.ACCEPTED,
        duplicate=receipt.duplicate,
        reason=reason,
        status=record.state.status,
    )


async def _held_by(engine: SagaEngine, aggregation_id: str | None) -> UUID:
    holder = await holder_of(engine.store, aggregation_id)
    if holder is None:
        raise SagaNotFoundError(
            f"no active saga holds the aggregation_id {aggregation_id!r}; the event was not stored"
        )
    return holder


def _check_content(engine: SagaEngine, record: SagaRecord, event: TypedEvent) -> None:
    """Refuse an event that is no valid one of its type, as far as that is known here.

    Raises `PayloadError`. Who sends events need not have registered the saga, and a type that no
    step's code mentions may be one that a step makes on its way: these are judged by the step.
    """
    try:
        definition = engine.registry.resolve(as_driven(record)).definition
    except SagaError:
        return
    models = {
        model
        for spec in definition.steps
        for name, model in event_models(spec.step).items()
        if name == event.name
    }
    if len(models) == 1:
        try:
            event.read(models.pop())
        except PayloadError as error:
            raise PayloadError(f"{error}; it was not stored", saga_id=record.saga_id) from error


async def _check_room(engine: SagaEngine, record: SagaRecord) -> None:
    inbox = await engine.store.inbox(record.saga_id)
    kept = sum(1 for one in inbox if one.kind is SignalKind.TYPED_EVENT and not one.consumed)
    if kept >= MOST_EVENTS:
        raise SagaStateError(
            f"signal: saga {record.saga_id} keeps {kept} events already that no step has used; "
            "it takes more only when some are",
            saga_id=record.saga_id,
        )


async def _is_known(engine: SagaEngine, saga_id: UUID, event_id: str) -> bool:
    return any(one.event_id == event_id for one in await engine.store.inbox(saga_id))
