"""`SagaStateMixin`: the columns of a saga, for a declarative model of the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    text,
)
from sqlalchemy.orm import Mapped, MappedColumn, Mapper, mapped_column

from saga_backends.sql.shape import check_shape
from saga_backends.sql.tables import HISTORY, INBOX, SagaHistoryEntry, complete
from saga_backends.sql.times import make_aware
from saga_core.status import EntryKind
from saga_core.versions import Move

__all__ = ["SagaStateMixin"]


def _text() -> Mapped[str]:
    return mapped_column(Text, nullable=False)


def _optional_text() -> Mapped[str | None]:
    return mapped_column(Text, nullable=True)


def _number(kind: type[Any] = Integer) -> Mapped[int]:
    return mapped_column(kind, nullable=False, default=0, server_default="0")


def _time(*, nullable: bool = False) -> Any:
    return mapped_column(DateTime(timezone=True), nullable=nullable)


class SagaStateMixin:
    """Makes a declarative model hold sagas: `class OrderSagaState(Base, SagaStateMixin)`.

    Two append-only tables join the model's metadata when the class is made: `<table>_history` and
    `<table>_inbox`. The model may have columns, keys, indexes and relations of its own. Read it
    with any session; only `SqlSagaStore` may write the columns below. On SQLite, times read
    through an instance are aware (UTC), those of `select(Model.created_at)` are naive UTC.
    """

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    """The saga's id: one saga per id and table, whatever its namespace."""
    namespace: Mapped[str] = _text()
    saga_name: Mapped[str] = _text()
    definition_version: Mapped[str] = _text()
    fingerprint: Mapped[str] = _text()
    data: Mapped[str] = _text()
    """What the saga was started with, as JSON text; `context` has it in the form it has now."""
    aggregation_id: Mapped[str | None] = _optional_text()
    trace_id: Mapped[str | None] = _optional_text()
    tags: Mapped[list[str]] = mapped_column(
        ARRAY(Text).with_variant(JSON(), "sqlite"), nullable=False
    )
    status: Mapped[str] = _text()
    direction: Mapped[int] = _number(SmallInteger)
    active: Mapped[bool] = mapped_column(Boolean, nullable=False)
    """Whether the saga holds its `aggregation_id`."""
    step_id: Mapped[str | None] = _optional_text()
    current_step_index: Mapped[int] = _number()
    step_input: Mapped[str | None] = _optional_text()
    step_execution_token: Mapped[UUID | None] = mapped_column(Uuid, nullable=True)
    generation: Mapped[int] = _number()
    retry_counter: Mapped[int] = _number()
    """Attempts that have failed in this step and direction."""
    waiting_for: Mapped[str | None] = _optional_text()
    last_error: Mapped[str | None] = _optional_text()
    error_code: Mapped[str | None] = _optional_text()
    version: Mapped[int] = _number(BigInteger)
    fence: Mapped[int] = _number(BigInteger)
    worker: Mapped[str | None] = _optional_text()
    claim_id: Mapped[UUID | None] = mapped_column(Uuid, nullable=True)
    reclaimed: Mapped[bool] = mapped_column(
        Boolean, nullable=False, default=False, server_default=text("false")
    )
    deadline_at: Mapped[datetime | None] = _time(nullable=True)
    """The lease's end while there is a worker, else when the saga is looked at again."""
    signals: Mapped[int] = _number()
    seen: Mapped[int] = _number()
    reclaims: Mapped[int] = _number()
    entries: Mapped[int] = _number()
    waiters: Mapped[int] = _number()
    """On PostgreSQL, how often a saga was queued behind this one; else 0."""
    created_at: Mapped[datetime] = _time()
    updated_at: Mapped[datetime] = _time()

    @property
    def step_history(self) -> Sequence[SagaHistoryEntry]:
        """What happened to the saga, oldest first."""
        return tuple(getattr(self, HISTORY))

    @property
    def context(self) -> Mapping[str, Any]:
        """What input maps see: `initial_data`, `step_outputs` by step id, and `events`."""
        data = self.data
        outputs: dict[str, Any] = {}
        for entry in getattr(self, HISTORY):
            if entry.kind == EntryKind.UPCAST:
                move = Move.decode(entry.output_text)
                data = data if move.data is None else move.data
                outputs = {
                    step_id: outputs[step_id] if value is None else json.loads(value.output)
                    for step_id, value in move.outputs.items()
                }
            elif entry.kind == EntryKind.VOIDED:
                outputs.pop(entry.step_id, None)
            elif entry.step_id is not None and EntryKind(entry.kind).is_step_output:
                outputs[entry.step_id] = entry.output
        return {
            "initial_data": json.loads(data),
            "step_outputs": outputs,
            "events": [
                json.loads(signal.payload)
                for signal in getattr(self, INBOX)
                if signal.kind == "event"
            ],
        }


@event.listens_for(SagaStateMixin, "after_mapper_constructed", propagate=True)
def _complete(mapper: Mapper[Any], _: type[Any]) -> None:
    table = mapper.local_table
    if isinstance(table, Table) and mapper.inherits is None:
        check_shape(table, mapper.class_.__name__, _MEANT)
        complete(mapper, table)


_MEANT = {
    name: attribute.column.type
    for name, attribute in vars(SagaStateMixin).items()
    if isinstance(attribute, MappedColumn)
}


_TIMES = ("deadline_at", "created_at", "updated_at")


@event.listens_for(SagaStateMixin, "load", propagate=True)
def _on_load(target: object, _: Any) -> None:
    make_aware(target, _TIMES)


@event.listens_for(SagaStateMixin, "refresh", propagate=True)
def _on_refresh(target: object, _: Any, __: Any) -> None:
    make_aware(target, _TIMES)
