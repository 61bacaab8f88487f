"""The branches of a parallel saga fail, wait, sleep and are timed out each by itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from saga_core import AwaitEvent, NotifyReason, SagaStatus, SagaStore, Sleep, StepContext
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import parallel
from tests.behaviour.cast import HOUR, Number, Story, fails, retry, saga, waits

DIAMOND = {"left": ["root"], "right": ["root"], "join": ["left", "right"]}


class Paid(BaseModel):
    amount: int


class Shipped(BaseModel):
    parcel: str


def awaits(model: type[BaseModel], **options: Any) -> Any:
    def deed(_: Number, ctx: StepContext) -> Any:
        if isinstance(ctx.event, Paid):
            return Number(n=ctx.event.amount)
        return None if isinstance(ctx.event, model) else AwaitEvent(model, **options)

    return deed


def sleeps(_: Number, ctx: StepContext) -> Any:
    return None if ctx.woken else Sleep(HOUR)


async def test_retry_of_one_branch_leaves_its_siblings_alone(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel(
        {"left": story.step(fails(times=1)), "right": story.step(), "next": story.step()},
        {"next": ["right"]},
        options={"left": {"retry_policy": retry(2)}},
    )
    one = saga(store, made=made)
    rests = await one.run()
    assert rests.status is SagaStatus.SUSPENDED
    assert set(rests.outputs) == {"right", "next"}
    branch = rests.branches[0]
    assert (branch.step_id, branch.status, branch.retry_counter) == ("left", "SUSPENDED", 1)
    assert branch.due_at is not None
    assert branch.last_error == rests.last_error == "ValueError: no"
    assert await one.orchestrator.run_due() == 0
    await harness.age(rests.saga_id, HOUR)
    assert await one.orchestrator.run_due() == 1
    ended = await one.see(rests.saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert (story.log.count("do left"), story.log.count("do right")) == (2, 1)


async def test_branches_take_the_events_that_they_await_in_any_order(store: SagaStore) -> None:
    story = Story()
    made = parallel({"paid": story.step(awaits(Paid)), "shipped": story.step(awaits(Shipped))})
    one = saga(store, made=made)
    rests = await one.run()
    assert rests.status is SagaStatus.SUSPENDED
    assert {branch.waiting_for for branch in rests.branches} == {"event:Paid", "event:Shipped"}
    told = await one.admin.explain(rests.saga_id)
    assert "'paid' waits for event:Paid" in told
    assert "'shipped' waits for event:Shipped" in told
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Shipped(parcel="p"))
    await one.orchestrator.run_due()
    half = await one.see(rests.saga_id)
    assert (half.status, set(half.outputs)) == (SagaStatus.SUSPENDED, {"shipped"})
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    ended = await one.see(rests.saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert ended.outputs["paid"] == {"n": 7}


async def test_an_event_is_given_to_one_branch_only(store: SagaStore) -> None:
    story = Story()
    made = parallel({name: story.step(awaits(Paid)) for name in ("one", "two")})
    one = saga(store, made=made)
    rests = await one.run()
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Paid(amount=7))
    await one.orchestrator.run_due()
    half = await one.see(rests.saga_id)
    assert (half.status, len(half.outputs)) == (SagaStatus.SUSPENDED, 1)
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Paid(amount=8))
    await one.orchestrator.run_due()
    ended = await one.see(rests.saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert sorted(out["n"] for out in ended.outputs.values()) == [7, 8]


async def test_notify_goes_by_the_token_of_the_branch(store: SagaStore) -> None:
    story = Story()
    made = parallel({name: story.step(awaits(Paid)) for name in ("one", "two")})
    one = saga(store, made=made)
    rests = await one.run()
    tokens = {branch.step_id: branch.token for branch in rests.branches}
    orchestrator = one.orchestrator
    stale = await orchestrator.notify_detailed(
        saga_id=rests.saga_id, token=UUID(int=1), event={"amount": 1}
    )
    assert stale.reason is NotifyReason.STALE_TOKEN
    assert tokens["two"] is not None
    taken = await orchestrator.notify_detailed(
        saga_id=rests.saga_id, token=tokens["two"], event={"amount": 5}
    )
    assert taken.reason is NotifyReason.ACCEPTED
    half = await one.see(rests.saga_id)
    assert half.outputs == {"two": {"n": 5}}
    again = await orchestrator.notify_detailed(
        saga_id=rests.saga_id, token=tokens["two"], event={"amount": 5}, event_id=taken.event_id
    )
    assert again.reason is NotifyReason.DUPLICATE


async def test_event_of_a_token_stays_with_its_branch_whoever_takes_over(
    store: SagaStore, harness: StoreHarness
) -> None:
    """The branch that has waited longer must not get it, in another process that reads all anew."""
    seen: dict[str, list[Any]] = {"one": [], "two": []}

    def deed(_: Number, ctx: StepContext) -> Any:
        seen[ctx.step_id].append(ctx.events)
        if not ctx.waits:
            return AwaitEvent(Paid)
        return Sleep(HOUR) if ctx.waits == 1 else None

    story = Story()
    made = parallel({name: story.step(deed) for name in seen})
    rests = await saga(store, made=made).run()
    tokens = {branch.step_id: branch.token for branch in rests.branches}
    first = saga(store, made=made)
    token = tokens["two"]
    assert token is not None
    await first.orchestrator.notify(saga_id=rests.saga_id, token=token, event={"amount": 2})
    await harness.age(rests.saga_id, HOUR)
    other = saga(store, made=made)
    await other.orchestrator.run_due()
    half = await other.see(rests.saga_id)
    assert (half.status, set(half.outputs)) == (SagaStatus.SUSPENDED, {"two"})
    paid = Paid(amount=2)
    assert seen == {"one": [()], "two": [(), (paid,), (paid,)]}


async def test_event_that_a_branch_did_not_need_in_the_end_is_kept(store: SagaStore) -> None:
    """It was there for the branch, which then got another one by its token."""
    story = Story()
    made = parallel({"paid": story.step(awaits(Paid)), "shipped": story.step(awaits(Shipped))})
    one = saga(store, made=made)
    rests = await one.run()
    token = {branch.step_id: branch.token for branch in rests.branches}["paid"]
    await one.orchestrator.signal(saga_id=rests.saga_id, event=Paid(amount=1), event_id="first")
    assert token is not None
    await one.orchestrator.notify_detailed(
        saga_id=rests.saga_id, token=token, event={"amount": 2}, event_id="second"
    )
    half = await one.see(rests.saga_id)
    assert half.outputs == {"paid": {"n": 2}}
    inbox = {each.event_id: each.consumed for each in await store.inbox(rests.saga_id)}
    assert inbox == {"first": False, "second": True}


async def test_notify_reaches_a_branch_while_its_sibling_runs(store: SagaStore) -> None:
    story, release = Story(), asyncio.Event()

    async def held(_: Number, __: StepContext) -> None:
        await release.wait()

    made = parallel({"slow": story.step(held), "paid": story.step(awaits(Paid))})
    one = saga(store, made=made)
    saga_id = uuid4()
    driver = asyncio.ensure_future(one.start(saga_id=saga_id))
    async with asyncio.timeout(20):
        await waits(lambda: story.log.count("do paid") == 1)
        while True:
            branches = {each.step_id: each for each in (await one.see(saga_id)).branches}
            if "paid" in branches and branches["paid"].waiting_for:
                break
            await asyncio.sleep(0.002)
        token = branches["paid"].token
        assert token is not None
        assert await one.orchestrator.notify(saga_id=saga_id, token=token, event={"amount": 4})
        await waits(lambda: story.log.count("do paid") == 2)
        release.set()
        await driver
    ended = await one.see(saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert ended.outputs["paid"] == {"n": 4}


@pytest.mark.parametrize("reads_anew", [False, True])
async def test_notify_passes_by_the_branches_that_it_does_not_mean(
    store: SagaStore, reads_anew: bool
) -> None:
    """While a sibling runs, too, and for whoever takes the saga over then."""
    story, release = Story(), asyncio.Event()

    async def held(_: Number, __: StepContext) -> None:
        await release.wait()

    steps = {"older": story.step(awaits(Paid)), "newer": story.step(awaits(Paid))}
    made = parallel({**steps, "slow": story.step(held)})
    one = saga(store, made=made)
    saga_id = uuid4()
    driver = asyncio.ensure_future(one.start(saga_id=saga_id))
    async with asyncio.timeout(20):
        tokens: dict[str, UUID | None] = {}
        while len(tokens) < len(steps):
            await asyncio.sleep(0.002)
            branches = (await one.see(saga_id)).branches if story.log else ()
            tokens = {each.step_id: each.token for each in branches if each.waiting_for}
        token = tokens["newer"]
        assert token is not None
        teller = saga(store, made=made).orchestrator  # knows nothing of what is driven here
        wrong = await teller.notify_detailed(
            saga_id=saga_id, token=token, event=Shipped(parcel="p")
        )
        assert wrong.reason is NotifyReason.TYPE_MISMATCH
        told = [
            await teller.notify_detailed(
                saga_id=saga_id, token=token, event={"amount": 4}, event_id="e", wait=False
            )
            for _ in range(2)
        ]
        assert [each.reason for each in told] == [NotifyReason.ACCEPTED, NotifyReason.DUPLICATE]
        if reads_anew:
            driver.cancel()
        release.set()
        with suppress(asyncio.CancelledError):
            await driver
        await saga(store, made=made).orchestrator.run_due()
    half = await one.see(saga_id)
    assert (half.status, set(half.outputs)) == (SagaStatus.SUSPENDED, {"newer", "slow"})
    assert half.outputs["newer"] == {"n": 4}


async def test_sleeping_branch_wakes_while_others_wait(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel({"nap": story.step(sleeps), "paid": story.step(awaits(Paid, timeout=HOUR * 5))})
    one = saga(store, made=made)
    rests = await one.run()
    assert rests.status is SagaStatus.SUSPENDED
    await harness.age(rests.saga_id, HOUR + timedelta(minutes=1))
    assert await one.orchestrator.run_due() == 1
    half = await one.see(rests.saga_id)
    assert (half.status, set(half.outputs)) == (SagaStatus.SUSPENDED, {"nap"})
    await harness.age(rests.saga_id, HOUR * 5)
    assert await one.orchestrator.run_due() == 1
    ended = await one.see(rests.saga_id)
    assert (ended.status, ended.error_code) == (SagaStatus.COMPENSATED, "WaitTimedOutError")


async def test_timeout_of_one_branch_lets_the_others_end_and_turns_back(store: SagaStore) -> None:
    story = Story()

    async def never(_: Number, __: StepContext) -> None:
        await asyncio.Event().wait()

    made = parallel(
        {"slow": story.step(never), "quick": story.step()},
        options={"slow": {"timeout": timedelta(milliseconds=20)}},
    )
    ended = await saga(store, made=made).run()
    assert (ended.status, ended.error_code) == (SagaStatus.COMPENSATED, "StepTimeoutError")
    assert story.log[-1] == "undo quick 1->2"


async def test_branch_that_rests_is_left_when_another_fails(store: SagaStore) -> None:
    story = Story()
    made = parallel(
        {
            "unsure": story.uncertain(awaits(Paid)),
            "waiting": story.step(awaits(Paid)),
            "bad": story.step(fails("no")),
            "first": story.step(),
        },
        {"bad": ["first"]},
    )
    ended = await saga(store, made=made).run()
    assert (ended.status, ended.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")
    undone = sorted(line for line in story.log if line.startswith("undo"))
    assert undone == ["undo first 1->2", "undo unsure 1->None"]
    assert ended.branches == ()


async def test_compensations_retry_wait_and_sleep_each_by_itself(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel(
        {
            "again": story.step(undo=fails("busy", times=1)),
            "event": story.step(undo=awaits(Paid)),
            "nap": story.step(undo=sleeps),
            "plain": story.step(),
            "bad": story.final(fails("no")),
        },
        {"bad": ["again", "event", "nap", "plain"]},
        options={"again": {"compensation_retry_policy": retry(2)}},
    )
    one = saga(store, made=made)
    rests = await one.run()
    assert rests.status is SagaStatus.COMPENSATING
    assert {branch.step_id for branch in rests.branches} == {"again", "event", "nap"}
    token = next(branch.token for branch in rests.branches if branch.step_id == "event")
    assert token is not None
    assert await one.orchestrator.notify(saga_id=rests.saga_id, token=token, event={"amount": 1})
    await harness.age(rests.saga_id, HOUR + timedelta(minutes=1))
    await one.orchestrator.run_due()
    ended = await one.see(rests.saga_id)
    assert (ended.status, ended.last_error) == (SagaStatus.COMPENSATED, "ValueError: no")


async def test_deadline_stops_all_branches(store: SagaStore, harness: StoreHarness) -> None:
    story = Story()
    made = parallel({"done": story.step(), "paid": story.step(awaits(Paid))})
    one = saga(store, made=made)
    rests = await one.run(deadline=HOUR)
    assert rests.status is SagaStatus.SUSPENDED
    await harness.age(rests.saga_id, HOUR * 2)
    assert await one.orchestrator.run_due() == 1
    ended = await one.see(rests.saga_id)
    assert (ended.status, ended.error_code) == (SagaStatus.COMPENSATED, "SagaDeadlineError")
    assert story.log[-1] == "undo done 1->2"


async def test_delayed_start_begins_no_branch_before_its_time(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = saga(store, made=parallel({name: story.step() for name in "ab"}))
    ahead = await one.run(delay=HOUR)
    assert (ahead.status, ahead.waiting_for, story.log) == (SagaStatus.SUSPENDED, "start", [])
    await harness.age(ahead.saga_id, HOUR * 2)
    await one.orchestrator.run_due()
    assert (await one.see(ahead.saga_id)).status is SagaStatus.COMPLETED
