"""What becomes of branches that another's fate, or a person, has stopped on their way."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from saga_core import AwaitEvent, SagaStatus, SagaStore, Sleep, StepContext, StoreUnavailableError
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import parallel
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga

TURNS = 20
"""Turns of the event loop in which a step that is to run has begun."""


class Paid(BaseModel):
    amount: int


class Shipped(BaseModel):
    parcel: str


def sleeps(_: Number, ctx: StepContext) -> Any:
    return None if ctx.woken else Sleep(HOUR)


def garbles(_: Number, __: StepContext) -> Any:
    return "no number"


async def test_branches_that_rest_keep_their_times_when_the_pivot_leaves_no_way_back(
    store: SagaStore, harness: StoreHarness
) -> None:
    story, saga_id = Story(), uuid4()

    async def decides(_: Number, __: StepContext) -> None:
        stands: dict[str, str] = {}
        while stands.get("bad") != "FAILED" or stands.get("sleepy") != "FAILED":
            await asyncio.sleep(0.002)
            stands = {each.step_id: each.status for each in (await one.see(saga_id)).branches}

    made = parallel(
        {
            "sleepy": story.step(sleeps),
            "again": story.step(fails(times=1)),
            "bad": story.step(fails()),
            "pivot": story.step(decides),
        },
        options={"pivot": {"pivot": True}, "again": {"retry_policy": retry(2)}},
    )
    one = saga(store, made=made)
    rests = await one.run(saga_id=saga_id)
    assert rests.status is SagaStatus.SUSPENDED
    stands = {each.step_id: (each.status, each.due_at is None) for each in rests.branches}
    assert stands["sleepy"] == stands["again"] == ("SUSPENDED", False)
    assert await one.orchestrator.run_due() == 0
    assert (story.log.count("do sleepy"), story.log.count("do again")) == (1, 1)
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    stuck = await one.see(saga_id)
    assert (stuck.status, set(stuck.outputs)) == (SagaStatus.STUCK, {"sleepy", "again", "pivot"})


async def test_retry_of_an_aborted_saga_counts_the_attempts_anew(store: SagaStore) -> None:
    story = Story()
    made = parallel(
        {"again": story.step(fails(times=1)), "paid": story.step()},
        options={"again": {"retry_policy": retry(2)}},
    )
    one = saga(store, made=made)
    saga_id = (await one.run()).saga_id
    await one.admin.abort(saga_id)
    await one.admin.retry_step(saga_id)
    assert [each.attempt for each in story.contexts if each.step_id == "again"] == [1, 1]


async def test_event_that_a_step_has_no_use_for_any_more_is_left_to_others(
    store: SagaStore,
) -> None:
    story = Story()

    def takes(inp: Number, ctx: StepContext) -> Any:
        if inp.n == 99:
            return None
        return Number(n=ctx.event.amount) if ctx.event else AwaitEvent(Paid)

    made = parallel({"one": story.step(takes), "two": story.step(takes)}, {"two": ["one"]})
    one = saga(store, made=made)
    saga_id = (await one.run()).saga_id
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.admin.edit_input(saga_id, Number(n=99), step_id="one")
    await one.orchestrator.run_due()
    ended = await one.see(saga_id)
    assert (ended.status, ended.outputs["two"]) == (SagaStatus.COMPLETED, {"n": 7})


async def test_no_step_begins_while_a_command_may_lie_in_an_inbox_that_does_not_answer(
    store: SagaStore,
) -> None:
    story, saga_id, looked = Story(), uuid4(), asyncio.Event()

    def probe(method: str, _: int, __: str) -> None:
        if method == "inbox" and not looked.is_set():
            looked.set()
            raise StoreUnavailableError("planned: the inbox does not answer")

    async def asks(_: Number, __: StepContext) -> None:
        await saga(store, made=made).admin.cancel(saga_id, wait=False)

    async def lasts(_: Number, __: StepContext) -> None:
        await looked.wait()
        for _turn in range(TURNS):
            await asyncio.sleep(0)

    made = parallel(
        {"slow": story.step(lasts), "quick": story.step(asks), "next": story.step()},
        {"next": ["quick"]},
    )
    one = saga(FaultyStore(store, probe=probe), made=made)
    ended = await one.run(saga_id=saga_id)
    assert ended.status is SagaStatus.COMPENSATED
    assert "do next" not in story.log


async def test_step_that_waits_again_while_siblings_end_needs_another_event(
    store: SagaStore,
) -> None:
    story = Story()

    async def takes_two(_: Number, ctx: StepContext) -> Any:
        if len(ctx.events) == 1:
            outputs: Any = ()
            while "other" not in outputs:
                await asyncio.sleep(0.002)
                outputs = (await one.see(ctx.saga_id)).outputs
        if len(ctx.events) < 2:
            return AwaitEvent(Paid)
        return Number(n=sum(event.amount for event in ctx.events))

    def takes_one(_: Number, ctx: StepContext) -> Any:
        return None if ctx.event else AwaitEvent(Shipped)

    made = parallel({"two": story.step(takes_two), "other": story.step(takes_one)})
    one = saga(store, made=made)
    saga_id = (await one.run()).saga_id
    await one.orchestrator.signal(saga_id=saga_id, event=Shipped(parcel="p"))
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    rests = await one.see(saga_id)
    assert (rests.status, set(rests.outputs)) == (SagaStatus.SUSPENDED, {"other"})
    assert story.log.count("do two") == 2
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=8))
    await one.orchestrator.run_due()
    assert (await one.see(saga_id)).outputs["two"] == {"n": 15}


async def test_event_that_came_to_a_step_which_is_cancelled_is_left_in_the_inbox(
    store: SagaStore,
) -> None:
    story = Story()
    asks = story.uncertain(lambda _, ctx: None if ctx.event else AwaitEvent(Paid))
    one = saga(store, made=parallel({"one": asks, "two": story.step()}))
    saga_id = (await one.run()).saga_id
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))
    await one.admin.cancel(saga_id)
    assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    assert [signal.consumed for signal in await store.inbox(saga_id)] == [False]


async def test_what_a_failure_has_stopped_goes_on_once_that_step_is_skipped(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel(
        {"sleepy": story.step(sleeps), "odd": story.step(garbles), "bad": story.step(fails())}
    )
    one = saga(store, made=made)
    saga_id = (await one.run()).saga_id
    assert (await one.see(saga_id)).status is SagaStatus.STUCK
    await one.admin.skip_step(saga_id, {"n": 1}, step_id="bad")
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
    await harness.age(saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    stuck = await one.see(saga_id)
    assert (stuck.status, set(stuck.outputs)) == (SagaStatus.STUCK, {"sleepy", "bad"})


async def test_event_that_comes_while_a_saga_fails_does_not_wake_what_rested_of_it(
    store: SagaStore,
) -> None:
    story, saga_id = Story(), uuid4()

    async def failing(_: Number, __: StepContext) -> None:
        waiting: Any = None
        while waiting is None:
            await asyncio.sleep(0.002)
            stands = {each.step_id: each for each in (await one.see(saga_id)).branches}
            waiting = stands["paid"].waiting_for if "paid" in stands else None
        faulty.between("commit", faulty.calls_of("commit") + 1, sends)
        raise ValueError("no")

    async def sends() -> None:
        await saga(store, made=made).orchestrator.signal(saga_id=saga_id, event=Paid(amount=7))

    paid = story.step(lambda _, ctx: None if ctx.event else AwaitEvent(Paid))
    made = parallel({"paid": paid, "bad": story.step(failing)}, compensate_on_failure=False)
    faulty = FaultyStore(store)
    one = saga(faulty, made=made)
    ended = await one.run(saga_id=saga_id)
    assert ended.status is SagaStatus.FAILED
    assert (story.log.count("do paid"), len(await store.inbox(saga_id))) == (1, 1)
