"""Sagas of one aggregate, one after the other: `start(on_conflict=)`, and what waits in a queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    ActiveSagaAlreadyExistsError,
    AwaitEvent,
    EntryKind,
    InputContext,
    NotifyReason,
    Query,
    SagaBuilder,
    SagaDefinitionError,
    SagaStateError,
    SagaStatus,
    SagaStore,
    SagaWorker,
    StepContext,
)
from saga_testing import MemoryStore
from saga_testing.conformance import StoreHarness
from saga_testing.faults import WorkerLostError
from tests.behaviour.branches import parallel
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry, saga

KEY = "customer-1"


def turns(store: SagaStore, story: Story) -> saga:
    """Return a saga whose number 0 waits for a retry in its second step, once."""
    waited: set[UUID] = set()

    async def second(inp: Number, ctx: StepContext) -> None:
        if inp.n == 1 and ctx.saga_id not in waited:
            waited.add(ctx.saga_id)
            raise ValueError("not yet")

    return saga(store, story.step(), story.step(second), retry_policy=retry(3))


async def queue(one: saga, n: int, **more: Any) -> UUID:
    values = {"initial_data": {"n": n}, "aggregation_id": KEY, "on_conflict": "queue"}
    saga_id: UUID = await one.start(**{**values, "wait": False, **more})
    return saga_id


async def run_all(one: saga) -> None:
    while await one.orchestrator.run_due():
        pass


async def test_sagas_of_one_aggregate_take_turns_in_the_order_of_their_starts(
    store: SagaStore,
) -> None:
    story = Story()
    one = turns(store, story)
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiters = [await queue(one, number) for number in (10, 20, 30)]
    await run_all(one)
    for saga_id in waiters:
        stands = await one.see(saga_id)
        assert (stands.status, stands.waiting_for) == (SagaStatus.SUSPENDED, "key")
        assert stands.is_queued
        assert (stands.deadline_at, stands.worker) == (None, None)
    assert story.log == ["do step_0", "do step_1"]
    said = await one.admin.explain(waiters[1])
    assert f"it waits for saga {holder}, which holds aggregate '{KEY}'" in said
    assert f"the first of which is saga {waiters[0]}" in said

    story.contexts.clear()
    await one.admin.retry_step(holder)
    await run_all(one)
    for saga_id in (holder, *waiters):
        assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    done = [context.saga_id for context in story.contexts]
    assert done == [holder, *(saga_id for saga_id in waiters for _ in range(2))]
    kinds = [entry.kind for entry in (await one.see(waiters[0])).step_history]
    assert kinds == [EntryKind.QUEUED, EntryKind.ADMITTED, *[EntryKind.COMPLETED] * 2]


async def test_conflict_is_raised_unless_something_else_is_asked_for(store: SagaStore) -> None:
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    for more in ({}, {"on_conflict": "raise"}):
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await one.start(aggregation_id=KEY, **more)
        assert refused.value.saga_id == holder
    assert await store.count(Query()) == 1


async def test_conflict_returns_the_active_saga_and_starts_nothing(store: SagaStore) -> None:
    one = turns(store, Story())
    first = await one.start(initial_data={"n": 0}, aggregation_id=KEY, on_conflict="return")
    assert await one.start(aggregation_id=KEY, on_conflict="return") == first
    assert await store.count(Query()) == 1
    await one.admin.abort(first)
    assert await one.start(aggregation_id=KEY, on_conflict="return") != first


async def test_queued_start_with_a_free_aggregate_is_driven_in_the_callers_task(
    store: SagaStore,
) -> None:
    story = Story()
    one = turns(store, story)
    saga_id = await queue(one, 10, wait=True)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
    assert story.log == ["do step_0", "do step_1"]
    without = await one.start(initial_data={"n": 10}, on_conflict="queue")
    assert (await one.see(without)).status is SagaStatus.COMPLETED


async def test_queued_start_returns_once_the_saga_waits(store: SagaStore) -> None:
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    saga_id = await queue(one, 10, wait=True)
    stands = await one.see(saga_id)
    assert (stands.is_queued, stands.deadline_at, stands.worker) == (True, None, None)
    await one.admin.abort(holder)
    await run_all(one)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED


async def test_repeated_queued_start_is_one_saga(store: SagaStore) -> None:
    one = turns(store, Story())
    await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    known = uuid4()
    assert await queue(one, 10, saga_id=known) == known
    assert await queue(one, 10, saga_id=known, wait=True) == known
    assert await store.count(Query()) == 2
    with pytest.raises(SagaStateError, match="exists already"):
        await queue(one, 11, saga_id=known)


@pytest.mark.parametrize("wrong", ["wait", None, True, ["queue"]])
async def test_other_ways_out_of_a_conflict_are_refused(store: SagaStore, wrong: Any) -> None:
    with pytest.raises(SagaDefinitionError, match="on_conflict must be"):
        await turns(store, Story()).start(on_conflict=wrong)
    assert await store.count(Query()) == 0


@pytest.mark.parametrize("way", ["retry_step", "cancel", "abort", "skip_step"])
async def test_every_end_of_the_holder_lets_the_next_come(store: SagaStore, way: str) -> None:
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiters = [await queue(one, number) for number in (10, 20)]
    more = {"mock_output": {"n": 5}} if way == "skip_step" else {}
    await getattr(one.admin, way)(holder, **more)
    assert (await one.see(holder)).status.is_terminal
    due = [(await one.see(saga_id)).deadline_at is not None for saga_id in waiters]
    assert due == [True, False]
    await run_all(one)
    ends = [(await one.see(saga_id)).status for saga_id in waiters]
    assert ends == [SagaStatus.COMPLETED] * 2


async def test_saga_that_rolls_back_is_followed_as_well(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(), story.step(fails()))
    first, second = await queue(one, 1), await queue(one, 2)
    await run_all(one)
    for saga_id in (first, second):
        assert (await one.see(saga_id)).status is SagaStatus.COMPENSATED
    one_way = ["do step_0", "do step_1", "undo step_0"]
    assert [" ".join(line.split()[:2]) for line in story.log] == one_way * 2
    assert [line.split()[2] for line in story.log if "undo" in line] == ["1->2", "2->3"]


async def test_stuck_holder_keeps_the_queue_waiting(store: SagaStore) -> None:
    story = Story()
    one = saga(store, story.step(undo=fails()), story.step(fails()))
    first, second = await queue(one, 1), await queue(one, 2)
    await run_all(one)
    assert (await one.see(first)).status is SagaStatus.STUCK
    assert (await one.see(second)).is_queued
    await one.admin.abort(first)
    await one.orchestrator.run_due()
    assert (await one.see(second)).status is SagaStatus.STUCK


async def test_revived_saga_keeps_the_queue_waiting_and_is_refused_while_another_runs(
    store: SagaStore,
) -> None:
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    saga_id = await queue(one, 0)
    await one.admin.abort(holder)
    await one.admin.retry_step(holder, wait=False)
    assert await one.orchestrator.run_due() > 0
    assert (await one.see(holder)).status is SagaStatus.COMPLETED
    await run_all(one)
    assert (await one.see(saga_id)).current_step_id == "step_1"
    third = await queue(one, 30)
    await one.admin.abort(third)
    with pytest.raises(ActiveSagaAlreadyExistsError):
        await one.admin.retry_step(third)
    await one.admin.retry_step(saga_id)
    await one.admin.retry_step(third)
    assert (await one.see(third)).status is SagaStatus.COMPLETED


# --- what people may do to a queued saga ---------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"), [("cancel", SagaStatus.COMPENSATED), ("abort", SagaStatus.FAILED)]
)
async def test_queued_saga_is_taken_out_of_the_queue(
    store: SagaStore, command: str, status: SagaStatus
) -> None:
    story = Story()
    one = turns(store, story)
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    first, second = await queue(one, 10), await queue(one, 20)
    story.log.clear()
    await getattr(one.admin, command)(first, reason="not needed")
    stands = await one.see(first)
    assert (stands.status, stands.deadline_at, story.log) == (status, None, [])
    assert EntryKind.REVIVED not in [entry.kind for entry in stands.step_history]
    await one.admin.abort(holder)
    await run_all(one)
    assert (await one.see(second)).status is SagaStatus.COMPLETED
    assert (await one.see(first)).status is status


async def test_aborted_queued_saga_that_is_revived_begins_from_its_beginning(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.uncertain(), story.step(fails()), retry_policy=retry(3))
    holder = await one.start(aggregation_id=KEY)
    waiter = await queue(one, 10)
    await one.admin.abort(waiter)
    await one.admin.abort(holder)
    story.log.clear()
    with pytest.raises(SagaStateError, match="nothing to undo"):
        await one.admin.cancel(waiter)
    await one.admin.retry_step(waiter)
    assert story.log == ["do step_0", "do step_1"]


async def test_queued_saga_that_may_be_undone_halfway_has_nothing_to_undo(
    store: SagaStore,
) -> None:
    story = Story()
    one = saga(store, story.uncertain(), story.step(fails()), retry_policy=retry(3))
    await one.start(aggregation_id=KEY)
    waiter = await queue(one, 10)
    story.log.clear()
    await one.admin.cancel(waiter)
    assert ((await one.see(waiter)).status, story.log) == (SagaStatus.COMPENSATED, [])


async def test_commands_that_a_queued_saga_cannot_take_are_refused_and_change_nothing(
    store: SagaStore,
) -> None:
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiter = await queue(one, 10)
    before = await store.export(waiter)
    with pytest.raises(SagaStateError, match="it waits for its aggregation_id"):
        await one.admin.pause(waiter)
    with pytest.raises(SagaStateError, match="needs to be paused"):
        await one.admin.resume(waiter)
    with pytest.raises(SagaStateError, match="nothing to undo"):
        await one.admin.compensate_step(waiter)
    with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
        await one.admin.retry_step(waiter)
    assert refused.value.saga_id == holder
    token = (await one.see(waiter)).step_execution_token
    assert token is not None
    told = await one.orchestrator.notify_detailed(saga_id=waiter, token=token)
    assert told.reason is NotifyReason.NOT_SUSPENDED
    after = await store.export(waiter)
    assert (after.history, after.record.state) == (before.history, before.record.state)


@pytest.mark.parametrize("steps", [1, 2])
async def test_skip_step_is_refused_while_it_is_not_the_sagas_turn(
    store: SagaStore, steps: int
) -> None:
    """Also where it would end the saga at once, which then has to hold nothing."""
    waits = fails()
    one = saga(store, *[Story().step(waits) for _ in range(steps)], retry_policy=retry(3))
    holder = await one.start(aggregation_id=KEY)
    first, second = await queue(one, 10), await queue(one, 20)
    before = await store.export(second)

    async def refused() -> UUID | None:
        with pytest.raises(ActiveSagaAlreadyExistsError) as error:
            await one.admin.skip_step(second, {"n": 5})
        return error.value.saga_id

    assert await refused() == holder
    await one.admin.abort(holder)
    assert await refused() == first
    after = await store.export(second)
    assert (after.history, after.record.state) == (before.history, before.record.state)
    await one.admin.cancel(first)
    await one.admin.skip_step(second, {"n": 5})
    stands = await one.see(second)
    assert stands.outputs == {"step_0": {"n": 5}}
    assert stands.status is (SagaStatus.COMPLETED if steps == 1 else SagaStatus.SUSPENDED)


async def test_hook_behind_the_last_step_that_is_skipped_in_the_queue_holds_the_aggregate(
    store: SagaStore,
) -> None:
    story = Story()

    async def rival(_: Number, ctx: StepContext) -> None:
        with pytest.raises(ActiveSagaAlreadyExistsError) as error:
            await one.start(aggregation_id=KEY)
        assert error.value.saga_id == ctx.saga_id

    builder = SagaBuilder()
    builder.add_step(step=story.step(fails()), input_map=unmapped, retry_policy=retry(3))
    builder.on_completed(step=story.final(rival), input_map=lambda ctx: Number(n=1))
    one = saga(store, made=builder.build())
    holder = await one.start(aggregation_id=KEY)
    waiter, last = await queue(one, 10), await queue(one, 20)
    await one.admin.cancel(holder)
    await one.admin.skip_step(waiter, {"n": 5})
    assert (await one.see(waiter)).status is SagaStatus.COMPLETED
    assert (await one.see(last)).deadline_at is not None
    assert "do on_completed" in story.log


async def test_queued_saga_takes_another_input_and_waits_on(store: SagaStore) -> None:
    story = Story()
    one = turns(store, story)
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiter = await queue(one, 10)
    await one.admin.edit_input(waiter, Number(n=50))
    assert (await one.see(waiter)).is_queued
    await one.admin.abort(holder)
    await run_all(one)
    assert (await one.see(waiter)).outputs == {"step_0": {"n": 51}, "step_1": {"n": 52}}


async def test_event_for_a_queued_saga_is_kept_until_it_is_awaited(store: SagaStore) -> None:
    story = Story()

    async def awaits(inp: Number, ctx: StepContext) -> Any:
        return AwaitEvent(Number) if ctx.event is None else None

    one = saga(store, story.step(awaits))
    holder = await one.start(aggregation_id=KEY)
    waiter = await queue(one, 10)
    assert await one.orchestrator.signal(saga_id=waiter, event=Number(n=7), event_id="e")
    assert (await one.see(waiter)).deadline_at is None
    await one.orchestrator.signal(aggregation_id=KEY, event=Number(n=8))
    await run_all(one)
    assert (await one.see(holder)).status is SagaStatus.COMPLETED
    assert (await one.see(waiter)).status is SagaStatus.COMPLETED


async def test_queued_sagas_are_listed_and_counted_and_block_no_deploy(store: SagaStore) -> None:
    one = turns(store, Story())
    await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiter = await queue(one, 10)
    found = await one.admin.find(status=SagaStatus.SUSPENDED, aggregation_id=KEY)
    assert [each.is_queued for each in found.sagas] == [False, True]
    assert await one.admin.count(status="SUSPENDED") == 2
    report = await one.orchestrator.check_definitions()
    assert (report.ok, report.sagas) == (True, 2)
    assert await store.purge(finished_for=timedelta(0), limit=10) == 0
    assert (await one.see(waiter)).is_queued


async def test_queued_saga_with_a_hook_for_its_end_ends_without_its_aggregate(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    builder = SagaBuilder()
    builder.add_step(step=story.step(fails()), input_map=unmapped, retry_policy=retry(3))
    builder.on_compensated(
        step=story.final(fails(times=1)),
        input_map=lambda ctx: Number(n=ctx.initial_data["n"]),
        retry_policy=retry(3),
    )
    one = saga(store, made=builder.build())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiter, second = await queue(one, 10), await queue(one, 20)
    await one.admin.cancel(waiter)
    stands = await one.see(waiter)
    assert (stands.status, stands.current_step_id) == (SagaStatus.SUSPENDED, "on_compensated")
    assert (await one.see(second)).is_queued
    assert await store.purge(finished_for=timedelta(0), limit=10) == 0
    await harness.age(waiter, HOUR)
    await run_all(one)
    assert (await one.see(waiter)).status is SagaStatus.COMPENSATED
    # Whose first map fails at once needs no turn, and takes the aggregate from nobody.
    failed = await queue(one, -1)
    await run_all(one)
    await harness.age(failed, HOUR)
    await run_all(one)
    assert (await one.see(failed)).status is SagaStatus.COMPENSATED
    assert (await one.see(holder)).current_step_id == "step_0"
    assert story.log.count("do step_0") == 1


async def test_parallel_sagas_take_turns_and_end_in_the_queue_as_others_do(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = parallel({name: story.step() for name in ("join", "left", "right", "root")}, DIAMOND)
    one = saga(store, made=made)
    holder = await one.start(aggregation_id=KEY, delay=HOUR)
    cancelled, aborted, late, last = [
        await queue(one, 10, **more) for more in ({}, {}, {"deadline": HOUR}, {"wait": True})
    ]
    await one.admin.cancel(cancelled)
    await one.admin.abort(aborted)
    await harness.age(late, HOUR)
    await run_all(one)
    ends = [(await one.see(saga_id)).status for saga_id in (cancelled, aborted, late, last)]
    assert ends[:3] == [SagaStatus.COMPENSATED, SagaStatus.FAILED, SagaStatus.COMPENSATED]
    assert (await one.see(last)).is_queued
    assert story.log == []
    await one.admin.abort(holder)
    await run_all(one)
    assert (await one.see(last)).status is SagaStatus.COMPLETED
    assert len(story.log) == 4


DIAMOND = {"left": ["root"], "right": ["root"], "join": ["left", "right"]}


def unmapped(ctx: InputContext) -> Number:
    if ctx.initial_data["n"] < 0:
        raise ValueError("no such number")
    return Number(n=ctx.initial_data["n"])


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [True, False])
async def test_deadline_that_passes_in_the_queue_ends_the_saga_before_its_turn(
    store: SagaStore, harness: StoreHarness, wait: bool
) -> None:
    story = Story()
    one = turns(store, story)
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    story.log.clear()
    waiter = await queue(one, 10, deadline=HOUR, wait=wait)
    second = await queue(one, 20)
    stands = await one.see(waiter)
    assert stands.is_queued
    assert stands.deadline_at is not None
    assert abs(stands.deadline_at - stands.created_at - HOUR) < timedelta(seconds=5)
    assert "its deadline is at" in await one.admin.explain(waiter)
    await harness.age(waiter, HOUR)
    assert await one.orchestrator.run_due() == 1
    after = await one.see(waiter)
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "SagaDeadlineError")
    assert story.log == []
    await one.admin.abort(holder)
    await run_all(one)
    assert (await one.see(second)).status is SagaStatus.COMPLETED


async def test_queued_saga_whose_time_is_ahead_holds_the_aggregate_until_then(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    one = turns(store, story)
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiter = await queue(one, 10, delay=HOUR, deadline=HOUR)
    second = await queue(one, 20)
    story.log.clear()
    await one.admin.abort(holder)
    await run_all(one)
    stands = await one.see(waiter)
    assert (stands.status, stands.waiting_for) == (SagaStatus.SUSPENDED, "start")
    assert stands.starts_at == stands.created_at + HOUR
    assert (story.log, (await one.see(second)).is_queued) == ([], True)
    await harness.age(waiter, HOUR)
    await run_all(one)
    assert (await one.see(waiter)).status is SagaStatus.COMPLETED
    assert (await one.see(second)).status is SagaStatus.COMPLETED


async def test_queued_saga_whose_time_has_come_meanwhile_begins_with_its_turn(
    store: SagaStore, harness: StoreHarness
) -> None:
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    waiter = await queue(one, 10, delay=HOUR)
    await harness.age(waiter, 2 * HOUR)
    await run_all(one)
    assert (await one.see(waiter)).is_queued
    await one.admin.abort(holder)
    await run_all(one)
    assert (await one.see(waiter)).status is SagaStatus.COMPLETED


# --- many at once, and death at any moment -------------------------------------------------------


async def test_workers_and_starters_at_once_keep_the_order_and_forget_nobody(
    harness: StoreHarness,
) -> None:
    """Three processes' worth of starters and workers on three aggregates."""
    running: Counter[str] = Counter()
    turns: list[UUID] = []
    random = Random(5)

    def build(store: SagaStore) -> saga:
        async def alone(inp: Number, ctx: StepContext) -> None:
            key = f"key-{inp.n}"
            running[key] += 1
            assert running[key] == 1, f"two sagas of {key} at once"
            turns.append(ctx.saga_id)
            await asyncio.sleep(0)
            running[key] -= 1

        return saga(store, Story().step(alone))

    async with AsyncExitStack() as stack, asyncio.timeout(60):
        stores = [await stack.enter_async_context(harness.open()) for _ in range(3)]
        ones = [build(store) for store in stores]
        for one in ones:
            poll = timedelta(milliseconds=50)
            await stack.enter_async_context(SagaWorker(one.orchestrator, poll_interval=poll))

        async def start(number: int) -> UUID:
            key = random.randrange(3)
            return await queue(
                random.choice(ones), key, aggregation_id=f"key-{key}", wait=random.random() < 0.5
            )

        ids = await asyncio.gather(*(start(number) for number in range(30)))
        for saga_id in ids:
            await ones[0].orchestrator.wait(saga_id, timeout=60)
        records = [await stores[0].load(saga_id) for saga_id in ids]
    assert {record.state.status for record in records} == {SagaStatus.COMPLETED}
    assert len(turns) == len(set(turns)) == 30
    for key in ("key-0", "key-1", "key-2"):
        mine = [one for one in records if one.aggregation_id == key]
        by_start = sorted(mine, key=lambda one: (one.created_at, one.saga_id))
        by_turn = sorted(mine, key=lambda one: turns.index(one.saga_id))
        assert by_turn == by_start


class Dying:
    """A store of a process that is killed at one of its calls, before or after it is carried out.

    From then on nothing that the process does reaches the store.
    """

    def __init__(self, inner: SagaStore, at: int, *, after: bool) -> None:
        self._inner = inner
        self._at = at
        self._after = after
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls > self._at or (self.calls == self._at and not self._after):
                raise WorkerLostError
            answer = await found(*args, **more)
            if self.calls >= self._at:
                raise WorkerLostError
            return answer

        return call


async def lives(make: Callable[[], Awaitable[Any]]) -> bool:
    """Tell whether a process came to its end alive."""
    try:
        await make()
    except WorkerLostError:
        return False
    return True


@pytest.mark.parametrize("after", [False, True])
async def test_process_that_dies_at_any_call_leaves_nobody_in_the_queue(
    store: SagaStore, harness: StoreHarness, after: bool
) -> None:
    died = 0
    for at in range(1, 60):
        key = f"{KEY}-{at}"
        dying: Any = Dying(store, at, after=after)
        ids = [uuid4() for _ in range(3)]

        async def life(dying: Any = dying, key: str = key, ids: list[UUID] = ids) -> None:
            one = turns(dying, Story())
            more = {"aggregation_id": key}
            await one.start(initial_data={"n": 0}, saga_id=ids[0], **more)
            await queue(one, 10, saga_id=ids[1], wait=True, **more)
            await queue(one, 20, saga_id=ids[2], **more)
            await one.admin.cancel(ids[1])
            await one.admin.abort(ids[0])
            await run_all(one)

        alive = await lives(life)
        died += not alive
        there = (await store.find(Query(aggregation_id=key))).records
        survivor = turns(store, Story())
        for _ in range(6):
            for record in there:
                await harness.age(record.saga_id, HOUR)
            await survivor.orchestrator.run_due()
        for record in there:
            stands = await survivor.see(record.saga_id)
            assert stands.status.is_terminal, (at, after, await survivor.admin.explain(stands.id))
        if alive:
            break
    else:
        pytest.fail("the sweep must reach the end of the process")
    assert died > 12


async def test_saga_is_queued_for_a_worker_that_knows_it(store: SagaStore) -> None:
    """One that nobody registers here stays first, and is told of; it is not overtaken."""
    one = turns(store, Story())
    other = saga(store, Story().step())
    other.orchestrator.register("other", definition(Story().step()))
    first = await queue(other, 10, saga_name="other")
    second = await queue(one, 20)
    await run_all(one)
    assert (await one.see(second)).is_queued
    said = await one.admin.explain(second)
    assert f"it waits for saga {first}, which is before it in the queue" in said
    assert "is not registered here" in await one.admin.explain(first)
    await run_all(other)
    await run_all(one)
    assert (await one.see(second)).status is SagaStatus.COMPLETED


async def test_queued_saga_costs_no_look_while_it_waits() -> None:
    store = MemoryStore()
    one = turns(store, Story())
    holder = await one.start(initial_data={"n": 0}, aggregation_id=KEY)
    for number in range(20):
        await queue(one, 10 + number)
    assert await one.orchestrator.run_due() == 0
    await one.admin.abort(holder)
    assert await one.orchestrator.run_due(limit=1) == 1
