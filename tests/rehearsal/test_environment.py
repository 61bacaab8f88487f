"""`saga_env` brings any saga to its end without waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from saga_core import (
    AwaitEvent,
    BaseStep,
    ExponentialRetry,
    NonRetryableError,
    SagaBuilder,
    SagaDefinitionError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    Sleep,
    StepContext,
)
from saga_testing import ManualClock, SagaEnv, check_saga, saga_env
from tests.rehearsal.shop import HOUR, Approved, Deed, Done, Order, Shop, Wait, saga_of, shop_saga


async def test_saga_runs_to_its_end_by_name_and_by_definition() -> None:
    shop = Shop()
    definition = shop_saga(shop)
    async with saga_env() as env:
        env.register("order", definition)
        assert (await env.run("order", "o-1")).status is SagaStatus.COMPLETED
        assert (await env.run(definition, "o-2")).saga_name == "order"
    assert set(shop.rows.values()) == {"o-2"}


async def test_faults_reach_the_steps_of_child_sagas() -> None:
    """In a family a parent that fails late has its child rolled back, whoever was lost before."""
    shop, log = Shop(), Shop()
    builder = SagaBuilder()
    first = builder.add_step(
        step=Deed(log, "first"), input_map=lambda ctx: Order(order_id="o-1"), step_id="first"
    )
    builder.add_child(
        saga_name="inner", step_id="child", depends_on=first, input_map=lambda done: "o-1"
    )
    builder.add_step(
        step=Deed(log, "last"), input_map=lambda ctx: Order(order_id="o-1"), step_id="last"
    )
    async with saga_env() as env:
        env.register("inner", shop_saga(shop))
        env.register("outer", builder.build())
        env.crash_at("after:charge")
        env.fail_at("before:last", error=NonRetryableError)
        ended = await env.run("outer", "o-1")
        assert ended.status is SagaStatus.COMPENSATED
        (link,) = ended.children
        assert (await env.snapshot(link.saga_id)).status is SagaStatus.COMPENSATED
    assert shop.rows == {}


async def test_weeks_pass_at_once() -> None:
    began = time.monotonic()
    async with saga_env() as env:
        started = env.clock.now()
        snapshot = await env.run(
            saga_of(wait=Wait()), "o-1", events=[Approved(by="me")], delay=timedelta(days=700)
        )
        assert snapshot.status is SagaStatus.COMPLETED
        assert snapshot.outputs["wait"] == {"key": "me"}
        assert env.clock.now() - started == timedelta(days=714)
    assert time.monotonic() - began < 30


async def test_wait_for_an_event_that_nobody_sends_is_told() -> None:
    async with saga_env() as env:
        snapshot = await env.run(saga_of(wait=Wait()), "o-1")
        assert snapshot.status is SagaStatus.SUSPENDED
        assert snapshot.waiting_for == "event:Approved with correlation_id o-1"
        assert "waits for an event Approved" in await env.explain()
        assert (await env.send(Approved(by="me"))).status is SagaStatus.COMPLETED


async def test_function_in_the_script_acts_while_the_saga_rests() -> None:
    class Asks(Deed):
        async def execute(self, inp: Order, ctx: StepContext) -> Done:
            if ctx.event is None:
                raise PermissionError("not approved yet")
            return Done(key=ctx.event["by"])

    async def approve(env: SagaEnv) -> bool:
        snapshot = await env.snapshot()
        return await env.orchestrator.notify(
            saga_id=snapshot.saga_id,
            token=snapshot.step_execution_token,
            event={"by": "me"},
            wait=False,
        )

    saga = saga_of(hold=Deed(Shop(), "hold"), ask=Asks(Shop(), "ask"))
    async with saga_env() as env:
        env.crash_at("after:hold")  # then the saga rests, and is not to be notified yet
        snapshot = await env.run(saga, "o-1", events=[approve])
        assert snapshot.status is SagaStatus.COMPLETED
        assert snapshot.outputs["ask"] == {"key": "me"}


async def test_wait_with_a_timeout_ends_by_it() -> None:
    async with saga_env() as env:
        started = env.clock.now()
        snapshot = await env.run(saga_of(wait=Wait(timeout=timedelta(days=1))), "o-1")
        assert snapshot.status is SagaStatus.COMPENSATED
        assert env.clock.now() - started == timedelta(days=15)


async def test_deadline_is_jumped_to() -> None:
    async with saga_env() as env:
        started = env.clock.now()
        snapshot = await env.run(saga_of(wait=Wait()), "o-1", deadline=timedelta(days=20))
        assert snapshot.error_code == "SagaDeadlineError"
        assert env.clock.now() - started == timedelta(days=20)


async def test_start_and_advance_let_no_more_time_pass_than_asked() -> None:
    async with saga_env() as env:
        saga_id = await env.start(saga_of(wait=Wait()), "o-1")
        started = env.clock.now()
        await env.advance(timedelta(days=13))
        assert (await env.snapshot(saga_id)).waiting_for == "sleep"
        await env.advance(timedelta(days=2))
        assert env.clock.now() - started == timedelta(days=15)
        assert str((await env.snapshot()).waiting_for).startswith("event:Approved")


async def test_two_runs_make_the_same_calls_at_the_same_times() -> None:
    async def told() -> tuple[object, ...]:
        async with saga_env() as env:
            env.fail_at("ship", times=2)
            env.crash_at("after:charge")
            snapshot = await env.run(shop_saga(Shop()), "o-1")
            return env.calls, [(item.kind, item.at) for item in snapshot.step_history]

    assert await told() == await told()


async def test_jitter_is_not_left_to_chance() -> None:
    async def ends() -> datetime:
        builder = SagaBuilder()
        builder.add_step(
            step_id="reserve",
            step=Deed(Shop(), "reserve"),
            input_map=lambda ctx: Order(order_id=ctx.initial_data),
            retry_policy=ExponentialRetry(max_attempts=3, base_delay=HOUR, jitter=1.0),
        )
        async with saga_env() as env:
            env.fail_at("reserve")
            await env.run(builder.build(), "o-1")
            return env.clock.now()

    assert await ends() == datetime(2026, 1, 1, 3, tzinfo=UTC)


async def test_steps_are_entered_as_often_as_without_an_environment() -> None:
    """A process finds the models of events in what a step's class refers to, and so must this."""

    class Asks(Deed):
        def _wish(self) -> AwaitEvent:
            return AwaitEvent(Approved)

        async def execute(self, inp: Order, ctx: StepContext) -> Done | AwaitEvent:
            return self._wish() if ctx.event is None else Done(key=ctx.event.by)

        async def compensate(self, inp: Order, out: Done) -> None: ...

    async with saga_env() as env:
        await env.run(saga_of(ask=Asks(Shop(), "ask")), "o-1", events=[Approved(by="me")])
        assert [str(call) for call in env.calls] == ["execute ask: waits", "execute ask: returned"]


async def test_orchestrator_and_admin_are_those_of_the_living_worker() -> None:
    async with saga_env() as env:
        env.register("order", shop_saga(Shop()))
        first = env.orchestrator
        assert isinstance(first, SagaOrchestrator)
        env.crash_at("before:charge")
        await env.run("order", "o-1")
        assert env.orchestrator is not first
        assert env.workers_lost == 1
        assert (await env.admin.count(status=SagaStatus.COMPLETED)) == 1


async def test_saga_without_end_is_told() -> None:
    class Forever(Deed):
        async def execute(self, inp: Order, ctx: StepContext) -> Done | Sleep:
            return Sleep(timedelta(days=300))

        async def compensate(self, inp: Order, out: Done) -> None: ...

    async with saga_env(most_turns=20) as env:
        with pytest.raises(SagaStateError, match=r"came to no rest within 20 turns: .* 'forever'"):
            await env.run(saga_of(forever=Forever(Shop(), "x")), "o-1")


async def test_wait_is_no_option() -> None:
    async with saga_env() as env:
        with pytest.raises(SagaDefinitionError, match="wait"):
            await env.run(shop_saga(Shop()), "o-1", wait=True)


async def test_nothing_started_is_told() -> None:
    async with saga_env() as env:
        with pytest.raises(SagaStateError, match="no saga was started"):
            await env.finish()


async def test_child_saga_runs_beside_its_parent() -> None:
    shop = Shop()
    builder = SagaBuilder()
    builder.add_child(saga_name="inner", step_id="inner", input_map=lambda ctx: ctx.initial_data)
    builder.add_step(
        step=Deed(shop, "outer"), step_id="outer", input_map=lambda ctx: Order(order_id="o-2")
    )
    async with saga_env() as env:
        env.register("inner", shop_saga(shop))
        env.register("outer", builder.build())
        env.fail_at("after:outer", error=NonRetryableError)
        env.crash_at("before:charge")
        ended = await env.run("outer", "o-1")
    assert ended.status is SagaStatus.COMPENSATED
    assert shop.rows == {"outer": "o-2"}  # the step that failed told nobody what it had done


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "now"}, "start must be a datetime"),
        ({"start": datetime(2026, 1, 1)}, "start has no time zone"),  # noqa: DTZ001
        ({"limits": 5}, "limits must be PayloadLimits"),
        ({"most_turns": "x"}, "most_turns must be a whole number"),
        ({"most_turns": 0}, "most_turns must be a whole number"),
        ({"plugins": 5}, "plugins must be a sequence"),
        ({"world": 5}, "world must be a plain function"),
        ({"lease": 5}, "execution_lease must be a timedelta"),
    ],
)
def test_bad_environment_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SagaDefinitionError, match=words):
        saga_env(**options)


async def test_step_in_a_transaction_is_refused_and_told_where_to_test_it() -> None:
    class Books(BaseStep[str, str]):
        async def execute(self, inp: str, ctx: StepContext) -> str:
            return inp

    builder = SagaBuilder()
    step = Books()
    builder.add_step(step=step, input_map=lambda ctx: "", step_id="book", transaction=True)
    saga = builder.build()
    with pytest.raises(SagaDefinitionError, match=r"'book' has transaction=True.*SqlSagaStore"):
        await saga_env().run(saga)
    with pytest.raises(SagaDefinitionError, match=r"'book' has transaction=True.*SqlSagaStore"):
        await check_saga(saga)


async def test_world_that_cannot_be_copied_is_refused() -> None:
    async with saga_env(world=lambda: (n for n in ())) as env:
        with pytest.raises(SagaDefinitionError, match=r"copy\.deepcopy can copy"):
            await env.run(shop_saga(Shop()), "o-1")


@pytest.mark.parametrize("by", [5, None, "1 h"])
async def test_time_passes_by_timedeltas_alone(by: Any) -> None:
    env, clock = saga_env(), ManualClock()
    with pytest.raises(SagaDefinitionError, match="needs a timedelta"):
        await env.advance(by)
    for move in (clock.advance, clock.jump):
        with pytest.raises(SagaDefinitionError, match="needs a timedelta"):
            move(by)
    with pytest.raises(SagaDefinitionError, match="start must be a datetime"):
        ManualClock(by)
