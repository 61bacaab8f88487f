"""`copy_sagas` moves everything, from every store to every store, and says what it could not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from saga_core import (
    CopyConflictError,
    CopyReport,
    SagaStateError,
    SagaStore,
    StoreUnavailableError,
    copy_sagas,
    copying,
)
from saga_core.comparing import difference
from saga_core.records import Held, SagaExport
from saga_testing import Fault, FaultyStore, MemoryStore
from saga_testing.conformance.sagas import commit_of, ended, event, leased, new_saga
from saga_testing.conformance.waiters import queued

from .conftest import KINDS, OpenEmpty
from .lives import exports, live, moved_on

PAIRS = [(source, target) for source in KINDS for target in KINDS]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGE", 2)


async def same(source: SagaStore, target: SagaStore, ids: list[UUID]) -> bool:
    pairs = zip(await exports(target, ids), await exports(source, ids), strict=True)
    return [difference(copy, original) for copy, original in pairs] == [None] * len(ids)


@pytest.mark.parametrize(("source", "target"), PAIRS)
async def test_every_saga_is_the_same_in_the_other_store(
    empty: OpenEmpty, source: str, target: str
) -> None:
    old, new = await empty(source), await empty(target)
    ids = await live(old, held=True)
    before = await exports(old, ids)
    seen: list[tuple[int, int]] = []

    report = await copy_sagas(old, new, progress=lambda *at: seen.append(at), allow_held=True)

    assert report == CopyReport(copied=7, held=1)
    assert seen == [(done, 7) for done in range(8)]
    assert await same(old, new, ids)
    after = await exports(old, ids)
    assert [difference(*both) for both in zip(before, after, strict=True)] == [None] * 7
    assert await copy_sagas(old, new, allow_held=True) == CopyReport(already_there=7)


@pytest.mark.parametrize("target", KINDS)
async def test_commit_repeated_at_the_target_gets_the_first_answer(
    empty: OpenEmpty, target: str
) -> None:
    old, new = MemoryStore(), await empty(target)
    record = (await old.create(leased())).record
    transition = commit_of(record)
    first = await old.commit(transition)
    await copy_sagas(old, new, allow_held=True)

    assert await new.commit(transition) == first


# --- a run that breaks off ------------------------------------------------------------------------


async def _calls_of_a_run() -> list[tuple[str, str, int]]:
    old, new = FaultyStore(MemoryStore()), FaultyStore(MemoryStore())
    await live(old.inner)
    await copy_sagas(old, new)
    return [
        (side, call.method, call.ordinal)
        for side, store in (("source", old), ("target", new))
        for call in store.calls
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_run_that_broke_off_at_any_call_is_finished_by_the_next(
    empty: OpenEmpty, kind: str, fault: Fault
) -> None:
    calls = await _calls_of_a_run()
    every = 4  # no multiple of the three calls per saga
    if fault is Fault.AFTER:
        # The first look for each saga answers that it is unknown: an error, which cannot be lost.
        calls = [call for call in calls if call[:2] != ("target", "export") or call[2] % 2 == 0]
        every = 3  # of two calls per saga
    assert len(calls) > 20
    if kind == "memory":
        every = 1
    for side, method, ordinal in calls[::every]:
        old, new = MemoryStore(), await empty(kind)
        ids = await live(old)
        stores = {"source": FaultyStore(old), "target": FaultyStore(new)}
        stores[side].fail(method, ordinal, fault)

        with pytest.raises(StoreUnavailableError):
            await copy_sagas(stores["source"], stores["target"])
        report = await copy_sagas(stores["source"], stores["target"])

        assert report.copied + report.already_there == report.total == len(ids)
        assert await same(old, new, ids), (side, method, ordinal)


async def test_lost_store_names_the_saga_it_was_lost_with() -> None:
    old, new = MemoryStore(), FaultyStore(MemoryStore())
    ids = await live(old)
    new.fail("restore", 2, Fault.BEFORE)

    with pytest.raises(StoreUnavailableError) as lost:
        await copy_sagas(old, new)

    assert lost.value.saga_id == ids[1]


async def test_saga_that_another_run_has_just_written_is_no_conflict() -> None:
    old, new = MemoryStore(), FaultyStore(MemoryStore())
    ids = await live(old)

    async def other_run() -> None:
        await copy_sagas(old, new.inner)

    new.between("restore", 1, other_run)

    report = await copy_sagas(old, new)

    assert report.conflicts == 0
    assert await same(old, new, ids)


# --- what is refused ------------------------------------------------------------------------------


async def test_sagas_being_driven_are_refused_before_anything_is_written() -> None:
    old, new = MemoryStore(), FaultyStore(MemoryStore())
    ids = await live(old, held=True)

    with pytest.raises(SagaStateError, match=r"1 sagas are being driven .* by worker-alive") as no:
        await copy_sagas(old, new)

    assert no.value.saga_id == ids[-1]
    assert new.calls == []


async def test_saga_that_somebody_begins_to_drive_during_the_run_is_refused() -> None:
    old, new = FaultyStore(MemoryStore()), MemoryStore()
    ids = await live(old.inner)

    async def begin() -> None:
        await old.inner.create(leased("late-worker"))

    old.between("export", 2, begin)

    with pytest.raises(CopyConflictError, match="is being driven by late-worker") as refused:
        await copy_sagas(old, new)

    assert refused.value.report.copied == len(ids)


@pytest.mark.parametrize("kind", KINDS)
async def test_saga_that_changed_at_the_source_is_not_overwritten_but_named(
    empty: OpenEmpty, kind: str
) -> None:
    old, new = await empty(kind), await empty(kind)
    ids = await live(old)
    await copy_sagas(old, new)
    (copy,) = await exports(new, ids[2:3])
    await moved_on(old, ids[2])

    with pytest.raises(CopyConflictError, match="changed at the source") as refused:
        await copy_sagas(old, new)

    report = refused.value.report
    assert refused.value.saga_id == ids[2]
    assert report.reasons[0][0] == ids[2]
    assert (report.conflicts, report.already_there) == (1, 5)
    assert difference(copy, await new.export(ids[2])) is None


async def test_signal_sent_to_the_source_too_late_is_a_conflict() -> None:
    old, new = MemoryStore(), MemoryStore()
    ids = await live(old)
    await copy_sagas(old, new)
    await old.signal(ids[0], event("too-late"))

    with pytest.raises(CopyConflictError, match="differs in"):
        await copy_sagas(old, new)


@pytest.mark.parametrize("kind", KINDS)
async def test_saga_driven_on_at_the_target_is_left_alone(empty: OpenEmpty, kind: str) -> None:
    old, new = await empty(kind), await empty(kind)
    ids = await live(old)
    await copy_sagas(old, new)
    await moved_on(new, ids[2])
    await new.signal(ids[1], event("sent-to-the-target"))

    report = await copy_sagas(old, new)

    assert report == CopyReport(already_there=4, moved_on=2)


async def test_lease_given_back_at_the_source_is_no_change() -> None:
    old, new = MemoryStore(), MemoryStore()
    record = (await old.create(leased("me"))).record
    await copy_sagas(old, new, allow_held=True)
    await old.release("me", [Held(record.saga_id, record.fence)], delay=timedelta(0))

    assert await copy_sagas(old, new) == CopyReport(already_there=1)


@pytest.mark.parametrize("kind", KINDS)
async def test_aggregate_that_is_taken_keeps_one_saga_out_until_it_is_free(
    empty: OpenEmpty, kind: str
) -> None:
    old, new = MemoryStore(), await empty(kind)
    ids = await live(old)
    holder = (await new.create(leased(aggregation_id="half"))).record

    with pytest.raises(CopyConflictError) as foreseen:
        await copy_sagas(old, new, dry_run=True)
    with pytest.raises(CopyConflictError, match=rf"saga {holder.saga_id} .* 'half'") as refused:
        await copy_sagas(old, new)

    assert foreseen.value.report == refused.value.report
    assert (refused.value.saga_id, refused.value.report.copied) == (ids[2], 5)
    await new.commit(ended(holder))
    assert await copy_sagas(old, new) == CopyReport(copied=1, already_there=5)


class LosingOutputs(MemoryStore):
    """Takes every saga, and keeps no outputs."""

    async def restore(self, export: SagaExport) -> None:
        history = tuple(replace(entry, output=None) for entry in export.history)
        await super().restore(replace(export, history=history))


async def test_copy_that_differs_is_an_error_that_names_saga_and_field() -> None:
    old = MemoryStore()
    ids = await live(old)

    with pytest.raises(CopyConflictError) as wrong:
        await copy_sagas(old, LosingOutputs())

    assert wrong.value.report.reasons[0] == (ids[2], "its copy at the target differs in outputs")


async def test_another_saga_under_the_same_id_is_a_conflict() -> None:
    old, new = MemoryStore(), MemoryStore()
    saga_id = uuid4()
    await old.create(new_saga(saga_id=saga_id))
    await new.create(new_saga(saga_id=saga_id, data='{"other":1}'))

    with pytest.raises(CopyConflictError, match="differs in data"):
        await copy_sagas(old, new)


async def test_store_is_not_copied_onto_itself() -> None:
    store = MemoryStore()

    with pytest.raises(SagaStateError, match="same store"):
        await copy_sagas(store, store)


# --- the other ways -------------------------------------------------------------------------------


async def test_dry_run_counts_and_writes_nothing() -> None:
    old, new = MemoryStore(), FaultyStore(MemoryStore())
    await live(old, held=True)

    report = await copy_sagas(old, new, allow_held=True, dry_run=True)

    assert report == CopyReport(copied=7, held=1)
    assert new.calls_of("restore") == 0


async def test_ended_sagas_are_copied_while_the_source_is_in_use() -> None:
    old, new = MemoryStore(), MemoryStore()
    ids = await live(old, held=True)

    assert await copy_sagas(old, new, ended_only=True) == CopyReport(copied=2)
    assert await same(old, new, ids[4:6])
    await old.commit(ended(await old.load(ids[-1])))
    assert await copy_sagas(old, new) == CopyReport(copied=5, already_there=2)


async def test_sagas_that_come_and_go_during_the_run_do_not_upset_it() -> None:
    old, new = FaultyStore(MemoryStore()), MemoryStore()
    ids = await live(old.inner)

    async def come() -> None:
        ids.append((await old.inner.create(new_saga())).record.saga_id)

    async def go() -> None:
        await old.inner.purge(finished_for=timedelta(0), limit=1)

    old.between("export", 3, come)
    old.between("export", 5, go)

    assert await copy_sagas(old, new) == CopyReport(copied=6, gone=1)
    assert await new.load(ids[-1])


@pytest.mark.parametrize("kind", KINDS)
async def test_queues_move_with_their_order(empty: OpenEmpty, kind: str) -> None:
    """Also where the holder comes after those that wait for it: they are due, and go back."""
    old, new = await empty(kind), await empty("sqlite" if kind == "memory" else "memory")
    first = (await old.create(queued())).record
    second = (await old.create(queued())).record
    holder = (await old.create(new_saga(aggregation_id="a"))).record
    ids = [first.saga_id, second.saga_id, holder.saga_id]

    assert await copy_sagas(old, new) == CopyReport(copied=3)

    assert await same(old, new, ids)
    assert (await new.load(second.saga_id)).due_at is None
    await new.commit(ended(await new.load(holder.saga_id)))
    assert (await new.load(first.saga_id)).due_at is not None
    assert (await new.load(second.saga_id)).due_at is None
