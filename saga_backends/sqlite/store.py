"""The SQLite store: each writing call is one IMMEDIATE transaction, in one hop to its thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from saga_backends.sqlite.catalog import SqliteCatalog
from saga_backends.sqlite.connection import Transactions
from saga_backends.sqlite.layout import OWN_LAYOUT, Layout, micros, moment, now_micros
from saga_backends.sqlite.queue import SqliteQueue
from saga_backends.sqlite.rows import Rows
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateError,
    StaleVersionError,
)
from saga_core.records import (
    Committed,
    Created,
    Due,
    HistoryEntry,
    Lease,
    LeaseAction,
    NewSaga,
    Receipt,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_core.store import CONTRACT_VERSION

__all__ = ["SqliteStore"]


class SqliteStore(SqliteQueue, SqliteCatalog):
    """A `SagaStore` on one file. Made by `open_store("sqlite:///...")`."""

    contract_version = CONTRACT_VERSION

    def __init__(self, database: Transactions, namespace: str, layout: Layout = OWN_LAYOUT) -> None:
        self._db = database
        self._rows = Rows(layout, namespace)
        self._layout = layout
        self._sql = self._rows.sql
        self.namespace = namespace

    # --- the saga log ---------------------------------------------------------------------------

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""
        return await self._db.write(lambda db: self._create(db, new))

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        record = await self._db.read(lambda db: self._rows.load(db, saga_id))
        if record is None:
            raise self._not_found(saga_id)
        return record

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition in one transaction; see `SagaLog.commit`."""
        return await self._db.write(lambda db: self._commit(db, transition))

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return entries in order; see `SagaLog.history`."""

        def read(db: sqlite3.Connection) -> list[HistoryEntry]:
            rows = db.execute(self._sql.history, (*self._rows.key(saga_id), after, limit))
            return [self._rows.entry_of(row) for row in rows]

        return await self._db.read(read)

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """End at once: SQLite tells nobody anything, workers poll."""
        return
        yield

    # --- the inbox ------------------------------------------------------------------------------

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox; see `Inbox.signal`."""
        key = self._rows.key(saga_id)

        def send(db: sqlite3.Connection) -> Receipt:
            row = db.execute(self._sql.target, key).fetchone()
            if row is None:
                raise self._not_found(saga_id)
            goes_on, is_held, signals = bool(row[0]), bool(row[1]), row[2]
            if self._knows(db, key, signal.event_id):
                return Receipt(accepted=True, duplicate=True, held=is_held)
            if not goes_on:
                return Receipt(accepted=False, duplicate=False, held=is_held)
            now = self._layout.time_of(now_micros())
            db.execute(
                self._sql.insert_signal,
                (*key, signals + 1, now, signal.event_id, signal.kind.value, signal.payload, 0),
            )
            db.execute(self._sql.hear, (now, *key))
            return Receipt(accepted=True, duplicate=False, held=is_held)

        return await self._db.write(send)

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""

        def read(db: sqlite3.Connection) -> list[StoredSignal]:
            rows = db.execute(self._sql.inbox, (*self._rows.key(saga_id), after))
            return [self._rows.signal_of(row) for row in rows]

        return await self._db.read(read)

    # --- pieces ---------------------------------------------------------------------------------

    def _not_found(self, saga_id: UUID) -> SagaNotFoundError:
        return SagaNotFoundError(
            f"no saga {saga_id} in namespace '{self.namespace}' of {self._db.where}",
            saga_id=saga_id,
        )

    def _knows(self, db: sqlite3.Connection, key: tuple[str, str], event_id: str) -> bool:
        return db.execute(self._sql.knows, (*key, event_id)).fetchone() is not None

    def _create(self, db: sqlite3.Connection, new: NewSaga) -> Created:
        existing = self._rows.load(db, new.saga_id)
        if existing is not None:
            return Created(record=existing, created=False)
        if new.state.active:
            self._check_aggregate(db, new.aggregation_id)
        now = now_micros()
        key = self._rows.key(new.saga_id)
        lease = new.lease
        due_at = _due_micros(new.due, now) if lease is None else now + micros(lease.duration)
        fence = 0 if lease is None else 1
        values = (
            *key,
            new.saga_name,
            new.definition_version,
            new.fingerprint,
            new.data,
            new.aggregation_id,
            new.trace_id,
            json.dumps(new.tags),
            *self._rows.state_values(new.state),
            1,
            fence,
            None if lease is None else lease.worker,
            self._time(due_at),
            0,
            0,
            0,
            len(new.history),
            self._time(now),
            self._time(now),
            *self._layout.names.own_values(),
        )
        try:
            db.execute(self._sql.insert, values)
        except sqlite3.IntegrityError as error:
            raise SagaStateError(
                f"saga {new.saga_id} was refused by {self._db.where}: {error}",
                saga_id=new.saga_id,
            ) from error
        last = len(new.history)
        self._rows.append(db, new.saga_id, new.history, last=last, commit=None, at=(1, fence, now))
        if new.state.is_queued and self._call_next(db, new.aggregation_id, now) == key[1]:
            due_at = now
        record = SagaRecord(
            saga_id=new.saga_id,
            saga_name=new.saga_name,
            definition_version=new.definition_version,
            fingerprint=new.fingerprint,
            data=new.data,
            state=new.state,
            aggregation_id=new.aggregation_id,
            trace_id=new.trace_id,
            tags=new.tags,
            version=1,
            fence=fence,
            worker=None if lease is None else lease.worker,
            due_at=None if due_at is None else moment(due_at),
            signals=0,
            seen=0,
            reclaims=0,
            reclaimed=False,
            outputs=self._rows.outputs_of(db, key[1]) if new.history else (),
            created_at=moment(now),
            updated_at=moment(now),
            now=moment(now),
        )
        return Created(record=record, created=True)

    def _check_aggregate(
        self, db: sqlite3.Connection, aggregation_id: str | None, but: str = ""
    ) -> None:
        if aggregation_id is None:
            return
        values = (self.namespace, aggregation_id, but)
        row = db.execute(self._sql.holder, values).fetchone()
        if row is not None:
            holder = UUID(row[0])
            raise ActiveSagaAlreadyExistsError(
                f"saga {holder} is active with aggregation_id {aggregation_id!r}: wait for its "
                "end, or look why it does not end",
                saga_id=holder,
            )

    def _time(self, value: int | None) -> Any:
        return None if value is None else self._layout.time_of(value)

    def _commit(self, db: sqlite3.Connection, transition: Transition) -> Committed:
        now = now_micros()
        try:
            row = self._update(db, transition, now, queued=transition.state.is_queued)
        except sqlite3.IntegrityError:
            self._refuse_revival(db, transition)
            raise
        if row is None:
            answer = self._first_answer(db, transition)
            if answer is not None:
                return answer
            # It is queued, which a commit that takes it out of the queue must not overlook.
            if transition.state.active:
                self._check_turn(db, transition)
            row = self._update(db, transition, now, queued=True)
        version, fence, signals, entries, aggregation_id = row
        self._rows.append(
            db,
            transition.saga_id,
            transition.history,
            last=entries,
            commit=transition.commit_id,
            at=(version, fence, now),
        )
        self._hear(db, transition, first=signals - len(transition.signals_in) + 1, now=now)
        if not transition.state.active:
            self._call_next(db, aggregation_id, now)
        for new in transition.spawn:
            self._create(db, new)
        return Committed(version=version, fence=fence, signals=signals, held=True)

    def _update(
        self, db: sqlite3.Connection, transition: Transition, now: int, *, queued: bool
    ) -> Any:
        lease, lease_values = self._lease(transition, now)
        tags = transition.tags
        arriving = len(transition.signals_in)
        return db.execute(
            self._sql.commit(lease, tags=tags is not None, queued=queued),
            (
                *self._rows.state_values(transition.state),
                *lease_values,
                *(() if tags is None else (json.dumps(tags),)),
                transition.seen + arriving,
                arriving,
                len(transition.history),
                self._time(now),
                *self._rows.key(transition.saga_id),
                transition.expected_version,
            ),
        ).fetchone()

    def _call_next(
        self, db: sqlite3.Connection, aggregation_id: str | None, now: int
    ) -> str | None:
        """Make the first in an aggregate's queue due unless the aggregate is held; return it."""
        if aggregation_id is None:
            return None
        row = db.execute(self._sql.first_in_queue, (self.namespace, aggregation_id)).fetchone()
        if row is None:
            return None
        first: str = row[0]
        if db.execute(self._sql.holder, (self.namespace, aggregation_id, "")).fetchone():
            return None
        at = self._time(now)
        called = db.execute(self._sql.call, (at, self.namespace, first, at)).rowcount
        return first if called else None

    def _check_turn(self, db: sqlite3.Connection, transition: Transition) -> None:
        key = self._rows.key(transition.saga_id)
        aggregation_id = db.execute(self._sql.aggregate, key).fetchone()[0]
        self._check_aggregate(db, aggregation_id, but=key[1])
        row = db.execute(self._sql.first_in_queue, (self.namespace, aggregation_id)).fetchone()
        if row is not None and row[0] != key[1]:
            first = UUID(row[0])
            raise ActiveSagaAlreadyExistsError(
                f"saga {first} is before this one in the queue for aggregation_id "
                f"{aggregation_id!r}",
                saga_id=first,
            )

    def _hear(
        self, db: sqlite3.Connection, transition: Transition, *, first: int, now: int
    ) -> None:
        key = self._rows.key(transition.saga_id)
        for seq, signal in enumerate(transition.signals_in, start=first):
            if self._knows(db, key, signal.event_id):
                raise SagaStateError(
                    f"saga {transition.saga_id} has an event with the id {signal.event_id!r} "
                    "already",
                    saga_id=transition.saga_id,
                )
            db.execute(
                self._sql.insert_signal,
                (*key, seq, self._time(now), signal.event_id, signal.kind.value, signal.payload, 0),
            )
        if transition.consumed:
            db.executemany(
                self._sql.consume,
                [(*key, event_id) for event_id in transition.consumed],
            )

    def _first_answer(self, db: sqlite3.Connection, transition: Transition) -> Committed | None:
        """Return what the commit was answered before; None if it may still be applied."""
        committed = self._made_by(db, transition.saga_id, transition.commit_id)
        if committed is not None:
            return committed
        row = db.execute(self._sql.version, self._rows.key(transition.saga_id)).fetchone()
        if row[0] != transition.expected_version:
            raise StaleVersionError(
                f"saga {transition.saga_id} is no longer at version {transition.expected_version}",
                saga_id=transition.saga_id,
            )
        return None

    def _made_by(self, db: sqlite3.Connection, saga_id: UUID, commit_id: UUID) -> Committed | None:
        key = self._rows.key(saga_id)
        row = db.execute(self._sql.version, key).fetchone()
        if row is None:
            raise self._not_found(saga_id)
        made = db.execute(self._sql.find_commit, (*key, self._layout.id_of(commit_id))).fetchone()
        if made is None:
            return None
        return Committed(version=made[0], fence=made[1], signals=row[1], held=row[0] == made[0])

    def _refuse_revival(self, db: sqlite3.Connection, transition: Transition) -> None:
        key = self._rows.key(transition.saga_id)
        row = db.execute(self._sql.aggregate, key).fetchone()
        if row is not None and transition.state.active:
            self._check_aggregate(db, row[0], but=key[1])

    def _lease(self, transition: Transition, now: int) -> tuple[str, tuple[Any, ...]]:
        lease = transition.lease
        if lease is LeaseAction.KEEP:
            return "", ()
        if isinstance(lease, Lease):
            until = self._time(now + micros(lease.duration))
            return self._sql.take, (lease.worker, lease.worker, until)
        due = self._time(_due_micros(transition.due, now))
        goes_on = not transition.state.has_ended
        return self._sql.give_back, (goes_on, transition.seen, self._time(now), due)


def _due_micros(due: Due | None, now: int) -> int | None:
    if due is None:
        return None
    times = []
    if due.delay is not None:
        times.append(now + micros(due.delay))
    if due.at is not None:
        times.append(micros(due.at))
    return min(times)
