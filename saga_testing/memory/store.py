"""`MemoryStore`: sagas in this process's memory, under the same contract as on a server.

Not a mock: it passes the conformance suite, and refuses what a real schema would refuse. Nothing
in it awaits between reading and writing, so each call is atomic within its event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from saga_core.records import (
    Claims,
    Committed,
    Created,
    Held,
    HistoryEntry,
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
from saga_testing.clock import Clock, SystemClock
from saga_testing.memory.catalog import MemoryCatalog
from saga_testing.memory.table import MemoryData, Row

__all__ = ["MemoryStore"]


class MemoryStore(MemoryCatalog):
    """A `SagaStore` in memory. `handle()` gives a second one on the same sagas."""

    contract_version = CONTRACT_VERSION

    def __init__(
        self,
        namespace: str = "default",
        *,
        clock: Clock | None = None,
        data: MemoryData | None = None,
    ) -> None:
        """`clock` is the store's clock, by default the machine's; a `ManualClock` stands still."""
        self.namespace = namespace
        self.clock: Clock = clock or SystemClock()
        self.data = data or MemoryData()

    def handle(self) -> MemoryStore:
        """Return an independent store on the same data and clock, as another process would have."""
        return type(self)(self.namespace, clock=self.clock, data=self.data)

    # --- the saga log ---------------------------------------------------------------------------

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""
        existing = self.data.rows.get((self.namespace, new.saga_id))
        if existing is not None:
            return Created(record=self._read(existing), created=False)
        self._check_new(new)
        row = self._insert(new)
        self._follow_up(row)
        return Created(record=self._read(row), created=True)

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        return self._read(self._row(saga_id))

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition; see `SagaLog.commit`."""
        row = self._row(transition.saga_id)
        before = row.record
        if transition.commit_id in row.commit_ids:
            return self._first_answer(row, transition.commit_id)
        self._check_version(before, transition)
        after = self._after(before, transition)
        spawned = self._spawned(transition)
        self._check_transition(row, transition, after, spawned)
        self._apply(row, transition, after)
        self._follow_up(row, active=before.state.active, queued=before.state.is_queued)
        for new in spawned:
            self._follow_up(self._insert(new))
        if after.worker is None and after.due_at is not None and after.due_at <= self._now():
            self._wake()
        return Committed(version=after.version, fence=after.fence, signals=after.signals, held=True)

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return entries in order; see `SagaLog.history`."""
        row = self.data.rows.get((self.namespace, saga_id))
        return [] if row is None else row.history[after : after + limit]

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
        """Take due sagas; see `WorkQueue.claim_due`."""
        rows = self._claimed_before(worker, claim_id)
        if not rows:
            rows = self._pick(limit, frozenset(only), favour)
            for row in rows:
                self._claim(row, worker, claim_id, lease)
            self._remember(worker, claim_id, rows)
        records = tuple(self._read(row, reclaimed=row.record.reclaimed) for row in rows)
        if len(records) >= limit:
            return Claims(records=records, next_due=timedelta(0))
        return Claims(records=records, next_due=self._agenda.next_after(self._now()))

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int]:
        """Extend the leases that are still ours; see `WorkQueue.renew`."""
        renewed = {}
        for row in self._held(worker, held):
            self._store(row, replace(row.record, due_at=self._now() + lease))
            renewed[row.record.saga_id] = row.record.signals
        return renewed

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""
        for row in self._held(worker, held):
            row.claim_id = None
            due_at = self._now() + delay
            self._store(row, replace(row.record, worker=None, reclaimed=False, due_at=due_at))
            if not delay:
                self._wake()

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """Yield a hint when something falls due for others; see `WorkQueue.wakeups`."""
        heard = asyncio.Event()
        listeners = self.data.listeners.setdefault(self.namespace, set())
        listeners.add(heard)
        try:
            while True:
                await heard.wait()
                heard.clear()
                yield Wakeup(self.namespace)
        finally:
            listeners.discard(heard)

    # --- the inbox ------------------------------------------------------------------------------

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox; see `Inbox.signal`."""
        row = self._row(saga_id)
        record = row.record
        is_held = record.worker is not None
        if any(known.event_id == signal.event_id for known in row.inbox):
            return Receipt(accepted=True, duplicate=True, held=is_held)
        if record.state.has_ended:
            return Receipt(accepted=False, duplicate=False, held=is_held)
        self._append_signal(row, signal, consumed=False)
        due_at = record.due_at
        waits = record.due_at is not None or record.state.waiting_for is not None
        wakes = not is_held and waits and not record.state.is_queued
        if wakes:
            due_at = self._now()
        self._store(row, replace(record, signals=record.signals + 1, due_at=due_at))
        if wakes:
            self._wake()
        return Receipt(accepted=True, duplicate=False, held=is_held)

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""
        row = self.data.rows.get((self.namespace, saga_id))
        return [] if row is None else row.inbox[after:]

    # --- how a row changes ----------------------------------------------------------------------

    def _insert(self, new: NewSaga) -> Row:
        now = self._now()
        due_at = self._due_at(new.due) if new.lease is None else now + new.lease.duration
        record = replace(new.as_record(now=now, due_at=due_at), outputs=())
        row = Row(record)
        self.data.rows[self.namespace, new.saga_id] = row
        self._append_history(row, new.history, version=1, commit_id=None)
        self._store(row, record)
        if new.lease is None and record.due_at is not None and record.due_at <= self._now():
            self._wake()
        return row

    def _follow_up(self, row: Row, *, active: bool = False, queued: bool = False) -> None:
        """Look after the queue of a saga that is written; it was active, or queued, before."""
        record = row.record
        frees = active and not record.state.active
        if frees or queued or record.state.is_queued:
            self._call_next(record.aggregation_id)

    def _after(self, before: SagaRecord, transition: Transition) -> SagaRecord:
        return transition.as_record(before, now=self._now())

    def _apply(self, row: Row, transition: Transition, after: SagaRecord) -> None:
        for signal in transition.signals_in:
            self._append_signal(row, signal, consumed=False)
        row.inbox = [
            replace(signal, consumed=True) if signal.event_id in transition.consumed else signal
            for signal in row.inbox
        ]
        if transition.lease is not LeaseAction.KEEP:
            row.claim_id = None
        row.fences[transition.commit_id] = after.fence
        self._append_history(
            row, transition.history, version=after.version, commit_id=transition.commit_id
        )
        self._store(row, after)

    def _spawned(self, transition: Transition) -> list[NewSaga]:
        new = {one.saga_id: one for one in reversed(transition.spawn)}
        return [one for key, one in new.items() if (self.namespace, key) not in self.data.rows]

    def _claim(self, row: Row, worker: str, claim_id: UUID, lease: timedelta) -> None:
        before = row.record
        row.claim_id = claim_id
        self._store(
            row,
            replace(
                before,
                version=before.version + 1,
                fence=before.fence + 1,
                reclaims=before.reclaims + (before.worker is not None),
                reclaimed=before.worker is not None,
                worker=worker,
                due_at=self._now() + lease,
            ),
        )

    def _append_history(
        self, row: Row, entries: Sequence[NewEntry], *, version: int, commit_id: UUID | None
    ) -> None:
        now = self._now()
        for entry in entries:
            seq = len(row.history) + 1
            row.history.append(entry.as_entry(seq=seq, version=version, at=now))
            row.commit_ids.append(commit_id)

    def _append_signal(self, row: Row, signal: Signal, *, consumed: bool) -> None:
        row.inbox.append(
            StoredSignal(
                event_id=signal.event_id,
                kind=signal.kind,
                payload=signal.payload,
                seq=len(row.inbox) + 1,
                at=self._now(),
                consumed=consumed,
            )
        )

    # --- pieces ---------------------------------------------------------------------------------

    def _first_answer(self, row: Row, commit_id: UUID) -> Committed:
        version = row.history[row.commit_ids.index(commit_id)].version
        return Committed(
            version=version,
            fence=row.fences[commit_id],
            signals=row.record.signals,
            held=row.record.version == version,
        )

    def _claimed_before(self, worker: str, claim_id: UUID) -> list[Row]:
        taken = self.data.claims.get((self.namespace, worker), {}).get(claim_id, [])
        rows = (self.data.rows.get((self.namespace, saga_id)) for saga_id in taken)
        return [
            row for row in rows if row and row.claim_id == claim_id and row.record.worker == worker
        ]

    def _remember(self, worker: str, claim_id: UUID, rows: Sequence[Row]) -> None:
        """Keep what a claim took, and forget the claims of this worker that hold nothing now."""
        claims = self.data.claims.setdefault((self.namespace, worker), {})
        claims[claim_id] = [row.record.saga_id for row in rows]
        for known in list(claims):
            if not self._claimed_before(worker, known):
                del claims[known]

    def _held(self, worker: str, held: Sequence[Held]) -> Iterator[Row]:
        for one in held:
            row = self.data.rows.get((self.namespace, one.saga_id))
            if row and row.record.worker == worker and row.record.fence == one.fence:
                yield row

    def _pick(self, limit: int, only: frozenset[Registered], favour: Direction) -> list[Row]:
        def due(lane: Direction) -> list[Row]:
            found: list[Row] = []
            for saga_id in self._agenda.due(lane, self._now()):
                row = self.data.rows[self.namespace, saga_id]
                if _kind(row.record) in only:
                    found.append(row)
                    if len(found) == limit:
                        break
            return found

        favoured, other = due(favour), due(Direction(1 - favour))
        mine = favoured[: max((limit + 1) // 2, limit - len(other))]
        return mine + other[: limit - len(mine)]


def _kind(record: SagaRecord) -> Registered:
    return Registered(record.saga_name, record.definition_version, record.fingerprint)
