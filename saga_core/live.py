"""A saga while it is being driven: its record, with what user code sees of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga_core.branches import ParallelOutputs
from saga_core.call import StepCall
from saga_core.child import ParentLink
from saga_core.codec import PayloadLimits, decode_json
from saga_core.definition import HookContext, InputContext, SagaDefinition, StepSpec
from saga_core.errors import PayloadError
from saga_core.happening import Decision, Mapped, NextInput, Recorded
from saga_core.mapping import hook_context, input_context, map_input
from saga_core.outputs import Outputs
from saga_core.pausing import newest_pause
from saga_core.records import (
    DUE_NOW,
    Committed,
    Due,
    NewEntry,
    SagaRecord,
    SagaState,
    StoredSignal,
)
from saga_core.registry import Registration
from saga_core.rests import Rests
from saga_core.status import Direction, EntryKind, Hook, SagaStatus, SignalKind
from saga_core.step import StepContext
from saga_core.timing import AT_START, Timing, deadline_applies, input_begun_with
from saga_core.transactions import StepTransaction
from saga_core.versions import was_upcast

__all__ = ["LiveSaga", "Unwritten"]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """What has happened to a saga while it was read: it goes out with its next commit."""

    history: tuple[NewEntry, ...]
    tags: tuple[str, ...]


class LiveSaga:
    """What the driver of one saga knows of it. Follows the store commit by commit."""

    def __init__(
        self,
        record: SagaRecord,
        registration: Registration,
        limits: PayloadLimits,
        signals: tuple[StoredSignal, ...] = (),
    ) -> None:
        """`signals` is the inbox up to `record.seen`. Payloads are decoded when they are used."""
        self.saga_id: UUID = record.saga_id
        self.saga_name = record.saga_name
        self.aggregation_id = record.aggregation_id
        self.trace_id = record.trace_id
        self.registration = registration
        self.definition: SagaDefinition = registration.definition
        self.state: SagaState = record.state
        self.version = record.version
        self.fence = record.fence
        self._clock = _Clock(record.now)
        self.timing = _UNTIMED
        """When the saga is to begin and to be done."""
        self._unreadable: PayloadError | None = None
        try:
            if record.outputs:
                self.timing = Timing.of(record)
        except PayloadError as error:
            self._unreadable = error
        self.transactions_lost = 0
        """How many transactions of the current step have been lost in a row."""
        self.signals = record.signals
        self.seen = record.seen
        self.driving = record.state.status not in _RESTING and not record.state.is_paused
        self.due = _due_of(record)
        """When the saga is looked at if nobody drives it on."""
        self.pause = newest_pause(record.outputs)
        self.claimed = record.worker is not None
        """Whether the lease that it was read with is still to be given up."""
        self.trusted_until = 0.0
        """The loop time until which the lease is surely ours."""
        self.call = StepCall()
        self.unwritten: Unwritten | None = None
        self.transaction: StepTransaction | None = None
        """What the current step is lent by the store, while it runs."""
        self._was_upcast = was_upcast(record)
        self.outputs = self._read_outputs(record)
        self.crew: object | None = None
        """What drives its branches, if it is parallel."""
        self.rests = Rests(record, signals, self._clock)
        """What the current step waits for, and what has come."""
        self._limits = limits
        self._values: dict[str, Any] = {}
        self._data = record.data
        self._events: list[Any] = []
        self._unread = tuple(each for each in signals if each.kind is SignalKind.EVENT)

    def _read_outputs(self, record: SagaRecord) -> Outputs:
        if not self.definition.parallel:
            return Outputs(record.outputs)
        try:
            return ParallelOutputs.of(record, self._clock)
        except PayloadError as error:
            self._unreadable = error
            return Outputs()

    def read(self) -> None:
        """Decode what maps and steps will see. Raises `PayloadError` for what cannot be read."""
        self._initial_data()
        self._read_events()
        if self._unreadable is not None:
            raise self._unreadable

    def _initial_data(self) -> Any:
        return decode_json(self._data, what="initial_data")

    def _read_events(self) -> list[Any]:
        if self._unread:
            self._events += [decode_json(each.payload, what="event") for each in self._unread]
            self._unread = ()
        return self._events

    @property
    def parent(self) -> ParentLink | None:
        """Who has started the saga, if another one has."""
        return self.outputs.parent

    @property
    def was_upcast(self) -> bool:
        """Whether the saga was moved to another version of its definition on its way."""
        return self._was_upcast or self.unwritten is not None

    @property
    def position(self) -> str:
        """Name the saga and the step it is at, for a reader."""
        return f"step '{self.state.step_id}' of saga '{self.saga_name}' {self.saga_id}"

    @property
    def runs_branches(self) -> bool:
        """Whether steps of the saga are driven side by side: it has begun, and is in no hook."""
        apart = self.state.in_hook or self.state.is_queued
        return self.definition.parallel and not apart

    # --- time -----------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The store's time: what it was when the saga was read, counted on by our own clock."""
        return self._clock()

    @property
    def begins_at(self) -> datetime | None:
        """When the saga is to begin, if it has not begun."""
        return self.timing.begins_at if self.state.waiting_for == AT_START else None

    @property
    def is_overdue(self) -> bool:
        """Whether the saga's deadline has passed, be it in force now or not."""
        deadline_at = self.timing.deadline_at
        return deadline_at is not None and deadline_at <= self.now

    def time_left(self) -> float | None:
        """Return the seconds until the deadline, at most zero once it has passed.

        None while no deadline is in force.
        """
        deadline_at = self.timing.deadline_at
        if deadline_at is None or not self._has_deadline(self.state):
            return None
        return (deadline_at - self.now).total_seconds()

    def _has_deadline(self, state: SagaState) -> bool:
        """Tell whether a deadline is in force: after the pivot there is no way but forward."""
        return deadline_applies(state) and not self.definition.is_past_pivot(self.outputs)

    def due_after(self, decision: Decision) -> Due | None:
        """Return when a driver is needed again: as was decided, or at the deadline before."""
        due = decision.due
        if decision.drive or decision.state.status is not SagaStatus.SUSPENDED:
            return due
        deadline_at = self.timing.following(decision.history).deadline_at
        if deadline_at is None or not self._has_deadline(decision.state):
            return due
        if due is None:
            return Due(at=deadline_at)
        return replace(due, at=deadline_at if due.at is None else min(due.at, deadline_at))

    # --- what user code sees --------------------------------------------------------------------

    def hear_event(self, text: str) -> None:
        """Add an event to what maps and steps see."""
        self._read_events().append(decode_json(text, what="event"))

    def applied(self, decision: Decision, committed: Committed, *, seen: int) -> None:
        """Follow a commit of ours."""
        self.state = decision.state
        self.version = committed.version
        self.fence = committed.fence
        self.signals = committed.signals
        self.seen = seen
        self.driving = decision.drive
        self.unwritten = None
        self.claimed = False
        self.due = decision.due
        self.timing = self.timing.following(decision.history)
        self.outputs.hear(decision.history)
        self.pause = newest_pause(decision.history, self.pause)
        for entry in decision.history:
            if entry.kind is EntryKind.VOIDED:
                self._values.pop(entry.step_id or "", None)

    def assume(self, step_id: str, output: str, value: Any) -> None:
        """Let maps see an output that is about to be recorded; that of a hook is not."""
        if self.state.in_hook:
            return
        self.outputs[step_id] = Recorded(input_begun_with(self.state), output)
        self._values[step_id] = value

    def forget(self, step_id: str) -> None:
        """Take back what was assumed and will not be recorded."""
        self.outputs.forget(step_id)
        self._values.pop(step_id, None)

    def output_of(self, step_id: str) -> Any:
        """Return a step's typed output. Raises `PayloadError` if it no longer decodes."""
        if step_id not in self._values:
            spec = self.definition.step(step_id)
            text = self.outputs[step_id].output
            self._values[step_id] = spec.output.decode(text, what=f"output of step '{step_id}'")
        return self._values[step_id]

    def map_input(self, spec: StepSpec, *, once_more: bool = False) -> NextInput:
        """Compute a step's input from what is on record.

        Of a step that is done and to be done once more, from the steps before it.
        """
        if spec.hook is not None:
            return map_input(
                spec, lambda: (self._hook_context(self.state, self.outputs),), self._limits
            )
        if spec.depends_on:
            return map_input(spec, self._dependencies(spec), self._limits)
        outputs: Mapping[str, Recorded] = self.outputs
        if once_more:
            before = [each.step_id for each in self.definition.steps[: spec.index]]
            outputs = {step_id: outputs[step_id] for step_id in before if step_id in outputs}
        return map_input(spec, lambda: (self._input_context(outputs),), self._limits)

    def _dependencies(self, spec: StepSpec) -> Callable[[], tuple[Any, ...]]:
        return lambda: tuple(self.output_of(step_id) for step_id in spec.depends_on)

    def input_after(self, spec: StepSpec) -> NextInput | None:
        """Compute the input of the step that follows; None after the last."""
        if spec.hook is not None:
            return None if self.state.is_ending else self.map_input(self.definition.steps[0])
        if spec.index + 1 == len(self.definition.steps):
            return None
        return self.map_input(self.definition.steps[spec.index + 1])

    def step_context(self, spec: StepSpec, *, probed: Recorded | None = None) -> StepContext:
        """Return what the step may know of its saga in this attempt.

        A probe asks for what `probed` says may have been done, by the key that it was done with.
        """
        state = self.state
        events = self._read_events()
        over = self.rests.over
        direction = "do" if state.direction is Direction.FORWARD or probed else "undo"
        generation = state.generation
        if probed is not None:
            generation = decode_json(probed.output, what="what to probe for")["generation"]
        token = state.token
        assert token is not None  # noqa: S101 - a saga with a step to run has a token
        return StepContext(
            saga_id=self.saga_id,
            saga_name=self.saga_name,
            step_id=spec.step_id,
            attempt=state.attempt + 1,
            idempotency_key=f"{self.saga_id}:{spec.step_id}:{direction}:{generation}",
            fence=self.fence,
            token=token,
            event=self.rests.latest if over else events[-1] if events else None,
            events=tuple(each for each in over if each is not None) if over else (),
            waits=len(over),
            woken=self.rests.woken,
            transaction=self.transaction,
        )

    def with_hook_input(self, decision: Decision) -> Decision:
        """Return a decision that a hook begins with, with the hook's input if that can be computed.

        Else the hook fails of it when it is run.
        """
        state = decision.state
        if not decision.drive or state.step_input is not None or not state.in_hook:
            return decision
        if state.step_id == Hook.TELL_PARENT:
            return decision
        spec = self.definition.step(state.step_id or "")
        outputs = self.outputs.after(decision.history)
        mapped = map_input(spec, lambda: (self._hook_context(state, outputs),), self._limits)
        if not isinstance(mapped, Mapped):
            return decision
        return replace(decision, state=replace(state, step_input=mapped.text))

    def _hook_context(self, state: SagaState, outputs: Outputs) -> HookContext:
        pending = outputs.pending if state.is_ending else None
        return hook_context(
            self._input_context(outputs),
            saga_id=self.saga_id,
            saga_name=self.saga_name,
            aggregation_id=self.aggregation_id,
            ended=state if pending is None else pending.state,
        )

    def _input_context(self, outputs: Mapping[str, Recorded]) -> InputContext:
        return input_context(self._initial_data(), outputs, self._read_events())


class _Clock:
    """The store's time since a saga was read. Refers to no saga, so that none is left to the gc."""

    __slots__ = ("_ours", "_store")

    def __init__(self, now: datetime) -> None:
        self._store = now
        self._ours = time.monotonic()

    def __call__(self) -> datetime:
        return self._store + timedelta(seconds=time.monotonic() - self._ours)


def _due_of(record: SagaRecord) -> Due | None:
    if record.worker is not None or record.due_at is None:
        return None
    return DUE_NOW if record.due_at <= record.now else Due(at=record.due_at)


_UNTIMED = Timing()
_RESTING = frozenset(
    {SagaStatus.STUCK, SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED}
)
