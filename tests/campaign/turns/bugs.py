"""Bugs to be planted in what keeps the queue of an aggregate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from saga_core import ActiveSagaAlreadyExistsError, beginning, orchestrator
from saga_core.records import Created, NewSaga, SagaRecord, SagaState
from saga_testing import MemoryStore
from saga_testing.memory.refusals import MemoryRefusals
from saga_testing.memory.table import MemoryTable, Row
from tests.campaign.bug import Bug, Patch, Plant

__all__ = ["TURN_BUGS"]

HOUR = timedelta(hours=1)

TURN_BUGS: list[Bug] = []


def _bug(plant: Plant, verdict: str) -> None:
    TURN_BUGS.append(Bug(plant.__name__, plant, verdict))


def _waiting(store: MemoryTable, key: str | None) -> list[Row]:
    queue = () if key is None else store.data.queues.get((store.namespace, key), ())
    rows = [store.data.rows[store.namespace, saga_id] for saga_id in queue]
    return sorted(rows, key=lambda row: (row.record.created_at, row.record.saga_id))


def _wake(store: MemoryTable, rows: Sequence[Row]) -> None:
    for row in rows:
        if row.record.worker is None:
            store._store(row, replace(row.record, due_at=store._now()))


def freed_aggregate_calls_the_newest(patch: Patch) -> None:
    def call(self: MemoryTable, key: str | None) -> None:
        if (self.namespace, key) not in self.data.aggregates:
            _wake(self, _waiting(self, key)[-1:])

    patch.setattr(MemoryTable, "_call_next", call)


def freed_aggregate_calls_two(patch: Patch) -> None:
    def call(self: MemoryTable, key: str | None) -> None:
        if (self.namespace, key) not in self.data.aggregates:
            _wake(self, _waiting(self, key)[:2])

    patch.setattr(MemoryTable, "_call_next", call)


def freed_aggregate_calls_nobody(patch: Patch) -> None:
    patch.setattr(MemoryTable, "_call_next", lambda *_: None)


def freed_aggregate_calls_an_hour_later(patch: Patch) -> None:
    call = MemoryTable._call_next

    def late(self: MemoryTable, key: str | None) -> None:
        rows = _waiting(self, key)
        call(self, key)
        if rows and rows[0].record.worker is None and rows[0].record.due_at is not None:
            first = rows[0]
            self._store(first, replace(first.record, due_at=self._now() + HOUR))

    patch.setattr(MemoryTable, "_call_next", late)


def younger_takes_the_aggregate_first(patch: Patch) -> None:
    patch.setattr(MemoryRefusals, "_check_turn", lambda *_: None)


def aggregate_is_taken_twice(patch: Patch) -> None:
    patch.setattr(MemoryRefusals, "_check_aggregate", lambda *_, **__: None)


def cancelled_waiter_keeps_its_place(patch: Patch) -> None:
    line_up = MemoryTable._line_up

    def sticky(self: MemoryTable, key: str, record: SagaRecord) -> None:
        known = self.data.queues.get((self.namespace, key), set())
        if record.saga_id not in known or record.state.active:
            line_up(self, key, record)

    patch.setattr(MemoryTable, "_line_up", sticky)


def cancelled_waiter_calls_nobody(patch: Patch) -> None:
    follow = MemoryStore._follow_up

    def deaf(self: MemoryStore, row: Row, *, active: bool = False, queued: bool = False) -> None:
        if not (queued and row.record.state.has_ended):
            follow(self, row, active=active, queued=queued)

    patch.setattr(MemoryStore, "_follow_up", deaf)


def abort_keeps_the_aggregate(patch: Patch) -> None:
    store = MemoryTable._store

    def keeping(self: MemoryTable, row: Row, record: SagaRecord) -> None:
        before = row.record
        store(self, row, record)
        now, key = row.record, row.record.aggregation_id
        if before.state.active and now.state.status == "FAILED" and key is not None:
            self.data.aggregates[self.namespace, key] = now.saga_id

    patch.setattr(MemoryTable, "_store", keeping)


def conflict_names_the_newest_in_the_queue(patch: Patch) -> None:
    create = MemoryStore.create

    async def naming(self: MemoryStore, new: NewSaga) -> Created:
        try:
            return await create(self, new)
        except ActiveSagaAlreadyExistsError as taken:
            for row in _waiting(self, new.aggregation_id)[-1:]:
                taken.saga_id = row.record.saga_id
            raise

    patch.setattr(MemoryStore, "create", naming)


def return_gives_the_id_that_was_asked_for(patch: Patch) -> None:
    instead = orchestrator._instead
    asked: list[UUID] = []
    create = MemoryStore.create

    async def noting(self: MemoryStore, new: NewSaga) -> Created:
        asked.append(new.saga_id)
        return await create(self, new)

    def mistaken(taken: ActiveSagaAlreadyExistsError, on_conflict: str) -> UUID:
        instead(taken, on_conflict)
        return asked[-1]

    patch.setattr(MemoryStore, "create", noting)
    patch.setattr(orchestrator, "_instead", mistaken)


def conflict_is_returned_to_all(patch: Patch) -> None:
    instead = orchestrator._instead
    patch.setattr(orchestrator, "_instead", lambda taken, _: instead(taken, "return"))


def refused_start_is_written(patch: Patch) -> None:
    check = MemoryStore._check_new

    def written(self: MemoryStore, new: NewSaga) -> None:
        try:
            check(self, new)
        except ActiveSagaAlreadyExistsError:
            state = replace(new.state, active=False)
            self._insert(replace(new, state=state))
            raise

    patch.setattr(MemoryStore, "_check_new", written)


def queued_saga_is_created_active(patch: Patch) -> None:
    def hasty(state: SagaState) -> SagaState:
        return state

    patch.setattr(beginning, "queued", hasty)


def waiter_is_refused_where_others_wait(patch: Patch) -> None:
    create = MemoryStore.create

    async def refusing(self: MemoryStore, new: NewSaga) -> Created:
        known = (self.namespace, new.saga_id) in self.data.rows
        for row in _waiting(self, new.aggregation_id)[:1]:
            if new.state.active and not known:
                raise ActiveSagaAlreadyExistsError("planted", saga_id=row.record.saga_id)
        return await create(self, new)

    patch.setattr(MemoryStore, "create", refusing)


_bug(freed_aggregate_calls_the_newest, "the first, is not due")
_bug(freed_aggregate_calls_two, "is due, and it is not its turn")
_bug(freed_aggregate_calls_nobody, "the first, is not due")
_bug(freed_aggregate_calls_an_hour_later, "the first, is not due")
_bug(younger_takes_the_aggregate_first, "took the aggregate before saga")
_bug(aggregate_is_taken_twice, "are active at one time")
_bug(
    cancelled_waiter_keeps_its_place, "the first, is not due|was refused an aggregate that was free"
)
_bug(cancelled_waiter_calls_nobody, "the first, is not due")
_bug(abort_keeps_the_aggregate, "was refused an aggregate that was free|the first, is not due")
_bug(conflict_names_the_newest_in_the_queue, "was told that saga . has the aggregate")
_bug(return_gives_the_id_that_was_asked_for, "returned its id, and it was never written")
_bug(conflict_is_returned_to_all, "the start of saga . returned saga")
_bug(refused_start_is_written, "is in the store, and nobody wrote it")
_bug(queued_saga_is_created_active, "started with queue, was created RUNNING")
_bug(waiter_is_refused_where_others_wait, "was refused an aggregate that was free")
