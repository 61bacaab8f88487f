"""The SQLite store: each writing call is one IMMEDIATE transaction, in one hop to its thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from saga_backends.sql.rows import HISTORY_COLUMNS, INBOX_COLUMNS, SAGA_COLUMNS, STATE_COLUMNS
from saga_backends.sqlite.catalog import SqliteCatalog
from saga_backends.sqlite.connection import Database
from saga_backends.sqlite.rows import (
    entry_of,
    entry_values,
    load_record,
    micros,
    moment,
    now_micros,
    outputs_of,
    record_of,
    signal_of,
    state_values,
)
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateError,
    StaleVersionError,
)
from saga_core.records import (
    Claims,
    Committed,
    Created,
    Due,
    Held,
    HistoryEntry,
    Lease,
    LeaseAction,
    NewEntry,
    NewSaga,
    Receipt,
    Registered,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_core.status import Direction
from saga_core.store import CONTRACT_VERSION

__all__ = ["SqliteStore"]

_SET_STATE = ", ".join(f"{column} = ?" for column in STATE_COLUMNS)

_INSERT_SAGA = f"""
INSERT INTO saga (
    namespace, saga_id, saga_name, definition_version, fingerprint, data, aggregation_id,
    trace_id, tags, {", ".join(STATE_COLUMNS)}, version, fence, worker, due_at, entries,
    created_at, updated_at
) VALUES ({", ".join("?" * 9)}, {", ".join("?" * len(STATE_COLUMNS))}, 1, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - column names of ours and parameters only

_INSERT_ENTRY = """
INSERT INTO saga_history (namespace, saga_id, seq, commit_id, version, fence, at, kind, step_id,
    attempt, input, output, error, error_code, actor, reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_INSERT_SIGNAL = """
INSERT INTO saga_inbox (namespace, saga_id, seq, at, event_id, kind, payload, consumed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

_DUE = """
SELECT saga_id FROM saga
 WHERE namespace = :namespace AND direction = :lane AND due_at <= :now
   AND (saga_name, definition_version, fingerprint) IN (
       SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
              json_extract(value, '$[2]') FROM json_each(:kinds))
 ORDER BY due_at LIMIT :limit
"""

_CLAIM = f"""
UPDATE saga
   SET version = version + 1, fence = fence + 1, reclaimed = worker IS NOT NULL,
       reclaims = reclaims + (worker IS NOT NULL), worker = ?, claim_id = ?, due_at = ?
 WHERE namespace = ? AND saga_id = ?
RETURNING {", ".join(SAGA_COLUMNS)}, reclaimed
"""  # noqa: S608

_MINE = f"""
SELECT {", ".join(SAGA_COLUMNS)}, reclaimed FROM saga
 WHERE claim_id = ? AND namespace = ? AND worker = ?
"""  # noqa: S608

_SOON = """
SELECT min(due_at) FROM (
    SELECT * FROM (SELECT due_at FROM saga WHERE namespace = :namespace AND direction = 0
                      AND due_at > :now ORDER BY due_at LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT due_at FROM saga WHERE namespace = :namespace AND direction = 1
                      AND due_at > :now ORDER BY due_at LIMIT 1))
"""


class SqliteStore(SqliteCatalog):
    """A `SagaStore` on one file. Made by `open_store("sqlite:///...")`."""

    contract_version = CONTRACT_VERSION

    def __init__(self, database: Database, namespace: str) -> None:
        self._db = database
        self.namespace = namespace

    # --- the saga log ---------------------------------------------------------------------------

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""
        return await self._db.write(lambda db: self._create(db, new))

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        record = await self._db.read(lambda db: load_record(db, self.namespace, saga_id))
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
            rows = db.execute(
                f"SELECT {', '.join(HISTORY_COLUMNS)} FROM saga_history "  # noqa: S608
                "WHERE namespace = ? AND saga_id = ? AND seq > ? ORDER BY seq LIMIT ?",
                (self.namespace, str(saga_id), after, limit),
            )
            return [entry_of(row) for row in rows]

        return await self._db.read(read)

    # --- the work queue -------------------------------------------------------------------------

    async def claim_due(
        self,
        worker: str,
        *,
        claim_id: UUID,
        limit: int,
        lease: timedelta,
        only: Collection[Registered],
        favour: Direction,
    ) -> Claims:
        """Take due sagas; looks first, so that idle polling takes no write lock."""
        kinds = json.dumps(
            [[kind.saga_name, kind.definition_version, kind.fingerprint] for kind in only]
        )
        lanes = (int(favour), 1 - int(favour))

        def look(db: sqlite3.Connection) -> tuple[bool, int, int | None]:
            now = now_micros()
            mine = db.execute(
                "SELECT 1 FROM saga WHERE claim_id = ? LIMIT 1", (str(claim_id),)
            ).fetchone()
            any_due = mine is not None or any(self._due(db, lane, now, kinds, 1) for lane in lanes)
            soon = db.execute(_SOON, {"namespace": self.namespace, "now": now}).fetchone()[0]
            return any_due, now, soon

        def take(db: sqlite3.Connection) -> tuple[SagaRecord, ...]:
            now = now_micros()
            mine = (str(claim_id), self.namespace, worker)
            rows = db.execute(_MINE, mine).fetchall()
            if not rows:
                for saga_id in self._pick(db, lanes, now, kinds, limit):
                    values = (worker, str(claim_id), now + micros(lease), self.namespace, saga_id)
                    rows.append(db.execute(_CLAIM, values).fetchone())
            return tuple(
                record_of(
                    row[:-1],
                    now=now,
                    outputs=outputs_of(db, self.namespace, row[0]),
                    reclaimed=bool(row[-1]),
                )
                for row in rows
            )

        any_due, now, soon = await self._db.read(look)
        records = await self._db.write(take) if any_due else ()
        if len(records) >= limit:
            return Claims(records=records, next_due=timedelta(0))
        pause = None if soon is None else timedelta(microseconds=max(soon - now, 0))
        return Claims(records=records, next_due=pause)

    def _pick(
        self, db: sqlite3.Connection, lanes: tuple[int, int], now: int, kinds: str, limit: int
    ) -> list[str]:
        favoured = self._due(db, lanes[0], now, kinds, limit)
        other = self._due(db, lanes[1], now, kinds, limit)
        half = (limit + 1) // 2
        mine = favoured[: max(half, limit - len(other))]
        return mine + other[: limit - len(mine)]

    def _due(
        self, db: sqlite3.Connection, lane: int, now: int, kinds: str, limit: int
    ) -> list[str]:
        rows = db.execute(
            _DUE,
            {
                "namespace": self.namespace,
                "lane": lane,
                "now": now,
                "kinds": kinds,
                "limit": limit,
            },
        )
        return [row[0] for row in rows]

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int]:
        """Extend the leases that are still ours; see `WorkQueue.renew`."""

        def extend(db: sqlite3.Connection) -> dict[UUID, int]:
            until = now_micros() + micros(lease)
            renewed = {}
            for one in held:
                row = db.execute(
                    "UPDATE saga SET due_at = ? WHERE namespace = ? AND saga_id = ? "
                    "AND worker = ? AND fence = ? RETURNING signals",
                    (until, self.namespace, str(one.saga_id), worker, one.fence),
                ).fetchone()
                if row is not None:
                    renewed[one.saga_id] = row[0]
            return renewed

        return await self._db.write(extend)

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""

        def free(db: sqlite3.Connection) -> None:
            due_at = now_micros() + micros(delay)
            db.executemany(
                "UPDATE saga SET worker = NULL, claim_id = NULL, reclaimed = 0, due_at = ? "
                "WHERE namespace = ? AND saga_id = ? AND worker = ? AND fence = ?",
                [(due_at, self.namespace, str(one.saga_id), worker, one.fence) for one in held],
            )

        await self._db.write(free)

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """End at once: SQLite tells nobody anything, workers poll."""
        return
        yield

    # --- the inbox ------------------------------------------------------------------------------

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox; see `Inbox.signal`."""
        key = (self.namespace, str(saga_id))

        def send(db: sqlite3.Connection) -> Receipt:
            row = db.execute(
                "SELECT active, worker IS NOT NULL, signals FROM saga "
                "WHERE namespace = ? AND saga_id = ?",
                key,
            ).fetchone()
            if row is None:
                raise self._not_found(saga_id)
            active, is_held, signals = bool(row[0]), bool(row[1]), row[2]
            if not active:
                return Receipt(accepted=False, duplicate=False, held=is_held)
            if self._knows(db, key, signal.event_id):
                return Receipt(accepted=True, duplicate=True, held=is_held)
            now = now_micros()
            db.execute(
                _INSERT_SIGNAL,
                (*key, signals + 1, now, signal.event_id, signal.kind.value, signal.payload, 0),
            )
            db.execute(
                "UPDATE saga SET signals = signals + 1, due_at = CASE WHEN worker IS NULL "
                "AND (due_at IS NOT NULL OR waiting_for IS NOT NULL) THEN ? ELSE due_at END "
                "WHERE namespace = ? AND saga_id = ?",
                (now, *key),
            )
            return Receipt(accepted=True, duplicate=False, held=is_held)

        return await self._db.write(send)

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""

        def read(db: sqlite3.Connection) -> list[StoredSignal]:
            rows = db.execute(
                f"SELECT {', '.join(INBOX_COLUMNS)} FROM saga_inbox "  # noqa: S608
                "WHERE namespace = ? AND saga_id = ? AND seq > ? ORDER BY seq",
                (self.namespace, str(saga_id), after),
            )
            return [signal_of(row) for row in rows]

        return await self._db.read(read)

    # --- pieces ---------------------------------------------------------------------------------

    def _not_found(self, saga_id: UUID) -> SagaNotFoundError:
        return SagaNotFoundError(
            f"no saga {saga_id} in namespace '{self.namespace}' of {self._db.where}",
            saga_id=saga_id,
        )

    @staticmethod
    def _knows(db: sqlite3.Connection, key: tuple[str, str], event_id: str) -> bool:
        found = db.execute(
            "SELECT 1 FROM saga_inbox WHERE namespace = ? AND saga_id = ? AND event_id = ?",
            (*key, event_id),
        ).fetchone()
        return found is not None

    def _create(self, db: sqlite3.Connection, new: NewSaga) -> Created:
        existing = load_record(db, self.namespace, new.saga_id)
        if existing is not None:
            return Created(record=existing, created=False)
        if new.state.active:
            self._check_aggregate(db, new.aggregation_id)
        now = now_micros()
        key = str(new.saga_id)
        lease = new.lease
        due_at = _due_micros(new.due, now) if lease is None else now + micros(lease.duration)
        fence = 0 if lease is None else 1
        db.execute(
            _INSERT_SAGA,
            (
                self.namespace,
                key,
                new.saga_name,
                new.definition_version,
                new.fingerprint,
                new.data,
                new.aggregation_id,
                new.trace_id,
                json.dumps(new.tags),
                *state_values(new.state),
                fence,
                None if lease is None else lease.worker,
                due_at,
                len(new.history),
                now,
                now,
            ),
        )
        self._append(db, key, new.history, last=len(new.history), commit=None, at=(1, fence, now))
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
            outputs=outputs_of(db, self.namespace, key) if new.history else (),
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
        holder = db.execute(
            "SELECT saga_id FROM saga WHERE namespace = ? AND aggregation_id = ? AND active "
            "AND saga_id <> ?",
            (self.namespace, aggregation_id, but),
        ).fetchone()
        if holder is not None:
            raise ActiveSagaAlreadyExistsError(
                f"saga {holder[0]} is active with aggregation_id {aggregation_id!r}: wait for its "
                "end, or look why it does not end",
                saga_id=UUID(holder[0]),
            )

    def _append(
        self,
        db: sqlite3.Connection,
        key: str,
        entries: Sequence[NewEntry],
        *,
        last: int,
        commit: str | None,
        at: tuple[int, int, int],
    ) -> None:
        first = last - len(entries) + 1
        for seq, entry in enumerate(entries, start=first):
            db.execute(_INSERT_ENTRY, (self.namespace, key, seq, commit, *at, *entry_values(entry)))

    def _commit(self, db: sqlite3.Connection, transition: Transition) -> Committed:
        now = now_micros()
        key = str(transition.saga_id)
        arriving = len(transition.signals_in)
        lease, lease_values = _lease(transition, now)
        tags = "" if transition.tags is None else ", tags = ?"
        tag_values = () if transition.tags is None else (json.dumps(transition.tags),)
        seen = transition.seen + arriving
        try:
            row = db.execute(
                f"UPDATE saga SET {_SET_STATE}{lease}{tags}, version = version + 1, "  # noqa: S608
                "reclaims = 0, seen = ?, signals = signals + ?, entries = entries + ?, "
                "updated_at = ? WHERE namespace = ? AND saga_id = ? AND version = ? "
                "RETURNING version, fence, signals, entries",
                (
                    *state_values(transition.state),
                    *lease_values,
                    *tag_values,
                    seen,
                    arriving,
                    len(transition.history),
                    now,
                    self.namespace,
                    key,
                    transition.expected_version,
                ),
            ).fetchone()
        except sqlite3.IntegrityError:
            self._refuse_revival(db, transition)
            raise
        if row is None:
            return self._first_answer(db, transition)
        version, fence, signals, entries = row
        self._append(
            db,
            key,
            transition.history,
            last=entries,
            commit=str(transition.commit_id),
            at=(version, fence, now),
        )
        self._hear(db, transition, first=signals - arriving + 1, now=now)
        for new in transition.spawn:
            self._create(db, new)
        return Committed(version=version, fence=fence, signals=signals, held=True)

    def _hear(
        self, db: sqlite3.Connection, transition: Transition, *, first: int, now: int
    ) -> None:
        key = (self.namespace, str(transition.saga_id))
        for seq, signal in enumerate(transition.signals_in, start=first):
            if self._knows(db, key, signal.event_id):
                raise SagaStateError(
                    f"saga {transition.saga_id} has an event with the id {signal.event_id!r} "
                    "already",
                    saga_id=transition.saga_id,
                )
            db.execute(
                _INSERT_SIGNAL,
                (*key, seq, now, signal.event_id, signal.kind.value, signal.payload, 0),
            )
        if transition.consumed:
            db.executemany(
                "UPDATE saga_inbox SET consumed = 1 "
                "WHERE namespace = ? AND saga_id = ? AND event_id = ?",
                [(*key, event_id) for event_id in transition.consumed],
            )

    def _first_answer(self, db: sqlite3.Connection, transition: Transition) -> Committed:
        key = (self.namespace, str(transition.saga_id))
        row = db.execute(
            "SELECT version, signals FROM saga WHERE namespace = ? AND saga_id = ?", key
        ).fetchone()
        if row is None:
            raise self._not_found(transition.saga_id)
        made = db.execute(
            "SELECT version, fence FROM saga_history "
            "WHERE namespace = ? AND saga_id = ? AND commit_id = ? LIMIT 1",
            (*key, str(transition.commit_id)),
        ).fetchone()
        if made is None:
            raise StaleVersionError(
                f"saga {transition.saga_id} is at version {row[0]}, not at "
                f"{transition.expected_version}",
                saga_id=transition.saga_id,
            )
        return Committed(version=made[0], fence=made[1], signals=row[1], held=row[0] == made[0])

    def _refuse_revival(self, db: sqlite3.Connection, transition: Transition) -> None:
        key = str(transition.saga_id)
        row = db.execute(
            "SELECT aggregation_id FROM saga WHERE namespace = ? AND saga_id = ?",
            (self.namespace, key),
        ).fetchone()
        if row is not None and transition.state.active:
            self._check_aggregate(db, row[0], but=key)


def _lease(transition: Transition, now: int) -> tuple[str, tuple[Any, ...]]:
    lease = transition.lease
    if lease is LeaseAction.KEEP:
        return "", ()
    if isinstance(lease, Lease):
        return (
            ", fence = fence + (worker IS NOT ?), worker = ?, claim_id = NULL, reclaimed = 0, "
            "due_at = ?",
            (lease.worker, lease.worker, now + micros(lease.duration)),
        )
    return (
        ", worker = NULL, claim_id = NULL, reclaimed = 0, "
        "due_at = CASE WHEN ? AND signals > ? THEN ? ELSE ? END",
        (
            transition.state.active,
            transition.seen,
            now,
            _due_micros(transition.due, now),
        ),
    )


def _due_micros(due: Due | None, now: int) -> int | None:
    if due is None:
        return None
    times = []
    if due.delay is not None:
        times.append(now + micros(due.delay))
    if due.at is not None:
        times.append(micros(due.at))
    return min(times)
