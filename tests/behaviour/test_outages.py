"""An outage of the store is told once, whoever meets it and however often."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from saga_core import SagaStatus, SagaStore, SagaWorker, StoreUnavailableError
from saga_core.outage import Outage
from saga_testing import Fault, FaultyStore
from tests.behaviour.cast import Number, Story, saga, waits

SAGAS = 5


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def infos(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]


async def test_outage_is_told_once_for_all_sagas_and_all_retries(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    faulty = FaultyStore(store)
    go = asyncio.Event()
    story = Story()

    async def hold(_: Number, ctx: Any) -> None:
        await go.wait()

    one = saga(faulty, story.step(hold), story.step())
    tasks = [asyncio.create_task(one.start()) for _ in range(SAGAS)]
    await waits(lambda: len(story.log) == SAGAS)
    commits = faulty.calls_of("commit")
    faulty.fail_always("commit", Fault.BEFORE)
    go.set()
    await waits(lambda: faulty.calls_of("commit") >= commits + 3 * SAGAS)
    (told,) = warnings(caplog)
    assert "got no answer from the store (told once until" in told
    assert infos(caplog) == []

    faulty.heal()
    for saga_id in await asyncio.gather(*tasks):
        assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert len(warnings(caplog)) == 1
    assert infos(caplog) == ["the store answers again"]


async def test_answers_to_others_end_no_outage_that_a_driver_is_in(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyStore(store)
    faulty.fail_always("commit", Fault.BEFORE)
    one = saga(faulty, Story().step())
    task = asyncio.create_task(one.start())
    for commits in (1, 2, 3):
        await waits(lambda commits=commits: faulty.calls_of("commit") >= commits)
        assert await one.orchestrator.run_due() == 0
    faulty.heal()
    await task
    assert len(warnings(caplog)) == 1


async def test_every_outage_is_told(store: SagaStore, caplog: pytest.LogCaptureFixture) -> None:
    faulty = FaultyStore(store)
    faulty.fail("commit", 1, Fault.AFTER)
    faulty.fail("commit", 2, Fault.BEFORE)
    faulty.fail("commit", 4, Fault.BEFORE)
    await saga(faulty, Story().step(), Story().step(), Story().step()).run()
    assert len(warnings(caplog)) == 2


async def test_worker_without_a_store_says_so_once(
    store: SagaStore, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyStore(store)
    faulty.fail_always("claim_due", Fault.BEFORE)
    one = saga(faulty, Story().step())
    saga_id = await one.start(wait=False)
    async with SagaWorker(one.orchestrator, poll_interval=timedelta(milliseconds=5)):
        await waits(lambda: faulty.calls_of("claim_due") >= 5)
        assert len(warnings(caplog)) == 1
        faulty.heal()
        await one.orchestrator.wait(saga_id, 10)
    assert len(warnings(caplog)) == 1


def test_outage_lasts_while_some_calls_get_through(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    outage = Outage()
    lost = StoreUnavailableError("no route")
    outage.answered()
    outage.unanswered("a commit", lost)
    with outage.repeating():
        outage.answered()
        outage.unanswered("another commit", lost)
        outage.answered()
    outage.unanswered("a claim", lost)
    outage.answered()
    outage.answered()
    outage.unanswered("a renewal", TimeoutError())
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        (
            "WARNING",
            "a commit got no answer from the store (told once until the store answers again): "
            "no route",
        ),
        ("DEBUG", "another commit got no answer from the store: no route"),
        ("DEBUG", "a claim got no answer from the store: no route"),
        ("INFO", "the store answers again"),
        (
            "WARNING",
            "a renewal got no answer from the store (told once until the store answers again): "
            "not in time",
        ),
    ]


def test_another_kind_of_trouble_in_an_outage_is_told(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    for _ in range(2):
        outage.unanswered("a claim", StoreUnavailableError("no route"))
        outage.unanswered("a renewal", TimeoutError("late"))
    assert len(warnings(caplog)) == 2
