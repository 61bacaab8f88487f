"""Rows of SQLite to records and back, in the forms of a `Layout`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from saga_backends.sql import rows
from saga_backends.sql.rows import HISTORY_COLUMNS, INBOX_COLUMNS, SAGA_COLUMNS
from saga_backends.sqlite.layout import Layout, moment, now_micros
from saga_backends.sqlite.statements import Statements
from saga_core.records import HistoryEntry, NewEntry, SagaRecord, SagaState, StoredSignal

__all__ = ["Rows", "entry_values"]

_TAGS = SAGA_COLUMNS.index("tags")
_TOKEN = SAGA_COLUMNS.index("token")
_TIMES = tuple(SAGA_COLUMNS.index(name) for name in ("due_at", "created_at", "updated_at"))
_CREATED = SAGA_COLUMNS.index("created_at")
_STATE_TOKEN = _TOKEN - _TAGS - 1


def entry_values(entry: NewEntry) -> tuple[Any, ...]:
    """Return what a new history entry brings, in the order of its columns from `kind` on."""
    return (
        entry.kind.value,
        entry.step_id,
        entry.attempt,
        entry.input,
        entry.output,
        entry.error,
        entry.error_code,
        entry.actor,
        entry.reason,
    )


class Rows:
    """Reads and writes the rows of one layout, within a transaction of the caller."""

    def __init__(self, layout: Layout, namespace: str) -> None:
        self.layout = layout
        self.sql = Statements(layout.names)
        self.namespace = namespace

    def key(self, saga_id: UUID) -> tuple[str, str]:
        """Return what a saga's rows are found by."""
        return self.namespace, self.layout.id_of(saga_id)

    def state_values(self, state: SagaState) -> tuple[Any, ...]:
        """Return a state in the order of `STATE_COLUMNS`."""
        values = list(rows.state_values(state))
        if state.token is not None:
            values[_STATE_TOKEN] = self.layout.id_of(state.token)
        return tuple(values)

    def record_of(
        self,
        row: Sequence[Any],
        *,
        now: int,
        outputs: tuple[HistoryEntry, ...] = (),
        reclaimed: bool = False,
    ) -> SagaRecord:
        """Make a record of a row in the order of `SAGA_COLUMNS`. Raises `SchemaError`."""
        try:
            values = self._plain(row)
        except rows.NOT_OURS as error:
            raise rows.not_ours(f"the row of saga {row[0]}", error) from error
        return rows.record_of(values, now=moment(now), outputs=outputs, reclaimed=reclaimed)

    def place_of(self, row: Sequence[Any]) -> tuple[datetime, UUID]:
        """Return when a saga was created, and its id."""
        return moment(self.layout.micros_of(row[_CREATED])), UUID(row[0])

    def _plain(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        values[0] = UUID(values[0])
        values[_TAGS] = json.loads(values[_TAGS])
        if values[_TOKEN] is not None:
            values[_TOKEN] = UUID(values[_TOKEN])
        for index in _TIMES:
            if values[index] is not None:
                values[index] = moment(self.layout.micros_of(values[index]))
        return values

    def entry_of(self, row: Sequence[Any]) -> HistoryEntry:
        """Make a history entry of a row in the order of `HISTORY_COLUMNS`."""
        values = list(row)
        values[2] = moment(self.layout.micros_of(values[2]))
        return rows.entry_of(values)

    def signal_of(self, row: Sequence[Any]) -> StoredSignal:
        """Make a signal of a row in the order of `INBOX_COLUMNS`."""
        values = list(row)
        values[1] = moment(self.layout.micros_of(values[1]))
        return rows.signal_of(values)

    def outputs_of(self, db: sqlite3.Connection, key: str) -> tuple[HistoryEntry, ...]:
        """Return the entries that carry an output."""
        found = db.execute(self.sql.outputs, (self.namespace, key))
        return tuple(self.entry_of(row) for row in found)

    def load(self, db: sqlite3.Connection, saga_id: UUID) -> SagaRecord | None:
        """Return a saga with its outputs, or None."""
        key = self.key(saga_id)
        row = db.execute(self.sql.load, key).fetchone()
        if row is None:
            return None
        return self.record_of(row, now=now_micros(), outputs=self.outputs_of(db, key[1]))

    def append(
        self,
        db: sqlite3.Connection,
        saga_id: UUID,
        entries: Sequence[NewEntry],
        *,
        last: int,
        commit: UUID | None,
        at: tuple[int, int, int],
    ) -> None:
        """Write new history entries, the last of which gets `seq` `last`.

        `at` is the version, the fence and the time that they share.
        """
        layout = self.layout
        key = self.key(saga_id)
        commit_id = None if commit is None else layout.id_of(commit)
        version, fence, now = at
        shared = (commit_id, version, fence, layout.time_of(now))
        for seq, entry in enumerate(entries, start=last - len(entries) + 1):
            db.execute(self.sql.insert_entry, (*key, seq, *shared, *entry_values(entry)))


assert INBOX_COLUMNS[1] == HISTORY_COLUMNS[2] == "at"  # noqa: S101 - Rows relies on it
