"""Rules for `find` and `count`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from saga_core.errors import PayloadError
from saga_core.records import Due, Query
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    ALIKE,
    HOUR,
    LEASE,
    commit_of,
    ended,
    entry,
    event,
    leased,
    new_saga,
    one_of,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["CatalogRules"]

FORGED: dict[str, Callable[[str], str]] = {
    "empty": lambda real: "",
    "cut": lambda real: real[:-1],
    "twice": lambda real: real * 2,
    "number": lambda real: "0",
    "infinite": lambda real: "1e999",
    "null": lambda real: "null",
    "list": lambda real: "[]",
    "too few": lambda real: '["2026-01-01T00:00:00+00:00"]',
    "no zone": lambda real: f'["2026-01-01T00:00:00", "{UUID(int=7)}"]',
    "no id": lambda real: '["2026-01-01T00:00:00+00:00", "7"]',
    "no text": lambda real: "[1, 2]",
    "too late": lambda real: f'["9999-12-31T23:59:59-23:00", "{UUID(int=7)}"]',
    "deep": lambda real: "[" * 100_000,
    "nul": lambda real: f"{real}\0",
    "no utf-8": lambda real: "\ud800",
}
"""What somebody may send who has seen a cursor, or none."""


async def found(store: SagaStore, query: Query) -> list[UUID]:
    return [record.saga_id for record in (await store.find(query)).records]


async def listed(store: SagaStore, query: Query) -> list[UUID]:
    """Read to the last page."""
    seen: list[UUID] = []
    for _ in range(20):
        page = await store.find(query)
        seen += [record.saga_id for record in page.records]
        if page.cursor is None:
            return seen
        query = replace(query, cursor=page.cursor)
    pytest.fail("the pages have no end")


class CatalogRules(Topic):
    async def test_listed_saga_is_as_loaded_but_for_its_outputs(self, store: SagaStore) -> None:
        new = leased(aggregation_id="a", trace_id="t", tags=("x", "y"), history=(entry(),))
        await store.create(new)
        await store.signal(new.saga_id, event())
        loaded = await store.load(new.saga_id)
        one = one_of((await store.find(Query())).records)
        assert replace(one, now=loaded.now) == replace(loaded, outputs=())

    async def test_status_narrows_to_any_of_those_given(self, store: SagaStore) -> None:
        stuck = new_saga(state=state_of(SagaStatus.STUCK), due=None)
        running = new_saga()
        for new in (stuck, running):
            await store.create(new)
        assert await found(store, Query(statuses=(SagaStatus.STUCK,))) == [stuck.saga_id]
        both = (SagaStatus.STUCK, SagaStatus.RUNNING)
        assert await found(store, Query(statuses=both)) == [stuck.saga_id, running.saga_id]
        assert await found(store, Query(statuses=(SagaStatus.FAILED,))) == []

    async def test_name_narrows(self, store: SagaStore) -> None:
        one, two = new_saga(saga_name="one"), new_saga(saga_name="two")
        for new in (one, two):
            await store.create(new)
        assert await found(store, Query(saga_name="two")) == [two.saga_id]
        assert await found(store, Query(saga_name="three")) == []

    async def test_definition_version_narrows(self, store: SagaStore) -> None:
        one, two = new_saga(definition_version="1"), new_saga(definition_version="2")
        for new in (one, two):
            await store.create(new)
        assert await found(store, Query(definition_version="2")) == [two.saga_id]

    async def test_aggregate_narrows_to_all_sagas_it_has_had(self, store: SagaStore) -> None:
        first = (await store.create(leased(aggregation_id="a"))).record
        await store.commit(ended(first))
        second, other = new_saga(aggregation_id="a"), new_saga(aggregation_id="b")
        for new in (second, other):
            await store.create(new)
        assert await found(store, Query(aggregation_id="a")) == [first.saga_id, second.saga_id]

    async def test_tag_narrows_to_the_whole_word(self, store: SagaStore) -> None:
        one, two = new_saga(tags=("red", "big")), new_saga(tags=("reddish",))
        for new in (one, two):
            await store.create(new)
        assert await found(store, Query(tag="red")) == [one.saga_id]
        assert await found(store, Query(tag="big")) == [one.saga_id]
        assert await found(store, Query(tag="re")) == []

    async def test_error_code_narrows(self, store: SagaStore) -> None:
        stuck = state_of(SagaStatus.STUCK, error_code="ValueError")
        one = new_saga(state=stuck, due=None)
        for new in (one, new_saga()):
            await store.create(new)
        assert await found(store, Query(error_code="ValueError")) == [one.saga_id]
        assert await found(store, Query(error_code="Value")) == []

    async def test_conditions_are_compared_to_the_letter(self, store: SagaStore) -> None:
        stuck = state_of(SagaStatus.STUCK, error_code="a")
        facts = {"saga_name": "a", "definition_version": "a", "aggregation_id": "a"}
        await store.create(new_saga(**facts, tags=("a",), state=stuck, due=None))
        for name in ALIKE:
            for query in (
                Query(saga_name=name),
                Query(definition_version=name),
                Query(aggregation_id=name),
                Query(error_code=name),
                Query(tag=name),
            ):
                assert await store.count(query) == int(name == "a"), query

    async def test_lists_follow_what_commits_change(self, store: SagaStore) -> None:
        state = state_of(SagaStatus.STUCK, error_code="ValueError")
        record = (await store.create(leased(tags=("a", "b"), state=state))).record
        changed = state_of(SagaStatus.RUNNING, error_code="KeyError")
        await store.commit(commit_of(record, tags=("b", "c"), state=changed))
        for query in (
            Query(tag="b"),
            Query(tag="c"),
            Query(error_code="KeyError"),
            Query(statuses=(SagaStatus.RUNNING,)),
        ):
            assert await found(store, query) == [record.saga_id], query
        for query in (
            Query(tag="a"),
            Query(error_code="ValueError"),
            Query(statuses=(SagaStatus.STUCK,)),
        ):
            assert await found(store, query) == [], query

    async def test_creation_time_narrows(self, store: SagaStore, harness: StoreHarness) -> None:
        old, young = new_saga(), new_saga()
        for new in (old, young):
            await store.create(new)
        await harness.age(old.saga_id, 3 * HOUR)
        middle = (await store.load(old.saga_id)).now - HOUR
        assert await found(store, Query(created_before=middle)) == [old.saga_id]
        assert await found(store, Query(created_after=middle)) == [young.saga_id]
        before = middle - 3 * HOUR
        assert await found(store, Query(created_after=before, created_before=middle)) == [
            old.saga_id
        ]

    async def test_overdue_narrows_to_what_has_been_due_for_so_long(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        late, ahead = new_saga(), new_saga(due=Due(delay=9 * HOUR))
        for new in (late, ahead):
            await store.create(new)
            await harness.age(new.saga_id, 3 * HOUR)
        await store.create(new_saga())
        assert await found(store, Query(overdue_by=2 * HOUR)) == [late.saga_id]
        assert await found(store, Query(overdue_by=4 * HOUR)) == []

    async def test_expired_lease_is_overdue(self, store: SagaStore, harness: StoreHarness) -> None:
        expired = (await store.create(leased())).record
        await store.create(leased())
        await harness.age(expired.saga_id, LEASE + 2 * HOUR)
        assert await found(store, Query(overdue_by=HOUR)) == [expired.saga_id]

    async def test_conditions_must_all_hold(self, store: SagaStore) -> None:
        one = new_saga(aggregation_id="a", tags=("red",))
        two = new_saga(saga_name="other", tags=("red",))
        for new in (one, two):
            await store.create(new)
        assert await found(store, Query(tag="red", aggregation_id="a")) == [one.saga_id]
        assert await found(store, Query(tag="red", saga_name="other")) == [two.saga_id]
        assert await found(store, Query(saga_name="other", aggregation_id="a")) == []

    async def test_oldest_creation_is_listed_first(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        made = [(await store.create(new_saga())).record for _ in range(3)]
        for hours, record in zip((2, 3, 1), made, strict=True):
            await harness.age(record.saga_id, hours * HOUR)
        await store.commit(commit_of(made[1]))
        order = [made[1].saga_id, made[0].saga_id, made[2].saga_id]
        assert await found(store, Query()) == order

    async def test_sagas_of_one_moment_are_paged_by_id(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        made = [(await store.create(new_saga())).record for _ in range(5)]
        for record in made[1:]:
            await harness.age(record.saga_id, record.created_at - made[0].created_at)
        moments = {(await store.load(record.saga_id)).created_at for record in made}
        assert moments == {made[0].created_at}
        ids = sorted(record.saga_id for record in made)
        assert await listed(store, Query(limit=2)) == ids

    async def test_no_page_is_longer_than_its_limit(self, store: SagaStore) -> None:
        for _ in range(3):
            await store.create(new_saga())
        assert len(await found(store, Query(limit=2))) == 2

    async def test_pages_are_complete_while_sagas_come(self, store: SagaStore) -> None:
        made = [(await store.create(new_saga())).record.saga_id for _ in range(5)]
        first = await store.find(Query(limit=3))
        await store.create(new_saga())
        rest = await listed(store, Query(limit=3, cursor=first.cursor))
        assert [one.saga_id for one in first.records] == made[:3]
        assert rest[:2] == made[3:]

    async def test_pages_are_complete_while_sagas_go(self, store: SagaStore) -> None:
        made = [(await store.create(leased())).record for _ in range(6)]
        first = await store.find(Query(limit=3))
        for gone in (made[0], made[2]):
            await store.commit(ended(gone))
        await store.purge(finished_for=timedelta(0), limit=2)
        rest = await listed(store, Query(limit=3, cursor=first.cursor))
        assert rest == [record.saga_id for record in made[3:]]

    async def test_pages_keep_to_the_conditions(self, store: SagaStore) -> None:
        made = [new_saga(tags=("odd",) if n % 2 else ("even",)) for n in range(6)]
        for new in made:
            await store.create(new)
        assert await listed(store, Query(tag="odd", limit=2)) == [new.saga_id for new in made[1::2]]

    async def test_last_page_has_no_cursor(self, store: SagaStore) -> None:
        for _ in range(3):
            await store.create(new_saga())
        assert (await store.find(Query(limit=3))).cursor is None
        assert (await store.find(Query(limit=2))).cursor is not None

    async def test_foreign_cursor_is_refused(self, store: SagaStore) -> None:
        with pytest.raises(PayloadError):
            await store.find(Query(cursor="not-a-cursor"))

    @pytest.mark.parametrize("forged", FORGED)
    async def test_forged_cursor_is_refused(self, store: SagaStore, forged: str) -> None:
        for _ in range(2):
            await store.create(new_saga())
        real = (await store.find(Query(limit=1))).cursor
        assert real is not None
        with pytest.raises(PayloadError):
            await store.find(Query(cursor=FORGED[forged](real)))

    async def test_count_is_of_those_that_match(self, store: SagaStore) -> None:
        for tags in (("a",), ("a", "b"), ()):
            await store.create(new_saga(tags=tags))
        assert await store.count(Query()) == 3
        assert await store.count(Query(tag="a")) == 2
        assert await store.count(Query(tag="a", statuses=(SagaStatus.STUCK,))) == 0

    async def test_count_ignores_limit_and_cursor(self, store: SagaStore) -> None:
        for _ in range(3):
            await store.create(new_saga())
        cursor = (await store.find(Query(limit=1))).cursor
        assert await store.count(Query(limit=1)) == 3
        assert await store.count(Query(limit=1, cursor=cursor)) == 3

    async def test_other_namespaces_are_not_listed(
        self, store: SagaStore, harness: StoreHarness
    ) -> None:
        await store.create(new_saga(tags=("a",)))
        async with harness.open(namespace="elsewhere") as other:
            for query in (Query(), Query(tag="a"), Query(statuses=(SagaStatus.RUNNING,))):
                assert await found(other, query) == []
            assert await other.count(Query()) == 0
