"""`bulk`: one command for many sagas, each judged by itself, rehearsed before it is given."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    BulkItem,
    BulkOutcome,
    QueryError,
    SagaStateError,
    SagaStatus,
    SagaStore,
)
from saga_testing import Fault, FaultyStore
from tests.behaviour.cast import NAME, Number, Story, definition, fails, retry, saga, waits

DONE, SENT = BulkOutcome.DONE, BulkOutcome.SENT
REFUSED, FAILED = BulkOutcome.REFUSED, BulkOutcome.FAILED


async def crowd(store: SagaStore) -> tuple[saga, list[UUID]]:
    """Return sagas that are COMPLETED, SUSPENDED, STUCK and not begun, in this order."""
    story = Story()

    def deed(inp: Number, ctx: Any) -> Any:
        if inp.n == 3:
            raise ValueError("no")
        return "not a number" if inp.n == 4 else None

    one = saga(store, story.step(), story.step(deed), retry_policy=retry(5))
    ids = [await one.start(initial_data={"n": n}, tags=["eu"]) for n in (1, 2, 3)]
    ids.append(await one.start(wait=False, tags=["eu"]))
    statuses = [(await one.see(each)).status.value for each in ids]
    assert statuses == ["COMPLETED", "SUSPENDED", "STUCK", "RUNNING"]
    return one, ids


async def exports(store: SagaStore, ids: list[UUID]) -> list[Any]:
    found = [await store.export(each) for each in ids]
    return [(each.record.version, each.history, each.inbox) for each in found]


COMMANDS = {
    "retry_step": [REFUSED, DONE, DONE, REFUSED],
    "cancel": [REFUSED, DONE, DONE, DONE],
    "abort": [REFUSED, DONE, DONE, DONE],
    "pause": [REFUSED, DONE, REFUSED, DONE],
    "resume": [REFUSED] * 4,
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_dry_run_tells_what_the_command_then_does(store: SagaStore, command: Any) -> None:
    one, ids = await crowd(store)
    before = await exports(store, ids)
    rehearsed = await one.admin.bulk(command, tag="eu")
    assert await exports(store, ids) == before
    assert rehearsed.dry_run
    assert [item.saga_id for item in rehearsed.items] == ids
    assert [item.outcome for item in rehearsed.items] == COMMANDS[command]
    assert [item.status.value for item in rehearsed.items] == [
        "COMPLETED",
        "SUSPENDED",
        "STUCK",
        "RUNNING",
    ]
    assert all((item.why is None) == (item.outcome is DONE) for item in rehearsed.items)
    assert all(command in (item.why or command) for item in rehearsed.items)
    heard: list[BulkItem] = []
    done = await one.admin.bulk(
        command, dry_run=False, actor="ann", reason="incident", progress=heard.append, tag="eu"
    )
    assert done.items == rehearsed.items
    assert tuple(heard) == done.items
    for saga_id, item, (version, history, _) in zip(ids, done.items, before, strict=True):
        after = await store.export(saga_id)
        new = after.history[len(history) :]
        if item.outcome is REFUSED:
            assert (after.record.version, new) == (version, ())
        else:
            assert (new[0].actor, new[0].reason) == ("ann", "incident")


async def test_rollback_of_many_is_left_to_the_workers(store: SagaStore) -> None:
    one, _ids = await crowd(store)
    report = await one.admin.bulk("cancel", dry_run=False, status=["SUSPENDED", "STUCK"])
    assert (len(report.items), report.ok) == (2, True)
    assert await one.admin.count(status="COMPENSATING") == 2
    assert await one.orchestrator.run_due() == 3
    assert await one.admin.count(status="COMPENSATED") == 2
    assert str(report) == "cancel: 2 sagas: 2 done"


async def test_driver_of_a_saga_is_told(store: SagaStore) -> None:
    story = Story()
    go = asyncio.Event()

    async def hold(_: Number, ctx: Any) -> None:
        await go.wait()

    one = saga(store, story.step(hold), story.step())
    task = asyncio.create_task(one.start(saga_id=(chosen := uuid4())))
    await waits(lambda: bool(story.log))
    rehearsed = await one.admin.bulk("cancel", name="story")
    assert [item.outcome for item in rehearsed.items] == [SENT]
    assert not await store.inbox(chosen)
    refused = await one.admin.bulk("retry_step", name="story")
    assert [item.outcome for item in refused.items] == [REFUSED]
    assert str(refused).splitlines()[1] == (
        "- 1 refused: the saga is RUNNING: it is being driven right now. Wait until it waits or "
        "ends."
    )
    sent = await one.admin.bulk("cancel", dry_run=False, name="story")
    assert sent.items == rehearsed.items
    go.set()
    await task
    assert (await one.see(chosen)).status is SagaStatus.COMPENSATED
    assert story.log == ["do step_0", "undo step_0 1->2"]


async def test_one_saga_that_fails_does_not_stop_the_rest(store: SagaStore) -> None:
    _one, ids = await crowd(store)
    faulty = FaultyStore(store)
    faulty.fail("load", 2, Fault.BEFORE)
    other = saga(faulty, Story().step(), Story().step(), retry_policy=retry(5))
    report = await other.admin.bulk("abort", dry_run=False, tag="eu")
    assert [item.outcome for item in report.items] == [REFUSED, FAILED, DONE, DONE]
    assert not report.ok
    assert report.of(FAILED)[0].saga_id == ids[1]
    again = await other.admin.bulk("abort", dry_run=False, tag="eu")
    assert [item.outcome for item in again.items] == [REFUSED, DONE, REFUSED, REFUSED]


async def test_unknown_definition_is_a_refusal_of_its_sagas_alone(store: SagaStore) -> None:
    one, _ = await crowd(store)
    one.orchestrator.register("other", definition(Story().step()))
    await one.start(saga_name="other", wait=False, tags=["eu"])
    stranger = saga(store, Story().step(), Story().step(), retry_policy=retry(5))
    report = await stranger.admin.bulk("abort", tag="eu")
    assert [item.outcome for item in report.items] == [REFUSED, DONE, DONE, DONE, REFUSED]
    assert "'other' version '1' is not registered" in (report.items[-1].why or "")


async def test_store_that_is_lost_between_pages_leaves_a_report(
    store: SagaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.bulk.PAGE", 2)
    _one, ids = await crowd(store)
    faulty = FaultyStore(store)
    faulty.fail("find", 2, Fault.BEFORE)
    other = saga(faulty, Story().step(), Story().step(), retry_policy=retry(5))
    report = await other.admin.bulk("abort", dry_run=False, tag="eu")
    assert [item.saga_id for item in report.items] == ids[:2]
    assert report.broken_off
    assert "broken off: " in str(report)
    assert not report.ok


async def test_limit_takes_the_oldest(store: SagaStore) -> None:
    one, ids = await crowd(store)
    report = await one.admin.bulk("cancel", limit=3, name="story")
    assert [item.saga_id for item in report.items] == ids[:3]


async def test_dry_run_knows_that_an_aggregate_is_taken(store: SagaStore) -> None:
    one = saga(store, Story().step(fails()), compensate_on_failure=False, retry_policy=retry(1))
    first = await one.start(aggregation_id="a")
    await one.start(aggregation_id="a", wait=False)
    for dry_run in (True, False):
        report = await one.admin.bulk("retry_step", dry_run=dry_run, status="FAILED")
        assert [(item.saga_id, item.outcome) for item in report.items] == [(first, REFUSED)]


@pytest.mark.parametrize(
    ("command", "conditions", "text"),
    [
        ("cancel", {}, "without a condition"),
        ("cancel", {"name": None}, "without a condition"),
        ("explode", {"name": "story"}, "no bulk command; these are: retry_step, cancel"),
        ("cancel", {"status": "BROKEN"}, "'BROKEN' is no status"),
        ("cancel", {"name": "story", "limit": 0}, "limit must be a whole number"),
        ("cancel", {"name": "story", "progress": 5}, "progress must be a function or None, got 5"),
        ("cancel", {"cursor": "any"}, "without a condition"),
        ("cancel", {"cursor": "any", "limit": 2}, "without a condition"),
    ],
)
async def test_bad_request_is_refused_before_anything_changes(
    store: SagaStore, command: Any, conditions: Any, text: str
) -> None:
    one, ids = await crowd(store)
    before = await exports(store, ids)
    with pytest.raises(QueryError, match=text):
        await one.admin.bulk(command, dry_run=False, **conditions)
    assert await exports(store, ids) == before


async def test_progress_that_raises_is_told_once_and_breaks_nothing_off(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    one, ids = await crowd(store)
    heard: list[UUID] = []

    def breaks(item: BulkItem) -> None:
        heard.append(item.saga_id)
        raise RuntimeError("the bar is closed")

    report = await one.admin.bulk("abort", dry_run=False, tag="eu", progress=breaks)
    assert [item.outcome for item in report.items] == COMMANDS["abort"]
    assert await one.admin.count(status="FAILED") == 3
    assert heard == ids[:1]
    assert caplog.text.count("RuntimeError: the bar is closed") == 1


async def test_refusal_is_the_one_that_the_command_itself_raises(store: SagaStore) -> None:
    one, ids = await crowd(store)
    report = await one.admin.bulk("resume", tag="eu")
    with pytest.raises(SagaStateError) as refused:
        await one.admin.resume(ids[0])
    assert report.items[0].why == str(refused.value)


@pytest.mark.parametrize("dry_run", [None, 0, "", "no"])
async def test_only_false_itself_ends_the_dry_run(store: SagaStore, dry_run: Any) -> None:
    one = saga(store, Story().step())
    saga_id = await one.start(wait=False)
    with pytest.raises(QueryError, match="dry_run must be True or False"):
        await one.admin.bulk("cancel", name=NAME, dry_run=dry_run)
    assert (await one.see(saga_id)).status is SagaStatus.RUNNING
