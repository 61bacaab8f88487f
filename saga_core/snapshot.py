"""What users see of a saga."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from saga_core.branches import Branch, standing
from saga_core.child import ChildLink, children_of, parent_of
from saga_core.codec import decode_json, encode_json
from saga_core.definition import StepRef
from saga_core.errors import SagaStateError
from saga_core.pending import pending_end
from saga_core.records import KEY, RESUME, HistoryEntry, SagaRecord, StoredSignal
from saga_core.status import Direction, EntryKind, SagaStatus, SignalKind
from saga_core.timing import Timing
from saga_core.versions import as_driven

__all__ = ["BranchSnapshot", "HistoryItem", "SagaAdminSnapshot", "SagaSnapshot"]

Out = TypeVar("Out")


class BranchSnapshot(BaseModel):
    """A step of a parallel saga that is begun and not over."""

    model_config = ConfigDict(frozen=True)

    step_id: str
    status: SagaStatus
    """As of a saga with this step alone; FAILED: given up, and the saga is about to turn back."""
    direction: Direction
    token: UUID | None
    """What `notify` needs to reach this step."""
    retry_counter: int
    waiting_for: str | None
    due_at: datetime | None
    """When it goes on by itself, if it rests until a time."""
    last_error: str | None
    error_code: str | None

    @classmethod
    def of(cls, branch: Branch) -> BranchSnapshot:
        """Make one of what the history says."""
        state = branch.state
        return cls(
            step_id=state.step_id or "",
            status=state.status,
            direction=state.direction,
            token=state.token,
            retry_counter=state.attempt,
            waiting_for=state.waiting_for if branch.rests else None,
            due_at=branch.due_at,
            last_error=state.last_error,
            error_code=state.error_code,
        )


class ParentSaga(BaseModel):
    """Which step of which saga has started a saga."""

    model_config = ConfigDict(frozen=True)

    saga_id: UUID
    saga_name: str
    step_id: str


class ChildSaga(BaseModel):
    """A saga that another has started, and by which of its steps."""

    model_config = ConfigDict(frozen=True)

    saga_id: UUID
    saga_name: str
    step_id: str


class SagaSnapshot(BaseModel):
    """A saga as it stood when it was read."""

    model_config = ConfigDict(frozen=True)

    saga_id: UUID
    saga_name: str
    version_name: str
    """The version of the definition it runs; in a page of `find`, the one it was started with."""
    status: SagaStatus
    """`RUNNING` also while a driver retries a suspended saga."""
    direction: Direction
    current_step_index: int
    current_step_id: str | None
    step_execution_token: UUID | None
    """What `notify` needs; the same until the step ends or takes an event."""
    retry_counter: int
    """Failed attempts of the current step in the current direction."""
    last_error: str | None
    error_code: str | None
    deadline_at: datetime | None
    """When the saga is looked at again, or its driver's lease ends; by the store's clock."""
    waiting_for: str | None
    """The named thing whose arrival makes it go on: "resume" for a paused saga, "key" for a
    queued one."""
    ends_as: SagaStatus | None
    """What it has come to, while a hook runs before that is recorded. None in what `find` gives."""
    parent: ParentSaga | None
    """Which saga has started it, if one has. None in what `find` gives."""
    children: tuple[ChildSaga, ...]
    """The sagas that it has started, oldest first. Empty in what `find` gives."""
    starts_at: datetime | None
    """When it is, or was, to begin, if its start was put off. None in what `find` gives."""
    saga_deadline_at: datetime | None
    """The deadline of its forward work, unless there is none or it is void; as `starts_at`."""
    aggregation_id: str | None
    trace_id: str | None
    tags: tuple[str, ...]
    initial_data: Any
    outputs: Mapping[str, Any]
    """What the completed and skipped steps have put out, as JSON values by step id."""
    branches: tuple[BranchSnapshot, ...] = ()
    """The steps at which a parallel saga is; the fields above then tell of one of them."""
    created_at: datetime
    updated_at: datetime

    @property
    def id(self) -> UUID:
        return self.saga_id

    @property
    def is_paused(self) -> bool:
        """Whether a person lets it rest until `resume`."""
        return self.waiting_for == RESUME

    @property
    def is_queued(self) -> bool:
        """Whether it waits for its turn, because another saga holds its `aggregation_id`."""
        return self.waiting_for == KEY

    def output_of(self, ref: StepRef[Out]) -> Out:
        """Return a step's output as its type. Raises `SagaStateError` if it has none yet."""
        if ref.step_id not in self.outputs:
            raise SagaStateError(
                f"step '{ref.step_id}' has no output: the saga is {self.status} and these steps "
                f"have one: {', '.join(self.outputs) or 'none'}",
                saga_id=self.saga_id,
            )
        return ref.read(encode_json(self.outputs[ref.step_id], what=f"output of '{ref.step_id}'"))

    @classmethod
    def of(cls, record: SagaRecord) -> SagaSnapshot:
        """Make a snapshot from a store's record."""
        return cls(**_fields(record))


class HistoryItem(BaseModel):
    """One thing that happened to a saga."""

    model_config = ConfigDict(frozen=True)

    seq: int
    step_id: str | None
    kind: EntryKind
    attempt: int
    at: datetime
    input: Any
    output: Any
    error: str | None
    error_code: str | None
    actor: str | None
    reason: str | None

    @classmethod
    def of(cls, entry: HistoryEntry) -> HistoryItem:
        """Make an item from a store's entry, with its payloads decoded."""
        return cls(
            seq=entry.seq,
            step_id=entry.step_id,
            kind=entry.kind,
            attempt=entry.attempt,
            at=entry.at,
            input=_decoded(entry.input, "input"),
            output=_decoded(entry.output, "output"),
            error=entry.error,
            error_code=entry.error_code,
            actor=entry.actor,
            reason=entry.reason,
        )


class SagaAdminSnapshot(SagaSnapshot):
    """A saga with everything the store knows of it."""

    step_history: tuple[HistoryItem, ...]
    """Oldest first."""
    events: tuple[Any, ...]
    version: int
    fence: int
    worker: str | None
    """Who holds the lease, if anybody does."""

    @cached_property
    def context(self) -> dict[str, Any]:
        """Return `initial_data`, `step_outputs` and `events` in one mapping."""
        return {
            "initial_data": self.initial_data,
            "step_outputs": dict(self.outputs),
            "events": list(self.events),
        }

    @classmethod
    def of_all(
        cls,
        record: SagaRecord,
        history: Sequence[HistoryEntry],
        inbox: Sequence[StoredSignal],
    ) -> SagaAdminSnapshot:
        """Make a snapshot from all that a store has."""
        return cls(
            **_fields(record),
            step_history=tuple(HistoryItem.of(entry) for entry in history),
            events=tuple(
                _decoded(signal.payload, "event")
                for signal in inbox
                if signal.kind is SignalKind.EVENT
            ),
            version=record.version,
            fence=record.fence,
            worker=record.worker if record.is_held else None,
        )


def _fields(stored: SagaRecord) -> dict[str, Any]:
    record = as_driven(stored)
    timing = Timing.of(record)
    pending = pending_end(record)
    state = record.state
    status = state.status
    if status is SagaStatus.SUSPENDED and record.is_held:
        status = SagaStatus.RUNNING
    return {
        "saga_id": record.saga_id,
        "saga_name": record.saga_name,
        "version_name": record.definition_version,
        "status": status,
        "direction": state.direction,
        "current_step_index": state.step_index,
        "current_step_id": state.step_id,
        "step_execution_token": state.token,
        "retry_counter": state.attempt,
        "last_error": state.last_error,
        "error_code": state.error_code,
        "deadline_at": record.due_at,
        "waiting_for": state.waiting_for,
        "ends_as": None if pending is None else pending.state.status,
        "parent": _parent(record),
        "children": tuple(_child(link) for link in children_of(record)),
        "starts_at": timing.begins_at,
        "saga_deadline_at": timing.deadline_at,
        "aggregation_id": record.aggregation_id,
        "trace_id": record.trace_id,
        "tags": record.tags,
        "initial_data": _decoded(record.data, "initial_data"),
        "outputs": {
            step_id: _decoded(entry.output, "output")
            for step_id, entry in record.step_outputs.items()
        },
        "branches": tuple(map(BranchSnapshot.of, standing(record).values())),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _parent(record: SagaRecord) -> ParentSaga | None:
    link = parent_of(record)
    if link is None:
        return None
    return ParentSaga(saga_id=link.saga_id, saga_name=link.saga_name, step_id=link.step_id)


def _child(link: ChildLink) -> ChildSaga:
    return ChildSaga(saga_id=link.saga_id, saga_name=link.saga_name, step_id=link.step_id)


def _decoded(text: str | None, what: str) -> Any:
    return None if text is None else decode_json(text, what=what)
