"""`find`, `find_all` and `count`: an operator asks by indexed facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import QueryError, SagaError, SagaStatus, SagaStore
from tests.behaviour.cast import HOUR, NAME, Story, definition, fails, retry, saga

MINUTE = timedelta(minutes=1)


async def crowd(store: SagaStore) -> tuple[saga, dict[str, UUID]]:
    """Return four sagas, made in the order of their names here."""
    one = saga(store, Story().step())
    waiting = definition(Story().step(fails()), retry_policy=retry(2))
    one.orchestrator.register("waiting", waiting, version="7")
    one.orchestrator.register("failing", definition(Story().step(fails("no"))), version="3")
    return one, {
        "done": await one.start(tags=["red", "big"], aggregation_id="a"),
        "waits": await one.start(saga_name="waiting", tags=["red"], aggregation_id="b"),
        "undone": await one.start(saga_name="failing"),
        "left": await one.start(wait=False, tags=["big"]),
    }


ALL = ["done", "waits", "undone", "left"]

ASKED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, ALL),
    "status": ({"status": SagaStatus.COMPLETED}, ["done"]),
    "status as text": ({"status": "SUSPENDED"}, ["waits"]),
    "any of several": ({"status": {"COMPLETED", SagaStatus.RUNNING}}, ["done", "left"]),
    "name": ({"name": NAME}, ["done", "left"]),
    "version": ({"version": "7"}, ["waits"]),
    "aggregate": ({"aggregation_id": "b"}, ["waits"]),
    "tag": ({"tag": "red"}, ["done", "waits"]),
    "error": ({"error_code": "ValueError"}, ["waits", "undone"]),
    "due now": ({"overdue_by": timedelta(0)}, ["left"]),
    "overdue": ({"overdue_by": HOUR}, []),
    "all must hold": ({"tag": "red", "status": ["SUSPENDED", "STUCK"], "version": "7"}, ["waits"]),
    "some do not hold": ({"tag": "red", "name": "failing"}, []),
    "since long ago": ({"created_after": datetime.min.replace(tzinfo=UTC)}, ALL),
    "in the far future": ({"created_after": datetime.max.replace(tzinfo=UTC)}, []),
    "before the far future": ({"created_before": datetime.max.replace(tzinfo=UTC)}, ALL),
    "before long ago": ({"created_before": datetime.min.replace(tzinfo=UTC)}, []),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_sagas_are_found_and_counted_by_what_is_asked(store: SagaStore, asked: str) -> None:
    one, made = await crowd(store)
    conditions, names = ASKED[asked]
    page = await one.admin.find(**conditions)
    assert [each.id for each in page.sagas] == [made[name] for name in names]
    assert page.cursor is None
    assert await one.admin.count(**conditions) == len(names)
    assert [each.id async for each in one.admin.find_all(**conditions)] == [
        made[name] for name in names
    ]


async def test_times_part_what_was_made_before_from_what_came_after(store: SagaStore) -> None:
    one, made = await crowd(store)
    second = (await one.see(made["waits"])).created_at
    later = await one.admin.find(created_after=second)
    earlier = await one.admin.find(created_before=second)
    assert made["waits"] not in {each.id for each in (*later.sagas, *earlier.sagas)}
    assert made["left"] in {each.id for each in later.sagas}
    assert made["done"] in {each.id for each in earlier.sagas}


async def test_pages_are_stable_while_sagas_come_change_and_go(store: SagaStore) -> None:
    one, made = await crowd(store)
    first = await one.admin.find(limit=2)
    assert [each.id for each in first.sagas] == [made["done"], made["waits"]]
    await one.admin.abort(made["waits"])
    await store.purge(finished_for=timedelta(0), limit=1)
    late = await one.start()
    second = await one.admin.find(limit=2, cursor=first.cursor)
    third = await one.admin.find(limit=2, cursor=second.cursor)
    found = [each.id for each in (*second.sagas, *third.sagas)]
    assert found == [each for each in (made["undone"], made["left"], late) if each in found]
    assert {made["left"], late} <= set(found)
    assert third.cursor is None


async def test_find_all_reads_page_by_page(store: SagaStore) -> None:
    one, made = await crowd(store)
    found = [each.id async for each in one.admin.find_all(page_size=1)]
    assert found == list(made.values())


async def test_saga_that_cannot_be_read_does_not_hide_the_others(store: SagaStore) -> None:
    one, made = await crowd(store)
    export = await store.export(made["left"])
    broken = replace(export.record, saga_id=uuid4(), data="{not json")
    await store.restore(replace(export, record=broken, commit_ids=(None,) * len(export.history)))
    found = {each.id: each.initial_data async for each in one.admin.find_all(tag="big")}
    assert found == {made["done"]: {"n": 1}, made["left"]: {"n": 1}, broken.saga_id: None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown status": ({"status": "DONE"}, "'DONE' is no status.*RUNNING, SUSPENDED"),
    "unknown status among others": ({"status": ["STUCK", "stuck"]}, "'stuck' is no status"),
    "no status at all": ({"status": []}, "leave it out"),
    "status that is a number": ({"status": 3}, "status must be"),
    "time without a zone": ({"created_after": datetime(2026, 1, 1)}, "created_after needs a"),  # noqa: DTZ001
    "the other time": ({"created_before": datetime(2026, 1, 1)}, "created_before needs a"),  # noqa: DTZ001
    "date as text": ({"created_after": "2026-01-01"}, "created_after must be a datetime"),
    "negative overdue": ({"overdue_by": -MINUTE}, "overdue_by must be"),
    "endless overdue": ({"overdue_by": timedelta.max}, "overdue_by must be"),
    "empty name": ({"name": ""}, "name must not be empty"),
    "NUL": ({"tag": "a\0b"}, r"tag has the character U\+0000"),
    "wrong type": ({"aggregation_id": 7}, "aggregation_id must be a string"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_nonsense_is_refused_by_all_three(store: SagaStore, what: str) -> None:
    one = saga(store, Story().step())
    conditions, text = REFUSED[what]
    with pytest.raises(QueryError, match=text):
        await one.admin.find(**conditions)
    with pytest.raises(QueryError, match=text):
        await one.admin.count(**conditions)
    with pytest.raises(QueryError, match=text):
        one.admin.find_all(**conditions)


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.0, "5", None])
async def test_limit_out_of_range_is_refused(store: SagaStore, limit: Any) -> None:
    one = saga(store, Story().step())
    with pytest.raises(QueryError, match="from 1 to 1000"):
        await one.admin.find(limit=limit)
    assert (await one.admin.find(limit=1000)).sagas == ()


FORGED = {
    "empty": "",
    "word": "next",
    "list": "[]",
    "null": "null",
    "numbers": "[1, 2]",
    "texts": '["x", "y"]',
    "id that is a number": '["2026-01-01T00:00:00+00:00", 5]',
    "time without a zone": f'["2026-01-01T00:00:00", "{uuid4()}"]',
    "time after the last": f'["9999-12-31T23:59:59-14:00", "{uuid4()}"]',
    "deep": "[" * 50_000,
    "bytes": b"bytes",
    "number": 5,
}


@pytest.mark.parametrize("forged", FORGED)
async def test_cursor_that_no_page_gave_is_refused(store: SagaStore, forged: str) -> None:
    cursor: Any = FORGED[forged]
    with pytest.raises(QueryError, match="cursor"):
        await saga(store, Story().step()).admin.find(cursor=cursor)
    assert issubclass(QueryError, SagaError)
