"""What the driver of a parent does about a child saga, and that of a child about its parent.

What has become of a child is read in its record; the signal that it sends its parent says only
that there is something to read. It is sent when the child's end is settled, before that is
recorded, so a parent that finds no end yet will be told of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

from saga_core.awaiting import AwaitEvent, Sleep, event_name
from saga_core.child import (
    DEEPEST,
    ChildEnded,
    ChildLink,
    ChildResult,
    ChildStart,
    ChildStep,
    ParentLink,
    child_id_of,
)
from saga_core.codec import PayloadLimits, decode_json, encode_json
from saga_core.decide import decide
from saga_core.definition import StepSpec
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    PayloadError,
    SagaNotFoundError,
    SagaStateError,
)
from saga_core.events import TypedEvent
from saga_core.failure import failure_of
from saga_core.happening import (
    Compensated,
    CompensationFailed,
    Failure,
    Happened,
    InBranch,
    Started,
    StepDone,
    StepFailed,
    Undecodable,
    Waits,
)
from saga_core.kinship import is_child_of
from saga_core.live import LiveSaga
from saga_core.mapping import first_input
from saga_core.names import check_aggregation_id, check_tags
from saga_core.outputs import Outputs, thing_of
from saga_core.pending import pending_end
from saga_core.records import NewSaga, SagaRecord, SagaState, Signal
from saga_core.registry import Registry
from saga_core.status import Direction, EntryKind, Hook, SagaStatus, SignalKind
from saga_core.store import SagaStore
from saga_core.timing import check_deadline
from saga_core.waking import wait_again, wake_up

__all__ = ["Children", "Recall", "refused_child", "wanted_by", "without_rivals"]

Recall = Callable[[UUID, UUID], Awaitable[None]]
"""Let a child, the first, be rolled back for its parent. Raises what `intervene` does."""

FIRST_LOOK = timedelta(milliseconds=50)
LAST_LOOK = timedelta(seconds=30)
"""How soon, and how late, a child is looked at again whose end is about to be recorded."""


class Children:
    """Starts, awaits and recalls the child sagas of the sagas that an engine drives."""

    def __init__(self, store: SagaStore, registry: Registry, limits: PayloadLimits) -> None:
        self._store = store
        self._registry = registry
        self._limits = limits
        self.recall: Recall = _nobody
        """Set by whoever can change a saga that is not driven here."""

    async def tell_parent(self, live: LiveSaga) -> Happened:
        """Send the parent that the child's end is settled; once, however often it is done."""
        link = live.parent
        if link is not None:
            event = TypedEvent.of(
                ChildEnded(saga_id=live.saga_id),
                event_type=None,
                correlation_id=str(live.saga_id),
                limits=self._limits,
            )
            event_id = f"child:{live.saga_id}:{live.state.generation}"
            signal = Signal(event_id=event_id, kind=SignalKind.TYPED_EVENT, payload=event.encode())
            with contextlib.suppress(SagaNotFoundError):  # then nobody is left to be told
                await self._store.signal(link.saga_id, signal)
        return StepDone(None, "null", uuid4(), None)

    async def run(self, live: LiveSaga, spec: StepSpec, child: ChildStep) -> Happened:
        """Do or undo the step of a child, as far as that goes without waiting."""
        live.rests.models.setdefault(event_name(ChildEnded), ChildEnded)
        instead = wake_up(live, spec)
        if instead is not None:
            return instead
        if live.state.direction is Direction.FORWARD:
            return await self._execute(live, spec, child)
        return await self._undo(live, spec)

    # --- forward --------------------------------------------------------------------------------

    async def _execute(self, live: LiveSaga, spec: StepSpec, child: ChildStep) -> Happened:
        child_id = child_id_of(live.saga_id, spec.step_id, live.state.generation)
        record = await self._load(child_id)
        if record is None:
            if live.outputs.has_started(child_id):  # nobody can say any more how it ended
                return Undecodable(_gone(child_id))
            try:
                new = self._new(live, spec, child, child_id)
            except (PayloadError, SagaStateError) as error:
                return StepFailed(failure_of(error), uuid4(), 0.0)
            link = ChildLink(child_id, new.saga_name, spec.step_id)
            return self._wait(live, spec, child_id, (new, link))
        try:
            status = _end_of(record)
        except PayloadError as error:
            return Undecodable(failure_of(error))
        if status is None or status is SagaStatus.STUCK:
            return self._wait(live, spec, child_id)
        if status is not SagaStatus.COMPLETED:
            return StepFailed(_failure(record, status), uuid4(), 0.0)
        outputs = {
            step_id: decode_json(entry.output or "null", what=f"output of step '{step_id}'")
            for step_id, entry in record.step_outputs.items()
        }
        result = ChildResult(saga_id=child_id, saga_name=record.saga_name, outputs=outputs)
        try:
            what = f"output of step '{spec.step_id}'"
            output, value = spec.output.roundtrip(result, what=what, limits=self._limits)
        except PayloadError as error:
            return StepFailed(failure_of(error, unrecordable=True), uuid4(), 0.0)
        live.assume(spec.step_id, output, value)
        return StepDone(live.state.step_input, output, uuid4(), live.input_after(spec))

    def _new(self, live: LiveSaga, spec: StepSpec, child: ChildStep, child_id: UUID) -> NewSaga:
        """Return the child as it is created. Raises `SagaDefinitionError` if it is not here."""
        depth = 1 if live.parent is None else live.parent.depth + 1
        if depth > DEEPEST:
            raise SagaStateError(
                f"child saga '{child.saga_name}' would be {depth} levels deep, and {DEEPEST} are "
                "allowed: a saga must not start itself without end"
            )
        registration = self._registry.latest(child.saga_name)
        what = f"input of step '{spec.step_id}'"
        start: ChildStart = spec.input.decode(live.state.step_input or "null", what=what)
        data = encode_json(start.initial_data, what="initial_data", limits=self._limits)
        check_aggregation_id(start.aggregation_id)
        limit = check_deadline(registration.deadline)
        link = ParentLink(live.saga_id, live.saga_name, spec.step_id, depth)
        facts = (link.entry(),)
        first = first_input(registration.definition, data, self._limits)
        blank = SagaState(status=SagaStatus.RUNNING)
        begun = decide(registration.definition, blank, Outputs(facts), Started(first, uuid4()))
        times = () if limit is None else (limit.entry(EntryKind.DEADLINE),)
        return NewSaga(
            saga_id=child_id,
            saga_name=registration.name,
            definition_version=registration.version,
            fingerprint=registration.definition.fingerprint,
            data=data,
            state=begun.state,
            aggregation_id=start.aggregation_id,
            trace_id=live.trace_id,
            tags=check_tags(start.tags),
            due=begun.due,
            history=(*facts, *times, *begun.history),
        )

    # --- back -----------------------------------------------------------------------------------

    async def _undo(self, live: LiveSaga, spec: StepSpec) -> Happened:
        recorded = thing_of(live.outputs, live.state)
        if recorded.maybe:
            generation = decode_json(recorded.output, what="what may be done")["generation"]
            child_id = child_id_of(live.saga_id, spec.step_id, generation)
        else:
            child_id = spec.output.decode(recorded.output, what="output of a child").saga_id
        record = await self._load(child_id)
        if record is None:
            if recorded.maybe and not live.outputs.has_started(child_id):
                return Compensated(uuid4())
            return CompensationFailed(_gone(child_id), 0.0)
        settled = await self._settled(live, spec, record)
        if settled is not None:
            return settled
        try:
            await self.recall(child_id, live.saga_id)
        except ActiveSagaAlreadyExistsError as error:
            return CompensationFailed(failure_of(error, spec.compensation_retry_policy), 0.0)
        except (SagaStateError, SagaNotFoundError) as error:
            # It may have come to its end, or have turned back, since it was looked at.
            record = await self._load(child_id)
            settled = None if record is None else await self._settled(live, spec, record)
            if settled is None and (record is None or not record.state.is_ending):
                return _undoable(f"child saga {child_id} cannot be rolled back: {error}")
            return settled or self._wait(live, spec, child_id)
        return self._wait(live, spec, child_id)

    async def _settled(self, live: LiveSaga, spec: StepSpec, record: SagaRecord) -> Happened | None:
        """Return what there is to do about a child whose way is settled, None to recall it."""
        try:
            if not is_child_of(record, live.saga_id):
                return _undoable(
                    f"saga {record.saga_id} is no child of this saga, so it is left as it is"
                )
            status = _end_of(record)
        except PayloadError as error:
            return _undoable(f"child saga {record.saga_id} cannot be read: {error}")
        if status is SagaStatus.COMPENSATED:
            return Compensated(uuid4())
        about_to_be = record.state.step_id == Hook.TELL_PARENT
        if about_to_be and status is not SagaStatus.STUCK:
            # Whoever drives it is to record its end first: what it is told now he may not hear.
            pause = min(FIRST_LOOK * 2 ** min(len(live.rests.over), 16), LAST_LOOK)
            return wait_again(live, spec, Sleep(pause), self._limits)
        if status is SagaStatus.FAILED:
            return _undoable(f"child saga {record.saga_id} is FAILED, so what it did is not undone")
        rolling_back = record.state.direction is Direction.ROLLBACK
        if status is SagaStatus.STUCK and (rolling_back or about_to_be) and live.rests.over:
            why = record.state.last_error
            return _undoable(f"child saga {record.saga_id} is STUCK in its rollback: {why}")
        if status is None and rolling_back and not record.state.is_paused:
            return self._wait(live, spec, record.saga_id)
        return None

    # --- pieces ---------------------------------------------------------------------------------

    def _wait(
        self,
        live: LiveSaga,
        spec: StepSpec,
        child_id: UUID,
        spawn: tuple[NewSaga, ChildLink] | None = None,
    ) -> Happened:
        timeout = None
        if live.state.direction is Direction.FORWARD:
            timeout = spec.timeout
            if timeout is not None and live.rests.waits and live.rests.over:
                ends = live.rests.waits[0].ends
                timeout = timeout if ends is None else max(ends - live.now, timedelta(seconds=1))
        wish = AwaitEvent(ChildEnded, correlation_id=str(child_id), timeout=timeout)
        waits = wait_again(live, spec, wish, self._limits)
        if spawn is None or not isinstance(waits, Waits):
            return waits
        new, link = spawn
        return replace(waits, spawn=(new,), before=(link.entry(),))

    async def _load(self, child_id: UUID) -> SagaRecord | None:
        try:
            return await self._store.load(child_id)
        except SagaNotFoundError:
            return None


def refused_child(error: ActiveSagaAlreadyExistsError) -> Happened:
    """Return what has happened when a child could not be created for its aggregate's sake."""
    failure = failure_of(error)
    return StepFailed(replace(failure, retryable=True, undone=True), uuid4(), 0.0)


def wanted_by(happened: Happened) -> str | None:
    """Return the aggregate that a child is to hold which a branch is about to start."""
    waits = happened.what if isinstance(happened, InBranch) else None
    spawn = waits.spawn if isinstance(waits, Waits) else ()
    return next((new.aggregation_id for new in spawn if new.state.active), None)


def without_rivals(
    happened: Sequence[Happened], taken: Mapping[str, ActiveSagaAlreadyExistsError]
) -> list[Happened]:
    """Return what has happened in branches, where some that start a child have failed instead.

    Those whose aggregate is `taken`; and of several that want the same all but the first.
    """
    taken, came = dict(taken), list(happened)
    for number, each in enumerate(happened):
        key = wanted_by(each)
        if key is None or not isinstance(each, InBranch) or not isinstance(each.what, Waits):
            continue
        if key in taken:
            came[number] = replace(each, what=refused_child(taken[key]))
            continue
        (first,) = each.what.spawn
        taken[key] = ActiveSagaAlreadyExistsError(
            f"saga {first.saga_id} is active with aggregation_id {key!r}: wait for its end, or "
            "look why it does not end",
            saga_id=first.saga_id,
        )
    return came


def _end_of(record: SagaRecord) -> SagaStatus | None:
    """Return the end of a child as far as its parent may build on it; None if there is none."""
    state = record.state
    if state.status.is_terminal or (state.status is SagaStatus.STUCK and not state.is_ending):
        return state.status
    pending = pending_end(record) if state.step_id == Hook.TELL_PARENT else None
    return None if pending is None else pending.state.status


def _failure(record: SagaRecord, status: SagaStatus) -> Failure:
    pending = pending_end(record)
    ended = record.state if pending is None else pending.state
    why = "" if ended.last_error is None else f": {ended.last_error}"
    error = f"ChildFailedError: child saga {record.saga_id} ('{record.saga_name}') is {status}{why}"
    return Failure(error=error, code="ChildFailedError", retryable=True, undone=True)


def _gone(child_id: UUID) -> Failure:
    return _final(f"child saga {child_id} is not in the store any more")


def _undoable(error: str) -> CompensationFailed:
    return CompensationFailed(_final(error), 0.0)


def _final(error: str) -> Failure:
    return Failure(error=f"ChildFailedError: {error}", code="ChildFailedError", retryable=False)


async def _nobody(child_id: UUID, parent_id: UUID) -> None:
    raise SagaStateError(f"saga {child_id} can be rolled back through an orchestrator only")
