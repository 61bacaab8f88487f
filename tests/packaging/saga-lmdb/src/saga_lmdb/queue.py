"""Claiming, renewing and releasing: who drives what, and until when."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from heapq import merge
from itertools import islice
from uuid import UUID

from saga_core.records import Claims, Held, Registered
from saga_core.status import Direction
from saga_lmdb.table import Handle, Row, Table, id_at_end, time_at, time_key

__all__ = ["LmdbQueue"]


class LmdbQueue(Handle):
    """The `WorkQueue` part of the store."""

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
        """Take due sagas; see `WorkQueue.claim_due`."""
        lanes = favour, Direction(1 - favour)
        kinds = frozenset(only)

        def look(table: Table) -> tuple[bool, timedelta | None]:
            is_due = any(_due(table, lane, kinds, 1) for lane in lanes)
            return is_due or bool(_claimed(table, worker, claim_id)), _next_due(table)

        def take(table: Table) -> Claims:
            rows = _claimed(table, worker, claim_id)
            if not rows:
                favoured, other = (_due(table, lane, kinds, limit) for lane in lanes)
                mine = favoured[: max((limit + 1) // 2, limit - len(other))]
                for saga_id in mine + other[: limit - len(mine)]:
                    rows.append(_claim(table, table.row(saga_id), worker, claim_id, lease))
            records = tuple(
                replace(table.read(row), reclaimed=row.record.reclaimed) for row in rows
            )
            left_over = len(records) >= limit
            return Claims(records=records, next_due=timedelta(0) if left_over else _next_due(table))

        # Workers poll. Those who find nothing wait for no writer and keep none waiting.
        anything, next_due = await self._read(look)
        return await self._write(take) if anything else Claims(records=(), next_due=next_due)

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int]:
        """Extend the leases that are still ours; see `WorkQueue.renew`."""

        def write(table: Table) -> dict[UUID, int]:
            renewed = {}
            for row in _held(table, worker, held):
                record = replace(row.record, due_at=table.now + lease)
                table.put(replace(row, record=record), row)
                renewed[record.saga_id] = record.signals
            return renewed

        return await self._write(write)

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""

        def write(table: Table) -> None:
            for row in _held(table, worker, held):
                due_at = table.now + delay
                record = replace(row.record, worker=None, reclaimed=False, due_at=due_at)
                table.put(replace(row, record=record, claim_id=None), row)

        await self._write(write)


def _claimed(table: Table, worker: str, claim_id: UUID) -> list[Row]:
    """Return what a claim holds already: its answer was lost, and it is asked again."""
    rows = [table.row(id_at_end(key)) for key, _ in table.scan(table.key("k", claim_id.bytes))]
    return [row for row in rows if row.record.worker == worker]


def _due(table: Table, lane: Direction, kinds: Collection[Registered], limit: int) -> list[UUID]:
    """Return the first `limit` sagas of a lane that are due, the oldest first."""

    def queue(kind: Registered) -> Iterator[bytes]:
        for key, _ in table.scan(table.queue(lane, kind)):
            if time_at(key) > table.now:
                return
            yield key[-24:]  # the time and the id

    return [id_at_end(key) for key in islice(merge(*map(queue, kinds)), limit)]


def _next_due(table: Table) -> timedelta | None:
    later = table.scan(table.key("t"), after=time_key(table.now) + b"\xff" * 16)
    return next((time_at(key) - table.now for key, _ in later), None)


def _claim(table: Table, row: Row, worker: str, claim_id: UUID, lease: timedelta) -> Row:
    before = row.record
    record = replace(
        before,
        version=before.version + 1,
        fence=before.fence + 1,
        worker=worker,
        due_at=table.now + lease,
        reclaims=before.reclaims + (before.worker is not None),
        reclaimed=before.worker is not None,
    )
    claimed = replace(row, record=record, claim_id=claim_id)
    table.put(claimed, row)
    return claimed


def _held(table: Table, worker: str, held: Sequence[Held]) -> Iterator[Row]:
    for one in held:
        row = table.find(one.saga_id)
        if row is not None and (row.record.worker, row.record.fence) == (worker, one.fence):
            yield row
