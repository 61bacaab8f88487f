"""Bugs to be planted in `MemoryStore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core.records import (
    Claims,
    Committed,
    Created,
    Held,
    NewEntry,
    NewSaga,
    Receipt,
    SagaRecord,
    Signal,
    Transition,
)
from saga_core.status import Direction, EntryKind
from saga_testing import MemoryStore
from saga_testing.memory.agenda import Agenda
from saga_testing.memory.table import Row
from tests.campaign.bug import Patch, bug


@bug("a stale commit was applied")
def commit_without_compare_and_set(patch: Patch) -> None:
    patch.setattr(MemoryStore, "_check_version", lambda *_: None)


@bug("lost from the history: retrying")
def history_row_lost(patch: Patch) -> None:
    append = MemoryStore._append_history

    def lossy(self: MemoryStore, row: Row, entries: Sequence[NewEntry], **more: Any) -> None:
        append(self, row, [one for one in entries if one.kind is not EntryKind.RETRYING], **more)

    patch.setattr(MemoryStore, "_append_history", lossy)


@bug("a commit that was applied was refused as stale when it was repeated")
def commit_id_forgotten(patch: Patch) -> None:
    commit = MemoryStore.commit

    async def forgetful(self: MemoryStore, change: Transition) -> Committed:
        return await commit(self, replace(change, commit_id=uuid4()))

    patch.setattr(MemoryStore, "commit", forgetful)


@bug("a repeated commit got another answer")
def repeated_commit_applied_again(patch: Patch) -> None:
    commit = MemoryStore.commit

    async def eager(self: MemoryStore, change: Transition) -> Committed:
        row = self._row(change.saga_id)
        if change.commit_id in row.commit_ids:
            version = row.record.version
            change = replace(change, commit_id=uuid4(), expected_version=version)
        return await commit(self, change)

    patch.setattr(MemoryStore, "commit", eager)


@bug("claimed before the lease of another had ended")
def claim_ignores_leases(patch: Patch) -> None:
    due = Agenda.due

    def hasty(self: Agenda, lane: Direction, now: datetime) -> Iterator[UUID]:
        return due(self, lane, now + timedelta(minutes=30))

    patch.setattr(Agenda, "due", hasty)


@bug("claimed before the saga was due")
def claim_ignores_delays(patch: Patch) -> None:
    due = Agenda.due

    def hasty(self: Agenda, lane: Direction, now: datetime) -> Iterator[UUID]:
        return due(self, lane, now + timedelta(hours=1, minutes=5))

    patch.setattr(Agenda, "due", hasty)


@bug("the store gives fence")
def fence_not_raised_by_a_claim(patch: Patch) -> None:
    _alter_claims(patch, lambda before, after: replace(after, fence=max(before.fence, 1)))


@bug("the store gives version")
def version_not_raised_by_a_claim(patch: Patch) -> None:
    _alter_claims(patch, lambda before, after: replace(after, version=before.version))


def _alter_claims(patch: Patch, alter: Callable[[SagaRecord, SagaRecord], SagaRecord]) -> None:
    claim = MemoryStore._claim

    def altered(self: MemoryStore, row: Row, *more: Any) -> None:
        before = row.record
        claim(self, row, *more)
        self._store(row, alter(before, row.record))

    patch.setattr(MemoryStore, "_claim", altered)


@bug("the store gives reclaims")
def lost_drivers_not_counted(patch: Patch) -> None:
    _alter_claims(patch, lambda before, after: replace(after, reclaims=before.reclaims))


@bug("claim_due did not find the saga although it was due")
def claim_id_forgotten(patch: Patch) -> None:
    patch.setattr(MemoryStore, "_claimed_before", lambda *_: [])


@bug("the store gives outputs")
def output_lost_on_takeover(patch: Patch) -> None:
    claim_due = MemoryStore.claim_due

    async def lossy(self: MemoryStore, worker: str, **more: Any) -> Claims:
        claims = await claim_due(self, worker, **more)
        records = (
            replace(each, outputs=each.outputs[:-1]) if each.reclaimed else each
            for each in claims.records
        )
        return replace(claims, records=tuple(records))

    patch.setattr(MemoryStore, "claim_due", lossy)


@bug(r"renew answered \{UUID")
def renewal_ignores_the_fence(patch: Patch) -> None:
    async def renew(
        self: MemoryStore, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int]:
        rows = [self._row(each.saga_id) for each in held]
        for row in rows:
            self._store(row, replace(row.record, due_at=self._now() + lease))
        return {row.record.saga_id: row.record.signals for row in rows}

    patch.setattr(MemoryStore, "renew", renew)


@bug("claimed before the lease of another had ended|the store gives worker")
def release_by_a_former_holder(patch: Patch) -> None:
    def held(self: MemoryStore, _: str, held: Sequence[Held]) -> Iterator[Row]:
        for each in held:
            row = self._row(each.saga_id)
            if row.record.worker is not None:
                yield row

    release = MemoryStore.release

    async def generous(self: MemoryStore, *args: Any, **more: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(MemoryStore, "_held", held)
            await release(self, *args, **more)

    patch.setattr(MemoryStore, "release", generous)


@bug("the store gives signals")
def signal_not_counted(patch: Patch) -> None:
    signal = MemoryStore.signal

    async def silent(self: MemoryStore, saga_id: UUID, sent: Signal) -> Receipt:
        before = self._row(saga_id).record
        receipt = await signal(self, saga_id, sent)
        row = self._row(saga_id)
        self._store(row, replace(row.record, signals=before.signals))
        return receipt

    patch.setattr(MemoryStore, "signal", silent)


@bug("the inbox after 0 holds")
def signal_not_marked_as_consumed(patch: Patch) -> None:
    commit = MemoryStore.commit

    async def forgetful(self: MemoryStore, change: Transition) -> Committed:
        return await commit(self, replace(change, consumed=()))

    patch.setattr(MemoryStore, "commit", forgetful)


@bug("the store gives due_at is None True|did not find the saga although it was due")
def waiting_saga_never_due(patch: Patch) -> None:
    put = Agenda.put

    def lossy(self: Agenda, saga_id: UUID, due_at: datetime | None, lane: Direction) -> None:
        rollback = lane is Direction.ROLLBACK
        put(self, saga_id, None if rollback else due_at, lane)

    patch.setattr(Agenda, "put", lossy)


@bug("a commit was answered with")
def commit_answers_an_old_version(patch: Patch) -> None:
    commit = MemoryStore.commit

    async def behind(self: MemoryStore, change: Transition) -> Committed:
        answer = await commit(self, change)
        return replace(answer, version=change.expected_version)

    patch.setattr(MemoryStore, "commit", behind)


@bug("create answered created=True")
def repeated_create_begins_anew(patch: Patch) -> None:
    create = MemoryStore.create

    async def anew(self: MemoryStore, new: NewSaga) -> Created:
        self.data.rows.pop((self.namespace, new.saga_id), None)
        return await create(self, new)

    patch.setattr(MemoryStore, "create", anew)
