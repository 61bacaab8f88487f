"""Rules for `history`."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from saga_core.status import EntryKind
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import HOUR, commit_of, entry, leased, new_saga, one_of
from saga_testing.conformance.topic import Topic

__all__ = ["HistoryRules"]


class HistoryRules(Topic):
    async def test_entries_count_from_one_without_gaps(self, store: SagaStore) -> None:
        record = (await store.create(leased(history=(entry(),)))).record
        for _ in range(3):
            committed = await store.commit(commit_of(record, history=(entry(), entry())))
            record = replace(record, version=committed.version)
        history = await store.history(record.saga_id)
        assert [one.seq for one in history] == list(range(1, 8))
        assert [one.version for one in history] == [1, 2, 2, 3, 3, 4, 4]

    async def test_pages_follow_one_another(self, store: SagaStore) -> None:
        entries = tuple(entry(step_id=f"step_{n}") for n in range(7))
        record = (await store.create(leased(history=entries))).record
        first = await store.history(record.saga_id, limit=3)
        assert len(first) == 3
        second = await store.history(record.saga_id, after=3, limit=3)
        rest = await store.history(record.saga_id, after=6, limit=3)
        assert [one.seq for one in (*first, *second, *rest)] == [1, 2, 3, 4, 5, 6, 7]
        assert not await store.history(record.saga_id, after=7)

    async def test_entry_has_the_time_of_its_commit(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        record = (await store.create(new_saga(history=(entry(),)))).record
        await harness.age(record.saga_id, HOUR)
        await store.commit(commit_of(record))
        after = await store.load(record.saga_id)
        first, second = [one.at for one in await store.history(record.saga_id)]
        # A harness may age the history too.
        created = (record.created_at, after.created_at)
        assert min(abs(first - time).total_seconds() for time in created) < 5
        assert first <= second
        assert abs(second - after.updated_at).total_seconds() < 5

    async def test_entries_are_never_rewritten(self, store: SagaStore) -> None:
        record = (await store.create(leased(history=(entry(),)))).record
        for _ in range(2):
            before = list(await store.history(record.saga_id))
            await store.commit(commit_of(record))
            assert list(await store.history(record.saga_id))[: len(before)] == before
            record = await store.load(record.saga_id)

    async def test_unknown_saga_has_no_history(self, store: SagaStore) -> None:
        assert not await store.history(uuid4())

    async def test_every_field_is_kept(self, store: SagaStore) -> None:
        full = entry(
            attempt=3, error="E: x", error_code="E", actor="ann", reason="because", output="null"
        )
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, history=(full,)))
        (kept,) = await store.history(record.saga_id)
        for name in full.__dataclass_fields__:
            assert getattr(kept, name) == getattr(full, name), name

    async def test_entry_without_an_output_keeps_every_other_field(self, store: SagaStore) -> None:
        failed = entry(
            EntryKind.RETRYING,
            attempt=3,
            input='{"n":1}',
            error="E: x",
            error_code="E",
            actor="ann",
            reason="because",
        )
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, history=(failed,)))
        kept = one_of(await store.history(record.saga_id))
        for name in failed.__dataclass_fields__:
            assert getattr(kept, name) == getattr(failed, name), name

    async def test_outputs_are_the_entries_that_have_one(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        entries = (
            entry(step_id="a"),
            entry(EntryKind.RETRYING, step_id="b"),
            entry(EntryKind.SKIPPED, step_id="b", output="null"),
        )
        await store.commit(commit_of(record, history=entries))
        outputs = (await store.load(record.saga_id)).outputs
        assert [(one.step_id, one.output) for one in outputs] == [("a", '{"n":2}'), ("b", "null")]

    async def test_output_of_any_kind_of_entry_comes_back_as_it_was_appended(
        self, store: SagaStore
    ) -> None:
        # Facts about a saga (what it waits for, its deadline) are such entries, and their `at`,
        # the store's time, is what the engine reckons with.
        facts = tuple(entry(kind, step_id=None, output='{"fact":1}') for kind in EntryKind)
        new = leased(history=facts)
        created = (await store.create(new)).record
        await store.commit(commit_of(created, history=facts))
        loaded = await store.load(new.saga_id)
        assert [one.kind for one in created.outputs] == list(EntryKind)
        assert [one.kind for one in loaded.outputs] == [*EntryKind, *EntryKind]
        assert list(loaded.outputs) == list(await store.history(new.saga_id))

    async def test_limit_of_nothing_reads_nothing(self, store: SagaStore) -> None:
        record = (await store.create(leased(history=(entry(), entry())))).record
        assert not await store.history(record.saga_id, limit=0)
        assert not await store.history(record.saga_id, after=1, limit=0)

    async def test_every_output_is_brought_however_many(self, store: SagaStore) -> None:
        done = tuple(entry(output=str(n)) for n in range(150))
        record = (await store.create(leased())).record
        await store.commit(commit_of(record, history=done))
        outputs = (await store.load(record.saga_id)).outputs
        assert [one.output for one in outputs] == [one.output for one in done]
