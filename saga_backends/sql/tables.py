"""What a model of sagas needs beside its columns: two tables, indexes and one constraint."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BLANK_SCHEMA,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    event,
    text,
)
from sqlalchemy.orm import Mapper, foreign, relationship
from sqlalchemy.sql.elements import conv

from saga_backends.sql.times import make_aware
from saga_core.errors import SagaStateError

__all__ = ["HISTORY", "INBOX", "SagaHistoryEntry", "SagaInboxEntry", "complete"]

HISTORY = "_saga_history"
INBOX = "_saga_inbox"
"""Attributes of a model that hold its relations to the two tables."""


class SagaHistoryEntry:
    """One thing that happened to a saga, read from its history."""

    namespace: str
    saga_id: UUID
    seq: int
    commit_id: UUID | None
    version: int
    fence: int
    at: datetime
    kind: str
    step_id: str | None
    attempt: int
    input_text: str | None
    output_text: str | None
    error: str | None
    error_code: str | None
    actor: str | None
    reason: str | None

    @property
    def input(self) -> Any:
        """The step's input, decoded."""
        return None if self.input_text is None else json.loads(self.input_text)

    @property
    def output(self) -> Any:
        """The step's output, decoded; also None if it has none, which `output_text` tells."""
        return None if self.output_text is None else json.loads(self.output_text)

    def __repr__(self) -> str:
        return f"<{self.seq} {self.kind} {self.step_id or ''} at {self.at}>"


class SagaInboxEntry:
    """Something that was sent to a saga. The payload is JSON text."""

    namespace: str
    saga_id: UUID
    seq: int
    at: datetime
    event_id: str
    kind: str
    payload: str
    consumed: bool


def complete(mapper: Mapper[Any], sagas: Table) -> None:
    """Add to a new model's table and metadata what its sagas need, and the relations to it."""
    _constrain(sagas)
    for name, table, row in (
        (HISTORY, _history(sagas), SagaHistoryEntry),
        (INBOX, _inbox(sagas), SagaInboxEntry),
    ):
        target = type(f"{mapper.class_.__name__}{row.__name__}", (row,), {})
        texts = {f"{c}_text": table.c[c] for c in ("input", "output") if c in table.c}
        mapper.registry.map_imperatively(target, table, properties=texts)
        event.listen(target, "load", lambda entry, _: make_aware(entry, ("at",)))
        event.listen(target, "before_insert", _refuse)
        event.listen(target, "before_update", _refuse)
        mapper.add_property(
            name,
            relationship(
                target,
                primaryjoin=and_(
                    foreign(table.c.saga_id) == sagas.c.id,
                    foreign(table.c.namespace) == sagas.c.namespace,
                ),
                order_by=table.c.seq,
                uselist=True,
                viewonly=True,
                lazy="selectin",
            ),
        )


def _refuse(*_: object) -> None:
    raise SagaStateError("what happened to a saga is only read here; SqlSagaStore writes it")


def _constrain(sagas: Table) -> None:
    c = sagas.c
    sagas.append_constraint(
        CheckConstraint(
            "NOT active OR status IN ('STUCK', 'PAUSED') OR deadline_at IS NOT NULL "
            "OR waiting_for IS NOT NULL",
            name="no_stranded_saga",
        )
    )
    held = "active AND aggregation_id IS NOT NULL"
    _index("active_aggregate", c.namespace, c.aggregation_id, where=held, unique=True)
    _index("due", c.namespace, c.direction, c.deadline_at, where="deadline_at IS NOT NULL")
    queued = "waiting_for = 'key'"
    _index("queued", c.namespace, c.aggregation_id, c.created_at, c.id, where=queued)
    _index("ended", c.namespace, c.created_at, where="NOT active")
    _index("claim", c.claim_id, where="claim_id IS NOT NULL")
    # Room for an update to stay within its page, as long as it changes no indexed column.
    options = sagas.dialect_options["postgresql"]
    if "with" in options and not options["with"]:  # SQLAlchemy 2.1 and newer
        options["with"] = {"fillfactor": 70}


def _index(name: str, *columns: Column[Any], where: str, unique: bool = False) -> None:
    table = columns[0].table
    Index(
        conv(f"{table.name}_{name}"),
        *columns,
        unique=unique,
        postgresql_where=text(where),
        sqlite_where=text(where),
    )


def _history(sagas: Table) -> Table:
    return Table(
        f"{sagas.name}_history",
        sagas.metadata,
        # The id first: it alone decides nearly every comparison in the index.
        Column("saga_id", Uuid, primary_key=True),
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("namespace", Text, primary_key=True),
        Column("commit_id", Uuid),
        Column("version", BigInteger, nullable=False),
        Column("fence", BigInteger, nullable=False),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("kind", Text, nullable=False),
        Column("step_id", Text),
        Column("attempt", Integer, nullable=False),
        *(Column(name, Text) for name in _HISTORY_TEXTS),
        schema=BLANK_SCHEMA if sagas.schema is None else sagas.schema,
    )


_HISTORY_TEXTS = ("input", "output", "error", "error_code", "actor", "reason")


def _inbox(sagas: Table) -> Table:
    return Table(
        f"{sagas.name}_inbox",
        sagas.metadata,
        # The id first: it alone decides nearly every comparison in the index.
        Column("saga_id", Uuid, primary_key=True),
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("namespace", Text, primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("event_id", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("consumed", Boolean, nullable=False, server_default=text("false")),
        UniqueConstraint(
            "saga_id", "event_id", "namespace", name=conv(f"{sagas.name}_inbox_event")
        ),
        schema=BLANK_SCHEMA if sagas.schema is None else sagas.schema,
    )
