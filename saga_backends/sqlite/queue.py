"""Claiming, renewing and releasing sagas on SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from saga_backends.sql.reading import readable
from saga_backends.sqlite.connection import Transactions
from saga_backends.sqlite.layout import Layout, micros, now_micros
from saga_backends.sqlite.rows import Rows
from saga_backends.sqlite.statements import Statements
from saga_core.records import Claims, Held, Registered, SagaRecord
from saga_core.status import Direction

__all__ = ["SqliteQueue"]


class SqliteQueue:
    """The `WorkQueue` part of the store."""

    _db: Transactions
    _rows: Rows
    _sql: Statements
    _layout: Layout
    namespace: str

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
        layout = self._layout
        claim = layout.id_of(claim_id)
        kinds = json.dumps(
            [[kind.saga_name, kind.definition_version, kind.fingerprint] for kind in only]
        )
        lanes = (int(favour), 1 - int(favour))

        def look(db: sqlite3.Connection) -> tuple[bool, int, int | None]:
            now = now_micros()
            mine = db.execute(self._sql.claimed, (claim,)).fetchone()
            any_due = mine is not None or any(self._due(db, lane, now, kinds, 1) for lane in lanes)
            here = {"namespace": self.namespace, "now": layout.time_of(now)}
            soon = db.execute(self._sql.soon, here).fetchone()[0]
            return any_due, now, None if soon is None else layout.micros_of(soon)

        def take(db: sqlite3.Connection) -> tuple[SagaRecord, ...]:
            now = now_micros()
            rows = db.execute(self._sql.mine, (claim, self.namespace, worker)).fetchall()
            if not rows:
                for saga_id in self._pick(db, lanes, now, kinds, limit):
                    until = layout.time_of(now + micros(lease))
                    values = (worker, claim, until, self.namespace, saga_id)
                    rows.append(db.execute(self._sql.claim, values).fetchone())
            # The lease of one that cannot be read ends by itself.
            records, _ = readable(
                rows,
                lambda row: self._rows.record_of(
                    row[:-1],
                    now=now,
                    outputs=self._rows.outputs_of(db, row[0]),
                    reclaimed=bool(row[-1]),
                ),
                lambda row: UUID(row[0]),
            )
            return records

        any_due, now, soon = await self._db.read(look)
        records = await self._db.write(take) if any_due else ()
        pause = None if soon is None else timedelta(microseconds=soon - now)
        return Claims.after(pause, taken=records, limit=limit)

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
            self._sql.due,
            {
                "namespace": self.namespace,
                "lane": lane,
                "now": self._layout.time_of(now),
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
            until = self._layout.time_of(now_micros() + micros(lease))
            renewed = {}
            for one in held:
                values = (until, *self._rows.key(one.saga_id), worker, one.fence)
                row = db.execute(self._sql.renew, values).fetchone()
                if row is not None:
                    renewed[one.saga_id] = row[0]
            return renewed

        return await self._db.write(extend)

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""

        def free(db: sqlite3.Connection) -> None:
            due_at = self._layout.time_of(now_micros() + micros(delay))
            db.executemany(
                self._sql.release,
                [(due_at, *self._rows.key(one.saga_id), worker, one.fence) for one in held],
            )

        await self._db.write(free)
