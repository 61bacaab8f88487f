"""`MemoryStore`: sagas in this process's memory, under the same contract as on a server.

Not a mock: it passes the conformance suite, and refuses what a real schema would refuse. Nothing
in it awaits between reading and writing, so each call is atomic within its event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    PayloadError,
    SagaNotFoundError,
    SagaStateError,
    StaleVersionError,
    StoreUrlError,
)
from saga_core.hookspecs import BackendSpec, Capability, StoreOptions, hookimpl
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
    Page,
    Query,
    Receipt,
    Registered,
    SagaExport,
    SagaRecord,
    SagaState,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_core.status import Direction, SagaStatus
from saga_core.store import CONTRACT_VERSION
from saga_testing.agenda import Agenda
from saga_testing.clock import Clock, SystemClock

__all__ = ["MemoryData", "MemoryStore"]

_ENTRY_FIELDS = tuple(entry.name for entry in fields(NewEntry))


@dataclass(slots=True)
class _Row:
    """One saga with all it has."""

    record: SagaRecord
    claim_id: UUID | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    commit_ids: list[UUID | None] = field(default_factory=list)
    fences: dict[UUID, int] = field(default_factory=dict)
    inbox: list[StoredSignal] = field(default_factory=list)


class MemoryData:
    """What stores in one process share, by namespace."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, UUID], _Row] = {}
        self.aggregates: dict[tuple[str, str], UUID] = {}
        self.agendas: dict[str, Agenda] = {}
        self.listeners: dict[str, set[asyncio.Event]] = {}
        self.claims: dict[tuple[str, str], tuple[UUID, list[UUID]]] = {}
        """By namespace and worker, the last claim: the only one that can be repeated."""


class MemoryStore:
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
        return Created(record=self._read(self._insert(new)), created=True)

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
        self._check_transition(row, transition, after)
        self._apply(row, transition, after)
        for new in transition.spawn:
            self._insert(new)
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
            taken = [row.record.saga_id for row in rows]
            self.data.claims[self.namespace, worker] = (claim_id, taken)
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
        if not record.state.active:
            return Receipt(accepted=False, duplicate=False, held=is_held)
        if any(known.event_id == signal.event_id for known in row.inbox):
            return Receipt(accepted=True, duplicate=True, held=is_held)
        self._append_signal(row, signal, consumed=False)
        due_at = record.due_at
        waits = record.due_at is not None or record.state.waiting_for is not None
        if not is_held and waits:
            due_at = self._now()
        self._store(row, replace(record, signals=record.signals + 1, due_at=due_at))
        if not is_held and waits:
            self._wake()
        return Receipt(accepted=True, duplicate=False, held=is_held)

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""
        row = self.data.rows.get((self.namespace, saga_id))
        return [] if row is None else row.inbox[after:]

    # --- the catalog ----------------------------------------------------------------------------

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`."""
        now = self._now()
        matching = sorted(
            (row.record for row in self._rows() if _matches(row.record, query, now)), key=_place
        )
        if query.cursor is not None:
            place = _read_cursor(query.cursor)
            matching = [record for record in matching if _place(record) > place]
        page = tuple(
            replace(record, now=now, outputs=(), reclaimed=False)
            for record in matching[: query.limit]
        )
        more = len(matching) > query.limit
        return Page(records=page, cursor=_cursor(page[-1]) if more and page else None)

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`."""
        now = self._now()
        return sum(_matches(row.record, query, now) for row in self._rows())

    async def purge(self, *, finished_for: timedelta, limit: int) -> int:
        """Delete ended sagas with all they have; see `Catalog.purge`."""
        until = self._now() - finished_for
        ended = [
            row.record
            for row in self._rows()
            if not row.record.state.active and row.record.updated_at <= until
        ]
        gone = sorted(ended, key=lambda record: record.updated_at)[:limit]
        for record in gone:
            del self.data.rows[self.namespace, record.saga_id]
        return len(gone)

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga; see `Catalog.export`."""
        row = self._row(saga_id)
        return SagaExport(
            record=self._read(row),
            history=tuple(row.history),
            commit_ids=tuple(row.commit_ids),
            inbox=tuple(row.inbox),
        )

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was; see `Catalog.restore`."""
        record = export.record
        if (self.namespace, record.saga_id) in self.data.rows:
            raise SagaStateError(
                f"saga {record.saga_id} exists already in namespace '{self.namespace}'",
                saga_id=record.saga_id,
            )
        self._check_state(record.state, record.due_at)
        self._check_aggregate(record.saga_id, record.state, record.aggregation_id)
        row = _Row(replace(record, outputs=()))
        row.history = list(export.history)
        row.commit_ids = list(export.commit_ids)
        row.fences = {one: record.fence for one in export.commit_ids if one is not None}
        row.inbox = list(export.inbox)
        self.data.rows[self.namespace, record.saga_id] = row
        self._store(row, row.record)

    # --- how a row changes ----------------------------------------------------------------------

    def _insert(self, new: NewSaga) -> _Row:
        now = self._now()
        lease = new.lease
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
            fence=0 if lease is None else 1,
            worker=None if lease is None else lease.worker,
            due_at=self._due_at(new.due) if lease is None else now + lease.duration,
            signals=0,
            seen=0,
            reclaims=0,
            reclaimed=False,
            outputs=(),
            created_at=now,
            updated_at=now,
            now=now,
        )
        row = _Row(record)
        self.data.rows[self.namespace, new.saga_id] = row
        self._append_history(row, new.history, version=1, commit_id=None)
        self._store(row, record)
        if lease is None and record.due_at is not None and record.due_at <= self._now():
            self._wake()
        return row

    def _after(self, before: SagaRecord, transition: Transition) -> SagaRecord:
        now = self._now()
        arrived = len(transition.signals_in)
        after = replace(
            before,
            state=transition.state,
            version=before.version + 1,
            reclaims=0,
            signals=before.signals + arrived,
            seen=transition.seen + arrived,
            tags=before.tags if transition.tags is None else transition.tags,
            updated_at=now,
        )
        lease = transition.lease
        if lease is LeaseAction.KEEP:
            return after
        if isinstance(lease, Lease):
            return replace(
                after,
                worker=lease.worker,
                fence=before.fence + (lease.worker != before.worker),
                due_at=now + lease.duration,
                reclaimed=False,
            )
        due_at = self._due_at(transition.due)
        if after.state.active and after.signals > after.seen:
            due_at = now
        return replace(after, worker=None, reclaimed=False, due_at=due_at)

    def _apply(self, row: _Row, transition: Transition, after: SagaRecord) -> None:
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

    def _claim(self, row: _Row, worker: str, claim_id: UUID, lease: timedelta) -> None:
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

    def _store(self, row: _Row, record: SagaRecord) -> None:
        """Put a record into its row and into the indexes."""
        before = row.record
        row.record = record
        key = record.aggregation_id
        if key is not None:
            if record.state.active:
                self.data.aggregates[self.namespace, key] = record.saga_id
            elif before.state.active and record is not before:
                self.data.aggregates.pop((self.namespace, key), None)
        self._agenda.put(record.saga_id, record.due_at, record.state.direction)

    def _append_history(
        self, row: _Row, entries: Sequence[NewEntry], *, version: int, commit_id: UUID | None
    ) -> None:
        now = self._now()
        for entry in entries:
            values = {name: getattr(entry, name) for name in _ENTRY_FIELDS}
            seq = len(row.history) + 1
            row.history.append(HistoryEntry(seq=seq, version=version, at=now, **values))
            row.commit_ids.append(commit_id)

    def _append_signal(self, row: _Row, signal: Signal, *, consumed: bool) -> None:
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

    # --- what is refused ------------------------------------------------------------------------

    def _check_new(self, new: NewSaga) -> None:
        self._check_aggregate(new.saga_id, new.state, new.aggregation_id)
        leased = new.lease is not None
        self._check_state(new.state, self._now() if leased else self._due_at(new.due))
        for text in (new.saga_name, new.aggregation_id, new.trace_id, new.data, *new.tags):
            if text is not None and "\x00" in text:
                raise PayloadError("text with a NUL character cannot be stored")

    def _check_version(self, before: SagaRecord, transition: Transition) -> None:
        if before.version != transition.expected_version:
            raise StaleVersionError(
                f"saga {before.saga_id} is at version {before.version}, not at "
                f"{transition.expected_version}",
                saga_id=before.saga_id,
            )

    def _check_transition(self, row: _Row, transition: Transition, after: SagaRecord) -> None:
        known = {signal.event_id for signal in row.inbox}
        for signal in transition.signals_in:
            if signal.event_id in known:
                raise SagaStateError(
                    f"saga {after.saga_id} has an event with the id {signal.event_id!r} already",
                    saga_id=after.saga_id,
                )
            known.add(signal.event_id)
        self._check_state(after.state, after.due_at)
        self._check_aggregate(after.saga_id, after.state, after.aggregation_id)
        for new in transition.spawn:
            self._check_new(new)

    def _check_state(self, state: SagaState, due_at: datetime | None) -> None:
        rests = not state.active or state.status is SagaStatus.STUCK
        if not rests and due_at is None and state.waiting_for is None:
            raise SagaStateError(
                f"a saga that is {state.status} needs a time at which it is due, or something "
                "that it waits for"
            )

    def _check_aggregate(self, saga_id: UUID, state: SagaState, aggregation_id: str | None) -> None:
        if not state.active or aggregation_id is None:
            return
        holder = self.data.aggregates.get((self.namespace, aggregation_id))
        if holder is not None and holder != saga_id:
            raise ActiveSagaAlreadyExistsError(
                f"saga {holder} is active with aggregation_id {aggregation_id!r}: wait for its "
                "end, or look why it does not end",
                saga_id=holder,
            )

    # --- pieces ---------------------------------------------------------------------------------

    @property
    def _agenda(self) -> Agenda:
        return self.data.agendas.setdefault(self.namespace, Agenda())

    def _now(self) -> datetime:
        return self.clock.now()

    def _rows(self) -> Iterator[_Row]:
        for (namespace, _), row in self.data.rows.items():
            if namespace == self.namespace:
                yield row

    def _row(self, saga_id: UUID) -> _Row:
        row = self.data.rows.get((self.namespace, saga_id))
        if row is None:
            raise SagaNotFoundError(
                f"no saga {saga_id} in namespace '{self.namespace}' of this memory store",
                saga_id=saga_id,
            )
        return row

    def _read(self, row: _Row, *, reclaimed: bool = False) -> SagaRecord:
        outputs = tuple(entry for entry in row.history if entry.output is not None)
        return replace(row.record, outputs=outputs, now=self._now(), reclaimed=reclaimed)

    def _first_answer(self, row: _Row, commit_id: UUID) -> Committed:
        version = row.history[row.commit_ids.index(commit_id)].version
        return Committed(
            version=version,
            fence=row.fences[commit_id],
            signals=row.record.signals,
            held=row.record.version == version,
        )

    def _claimed_before(self, worker: str, claim_id: UUID) -> list[_Row]:
        known, taken = self.data.claims.get((self.namespace, worker), (None, []))
        if known != claim_id:
            return []
        rows = (self.data.rows.get((self.namespace, saga_id)) for saga_id in taken)
        return [
            row for row in rows if row and row.claim_id == claim_id and row.record.worker == worker
        ]

    def _held(self, worker: str, held: Sequence[Held]) -> Iterator[_Row]:
        for one in held:
            row = self.data.rows.get((self.namespace, one.saga_id))
            if row and row.record.worker == worker and row.record.fence == one.fence:
                yield row

    def _pick(self, limit: int, only: frozenset[Registered], favour: Direction) -> list[_Row]:
        def due(lane: Direction) -> list[_Row]:
            found: list[_Row] = []
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

    def _due_at(self, due: Due | None) -> datetime | None:
        if due is None:
            return None
        times = [] if due.at is None else [due.at]
        if due.delay is not None:
            times.append(self._now() + due.delay)
        return min(times)

    def _wake(self) -> None:
        for heard in self.data.listeners.get(self.namespace, ()):
            heard.set()


def _kind(record: SagaRecord) -> Registered:
    return Registered(record.saga_name, record.definition_version, record.fingerprint)


def _place(record: SagaRecord) -> tuple[datetime, UUID]:
    return record.created_at, record.saga_id


def _cursor(record: SagaRecord) -> str:
    return json.dumps([record.created_at.isoformat(), str(record.saga_id)])


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, saga_id = json.loads(cursor)
        return datetime.fromisoformat(created_at), UUID(saga_id)
    except (ValueError, TypeError):
        raise PayloadError("the cursor is not one that an earlier page gave") from None


def _matches(record: SagaRecord, query: Query, now: datetime) -> bool:
    wanted: tuple[tuple[Any, Any], ...] = (
        (query.saga_name, record.saga_name),
        (query.definition_version, record.definition_version),
        (query.aggregation_id, record.aggregation_id),
        (query.error_code, record.state.error_code),
    )
    return (
        all(value is None or value == found for value, found in wanted)
        and (not query.statuses or record.state.status in query.statuses)
        and (query.tag is None or query.tag in record.tags)
        and (query.created_after is None or record.created_at > query.created_after)
        and (query.created_before is None or record.created_at < query.created_before)
        and (
            query.overdue_by is None
            or (record.due_at is not None and record.due_at <= now - query.overdue_by)
        )
    )


# --- the backend --------------------------------------------------------------------------------

_shared: dict[str, tuple[MemoryData, int]] = {}


@asynccontextmanager
async def open_memory(
    url: str, *, create_schema: bool | None, options: StoreOptions
) -> AsyncIterator[MemoryStore]:
    """Give `memory://` a store of its own, and `memory://name` one shared within the process.

    Shared sagas live as long as at least one store of that name is open.
    """
    name = url.partition("://")[2].strip("/")
    if not all(character.isalnum() or character in "_-" for character in name):
        raise StoreUrlError("memory://NAME takes letters, digits, '_' and '-' only")
    if not name:
        yield MemoryStore(options.namespace)
        return
    data, users = _shared.get(name, (MemoryData(), 0))
    _shared[name] = (data, users + 1)
    try:
        yield MemoryStore(options.namespace, data=data)
    finally:
        data, users = _shared[name]
        if users == 1:
            del _shared[name]
        else:
            _shared[name] = (data, users - 1)


@hookimpl
def saga_backend() -> BackendSpec:
    """Describe this backend."""
    return BackendSpec(
        name="memory",
        summary="this process's memory, for tests",
        open=open_memory,
        capabilities=frozenset({Capability.WAKEUP}),
    )
