"""Rules for `find` and `count`."""

from __future__ import annotations

from uuid import UUID

import pytest

from saga_core.errors import (
    PayloadError,
)
from saga_core.records import Due, Query
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.sagas import (
    HOUR,
    new_saga,
)
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.topic import Topic

__all__ = ["CatalogRules"]


async def found(store: SagaStore, query: Query) -> set[UUID]:
    page = await store.find(query)
    assert await store.count(query) == len(page.records)
    return {record.saga_id for record in page.records}


class CatalogRules(Topic):
    async def test_each_condition_narrows(self, store: SagaStore) -> None:
        failed = state_of(SagaStatus.STUCK, error_code="ValueError")
        one = new_saga(aggregation_id="a", tags=("red", "big"), state=failed, due=None)
        two = new_saga(saga_name="other", definition_version="2", tags=("red",))
        for new in (one, two):
            await store.create(new)
        both = {one.saga_id, two.saga_id}
        first, second = {one.saga_id}, {two.saga_id}
        assert await found(store, Query()) == both
        assert await found(store, Query(statuses=(SagaStatus.STUCK,))) == first
        assert await found(store, Query(statuses=(SagaStatus.STUCK, SagaStatus.RUNNING))) == both
        assert await found(store, Query(saga_name="other")) == second
        assert await found(store, Query(definition_version="2")) == second
        assert await found(store, Query(aggregation_id="a")) == first
        assert await found(store, Query(tag="red")) == both
        assert await found(store, Query(tag="big")) == first
        assert await found(store, Query(tag="re")) == set()
        assert await found(store, Query(error_code="ValueError")) == first
        assert await found(store, Query(error_code="ValueError", tag="none")) == set()

    async def test_times_narrow(self, store: SagaStore, harness: StoreHarness) -> None:
        old, young = new_saga(), new_saga(due=Due(delay=HOUR))
        for new in (old, young):
            await store.create(new)
        await harness.age(old.saga_id, 3 * HOUR)
        middle = (await store.load(old.saga_id)).now - HOUR
        assert await found(store, Query(created_before=middle)) == {old.saga_id}
        assert await found(store, Query(created_after=middle)) == {young.saga_id}
        assert await found(store, Query(overdue_by=2 * HOUR)) == {old.saga_id}
        assert await found(store, Query(overdue_by=4 * HOUR)) == set()

    async def test_pages_are_complete_and_stable_while_sagas_come(self, store: SagaStore) -> None:
        made = []
        for _ in range(7):
            new = new_saga()
            await store.create(new)
            made.append(new.saga_id)
        seen: list[UUID] = []
        cursor: str | None = None
        while True:
            page = await store.find(Query(limit=3, cursor=cursor))
            seen += [record.saga_id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
            await store.create(new_saga(saga_name="late"))
            if len(seen) > 30:
                break
        assert [saga_id for saga_id in seen if saga_id in made] == sorted(
            made, key=lambda saga_id: seen.index(saga_id)
        )
        assert len(seen) == len(set(seen))
        assert set(made) <= set(seen)

    async def test_last_page_has_no_cursor(self, store: SagaStore) -> None:
        for _ in range(3):
            await store.create(new_saga())
        assert (await store.find(Query(limit=3))).cursor is None
        assert (await store.find(Query(limit=2))).cursor is not None

    async def test_foreign_cursor_is_refused(self, store: SagaStore) -> None:
        with pytest.raises(PayloadError):
            await store.find(Query(cursor="not-a-cursor"))
