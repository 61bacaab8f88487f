"""How the sagas of one namespace lie in the file: keys, values, indexes.

Keys sort as bytes, and a key begins with the namespace and a letter:

    s saga_id                 the saga itself (`Row`)
    h saga_id seq             its history (`Entry`)        c saga_id commit_id  version, fence
    i saga_id seq             its inbox (`StoredSignal`)   e saga_id event      seq
    a aggregate               the id of the active saga that holds it
    q lane kind due saga_id   the queue, one for each lane and kind of saga
    k claim_id saga_id        what a claim holds
    t due saga_id             all times at which something falls due
    o created saga_id         all sagas by creation
    w aggregate created saga_id   those that wait for an aggregate
    z updated saga_id         those that have ended, by their end

Times are microseconds, ids 16 bytes, texts in keys are hashed: LMDB's keys end at 511 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from saga_core.errors import ActiveSagaAlreadyExistsError, SagaNotFoundError, SagaStateError
from saga_core.records import HistoryEntry, NewEntry, Registered, SagaRecord, Signal, StoredSignal
from saga_core.status import Direction
from saga_lmdb.database import Database, Transaction

__all__ = ["Entry", "Handle", "Row", "Table", "id_at_end", "time_at", "time_key"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One saga. Its record's `outputs` are empty: they are read from the history."""

    record: SagaRecord
    entries: int = 0
    """How long the history is."""
    claim_id: UUID | None = None
    """Of the claim under which it is held, if it is held by a claim."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the history, with the commit that wrote it."""

    entry: HistoryEntry
    commit_id: UUID | None


# pydantic knows the records from their annotations: no field of theirs is named here.
_ROW, _ENTRY, _SIGNAL = TypeAdapter(Row), TypeAdapter(Entry), TypeAdapter(StoredSignal)
_ANSWER: TypeAdapter[tuple[int, int]] = TypeAdapter(tuple[int, int])

_BEGIN = datetime(1, 1, 1, tzinfo=UTC)


def time_key(when: datetime) -> bytes:
    return ((when - _BEGIN) // timedelta(microseconds=1)).to_bytes(8, "big")


def time_at(key: bytes) -> datetime:
    """Return the time in a key that ends with a time and an id."""
    return _BEGIN + timedelta(microseconds=int.from_bytes(key[-24:-16], "big"))


def id_at_end(key: bytes) -> UUID:
    return UUID(bytes=key[-16:])


def _hash(*texts: str) -> bytes:
    parts = (text.encode() for text in texts)
    return blake2b(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()[:16]


class Table:
    """The sagas of one namespace as one transaction sees them. Decides nothing."""

    def __init__(self, txn: Transaction, namespace: str) -> None:
        self.txn = txn
        self.now = datetime.now(UTC)
        """The store's clock is the machine's, so all processes of a store share it."""
        self._namespace = namespace.encode() + b"\x00"

    def key(self, letter: str, *parts: bytes) -> bytes:
        return b"".join((self._namespace, letter.encode(), *parts))

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield what begins with a prefix, in the order of keys, from the first above `after`."""
        cursor = self.txn.cursor()
        more = cursor.set_range(prefix + after)
        while more and cursor.key().startswith(prefix):
            if not after or cursor.key() > prefix + after:
                yield cursor.item()
            more = cursor.next()

    # --- the saga itself ------------------------------------------------------------------------

    def find(self, saga_id: UUID) -> Row | None:
        data = self.txn.get(self.key("s", saga_id.bytes))
        return None if data is None else _ROW.validate_json(data)

    def row(self, saga_id: UUID) -> Row:
        found = self.find(saga_id)
        if found is None:
            name = self._namespace[:-1].decode()
            raise SagaNotFoundError(f"no saga {saga_id} in namespace '{name}'", saga_id=saga_id)
        return found

    def read(self, row: Row) -> SagaRecord:
        """Return the record as it leaves the store; `reclaimed` is for answers to claims."""
        entries = (one.entry for one in self.history(row.record.saga_id))
        outputs = tuple(entry for entry in entries if entry.output is not None)
        return replace(row.record, outputs=outputs, now=self.now, reclaimed=False)

    def put(self, row: Row, before: Row | None) -> None:
        """Write a saga and its index keys, or refuse what may not be."""
        record = row.record
        if record.is_stranded:
            raise SagaStateError(
                f"saga {record.saga_id} is {record.state.status}: it needs a time at which it is "
                "due, or something that it waits for",
                saga_id=record.saga_id,
            )
        if record.aggregation_id is not None and record.state.active:
            self._check_aggregate(record.saga_id, record.aggregation_id)
            if before is not None and before.record.state.is_queued:
                self._check_turn(record.saga_id, record.aggregation_id)
        new = self._index(row)
        for key in self._index(before).keys() - new.keys() if before else ():
            self.txn.delete(key)
        for key, value in new.items():
            self.txn.put(key, value)
        self.txn.put(self.key("s", record.saga_id.bytes), _ROW.dump_json(row))

    def queue(self, lane: Direction, kind: Registered) -> bytes:
        names = kind.saga_name, kind.definition_version, kind.fingerprint
        return self.key("q", bytes([lane]), _hash(*names))

    def aggregate(self, aggregation_id: str) -> bytes:
        return self.key("a", _hash(aggregation_id))

    def _index(self, row: Row) -> dict[bytes, bytes]:
        record, tail = row.record, row.record.saga_id.bytes
        keys = {self.key("o", time_key(record.created_at), tail): b""}
        if row.claim_id is not None:
            keys[self.key("k", row.claim_id.bytes, tail)] = b""
        if record.due_at is not None:
            kind = Registered(record.saga_name, record.definition_version, record.fingerprint)
            due = time_key(record.due_at)
            keys[self.queue(record.state.direction, kind) + due + tail] = b""
            keys[self.key("t", due, tail)] = b""
        if record.state.has_ended:
            keys[self.key("z", time_key(record.updated_at), tail)] = b""
        if record.aggregation_id is None:
            return keys
        if record.state.is_queued:
            keys[self.waiting(record.aggregation_id) + time_key(record.created_at) + tail] = b""
        elif record.state.active:
            keys[self.aggregate(record.aggregation_id)] = tail
        return keys

    def call_next(self, before: Row | None, record: SagaRecord) -> None:
        """Look after the queue that a saga is or was in, or whose aggregate it gives up.

        The first in it is due now, unless a saga has the aggregate or somebody holds the first.
        """
        was = None if before is None else before.record.state
        gives_up = was is not None and was.active and not record.state.active
        key = record.aggregation_id
        involved = gives_up or record.state.is_queued or (was is not None and was.is_queued)
        if key is None or not involved or self.txn.get(self.aggregate(key)) is not None:
            return
        first = self._first_in_queue(key)
        row = None if first is None else self.row(first)
        if row is None or row.record.worker is not None:
            return
        if row.record.due_at is None or row.record.due_at > self.now:
            self.put(replace(row, record=replace(row.record, due_at=self.now)), row)

    def waiting(self, aggregation_id: str) -> bytes:
        return self.key("w", _hash(aggregation_id))

    def _first_in_queue(self, aggregation_id: str) -> UUID | None:
        keys = self.scan(self.waiting(aggregation_id))
        return next((id_at_end(key) for key, _ in keys), None)

    def _check_turn(self, saga_id: UUID, aggregation_id: str) -> None:
        first = self._first_in_queue(aggregation_id)
        if first is not None and first != saga_id:
            raise ActiveSagaAlreadyExistsError(
                f"saga {first} is before this one in the queue for {aggregation_id!r}",
                saga_id=first,
            )

    def _check_aggregate(self, saga_id: UUID, aggregation_id: str) -> None:
        holder = self.txn.get(self.aggregate(aggregation_id), saga_id.bytes)
        if holder != saga_id.bytes:
            raise ActiveSagaAlreadyExistsError(
                f"saga {UUID(bytes=holder)} is active with aggregation_id {aggregation_id!r}",
                saga_id=UUID(bytes=holder),
            )

    def delete(self, row: Row) -> None:
        """Delete a saga with all it has."""
        saga_id = row.record.saga_id.bytes
        keys = [self.key("s", saga_id), *self._index(row)]
        keys += [key for letter in "hcie" for key, _ in self.scan(self.key(letter, saga_id))]
        for key in keys:
            self.txn.delete(key)

    # --- what a saga has ------------------------------------------------------------------------

    def history(self, saga_id: UUID, after: int = 0) -> Iterator[Entry]:
        prefix = self.key("h", saga_id.bytes)
        for _, value in self.scan(prefix, after=after.to_bytes(8, "big")):
            yield _ENTRY.validate_json(value)

    def append(self, row: Row, history: Sequence[NewEntry], commit_id: UUID | None) -> Row:
        """Append to the history what the commit to the row's version and fence wrote."""
        record = row.record
        for seq, new in enumerate(history, start=row.entries + 1):
            entry = new.as_entry(seq=seq, version=record.version, at=self.now)
            self.put_entry(record, Entry(entry, commit_id))
        return replace(row, entries=row.entries + len(history))

    def put_entry(self, record: SagaRecord, one: Entry) -> None:
        saga_id, seq = record.saga_id.bytes, one.entry.seq.to_bytes(8, "big")
        self.txn.put(self.key("h", saga_id, seq), _ENTRY.dump_json(one))
        if one.commit_id is not None:
            answer = one.entry.version, record.fence
            self.txn.put(self.key("c", saga_id, one.commit_id.bytes), _ANSWER.dump_json(answer))

    def answer(self, saga_id: UUID, commit_id: UUID) -> tuple[int, int] | None:
        """Return the version and the fence that a commit made, if it was applied."""
        data = self.txn.get(self.key("c", saga_id.bytes, commit_id.bytes))
        return None if data is None else _ANSWER.validate_json(data)

    def inbox(self, saga_id: UUID, after: int = 0) -> Iterator[StoredSignal]:
        prefix = self.key("i", saga_id.bytes)
        for _, value in self.scan(prefix, after=after.to_bytes(8, "big")):
            yield _SIGNAL.validate_json(value)

    def knows(self, saga_id: UUID, event_id: str) -> bool:
        return self.txn.get(self.key("e", saga_id.bytes, _hash(event_id))) is not None

    def put_signal(self, saga_id: UUID, signal: StoredSignal) -> None:
        seq = signal.seq.to_bytes(8, "big")
        self.txn.put(self.key("i", saga_id.bytes, seq), _SIGNAL.dump_json(signal))
        self.txn.put(self.key("e", saga_id.bytes, _hash(signal.event_id)), seq)

    def hear(self, saga_id: UUID, signal: Signal, seq: int) -> None:
        """Append to the inbox. Raises `SagaStateError` for an event id that is there already."""
        if self.knows(saga_id, signal.event_id):
            raise SagaStateError(
                f"saga {saga_id} has an event with the id {signal.event_id!r} already",
                saga_id=saga_id,
            )
        self.put_signal(saga_id, signal.as_stored(seq=seq, at=self.now))

    def consume(self, saga_id: UUID, event_id: str) -> None:
        seq = self.txn.get(self.key("e", saga_id.bytes, _hash(event_id)))
        data = None if seq is None else self.txn.get(self.key("i", saga_id.bytes, seq))
        if data is not None:
            self.put_signal(saga_id, replace(_SIGNAL.validate_json(data), consumed=True))


class Handle:
    """What the parts of the store have in common: the file and the namespace."""

    def __init__(self, database: Database, namespace: str) -> None:
        self.namespace = namespace
        self._database = database

    async def _write(self, work: Callable[[Table], T]) -> T:
        return await self._database.write(lambda txn: work(Table(txn, self.namespace)))

    async def _read(self, work: Callable[[Table], T]) -> T:
        return await self._database.read(lambda txn: work(Table(txn, self.namespace)))
