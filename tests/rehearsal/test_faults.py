"""What is planned to go wrong goes wrong there, once, and the saga lives on."""

from __future__ import annotations

import pytest

from saga_core import NonRetryableError, SagaDefinitionError, SagaStatus
from saga_testing import InjectedError, SagaEnv, saga_env
from tests.rehearsal.shop import Shop, Wait, saga_of, shop_saga

STEPS = ("reserve", "charge", "ship")


def calls(env: SagaEnv) -> list[str]:
    return [f"{call.action} {call.step_id}" for call in env.calls]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("moment", "twice"), [("before", 0), ("after", 1), ("recorded", 0)])
async def test_lost_worker_is_succeeded_where_it_was_lost(
    step: str, moment: str, twice: int
) -> None:
    async with saga_env() as env:
        started = env.clock.now()
        env.crash_at(f"{moment}:{step}")
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        assert snapshot.status is SagaStatus.COMPLETED
        assert calls(env).count(f"execute {step}") == 1 + twice
        assert len(env.calls) == 3 + twice
        assert env.workers_lost == 1
        waited = (env.clock.now() - started).total_seconds()
        # What ends the saga leaves nothing to take over.
        assert waited == (0 if (moment, step) == ("recorded", "ship") else 30)


@pytest.mark.parametrize("moment", ["before", "after", "recorded"])
@pytest.mark.parametrize("step", ["reserve", "charge"])
async def test_worker_is_lost_in_a_compensation(step: str, moment: str) -> None:
    shop = Shop()
    async with saga_env() as env:
        env.fail_at("ship")
        env.crash_at(f"{moment}:compensate:{step}")
        assert (await env.run(shop_saga(shop), "o-1")).status is SagaStatus.COMPENSATED
        twice = 1 if moment == "after" else 0
        assert calls(env).count(f"compensate {step}") == 1 + twice
    assert shop.rows == {}


async def test_failing_step_uses_up_its_policy_and_is_undone() -> None:
    async with saga_env() as env:
        env.fail_at("ship")
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        assert snapshot.status is SagaStatus.COMPENSATED
        assert snapshot.error_code == "InjectedError"
        assert calls(env)[2:] == ["compensate charge", "compensate reserve"]


async def test_failures_can_be_counted() -> None:
    async with saga_env() as env:
        env.fail_at("charge", error=ConnectionError("no answer"), times=2)
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        assert snapshot.status is SagaStatus.COMPLETED
        errors = [item.error_code for item in snapshot.step_history if item.error_code]
        assert errors == ["ConnectionError", "ConnectionError"]


async def test_step_can_fail_after_its_work() -> None:
    async with saga_env() as env:
        env.fail_at("after:charge", times=1)
        assert (await env.run(shop_saga(Shop()), "o-1")).status is SagaStatus.COMPLETED
        assert calls(env).count("execute charge") == 2


@pytest.mark.parametrize("error", [NonRetryableError("never"), NonRetryableError])
async def test_error_that_is_not_retried_is_not(
    error: NonRetryableError | type[NonRetryableError],
) -> None:
    async with saga_env() as env:
        env.fail_at("after:charge", error=error)
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        assert snapshot.error_code == "NonRetryableError"
        assert calls(env).count("execute charge") == 1


async def test_failing_compensation_is_retried_and_then_stuck() -> None:
    async with saga_env() as env:
        env.fail_at("ship")
        env.fail_at("compensate:reserve", times=3)
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        assert snapshot.status is SagaStatus.STUCK
        await env.admin.retry_step(snapshot.saga_id, wait=False)
        assert (await env.finish()).status is SagaStatus.COMPENSATED


async def test_later_visit_is_named_by_its_number() -> None:
    async with saga_env() as env:
        env.fail_at("charge", times=1)
        env.crash_at("before:charge", nth=2)
        assert (await env.run(shop_saga(Shop()), "o-1")).status is SagaStatus.COMPLETED
        assert env.workers_lost == 1


async def test_visits_count_from_when_they_are_asked_for() -> None:
    saga = shop_saga(Shop())
    async with saga_env() as env:
        await env.run(saga, "o-1")
        env.crash_at("before:charge")
        await env.run(saga, "o-2")
        assert env.workers_lost == 1


async def test_saga_that_kills_each_worker_gets_stuck() -> None:
    async with saga_env() as env:
        for nth in range(1, 8):
            env.crash_at("after:charge", nth=nth)
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        assert snapshot.status is SagaStatus.STUCK
        assert "worker lost 3 times in step 'charge'" in str(snapshot.last_error)
        assert env.unreached
        env.forget()
        await env.admin.retry_step(snapshot.saga_id, wait=False)
        assert (await env.finish()).status is SagaStatus.COMPLETED


async def test_dead_worker_writes_nothing() -> None:
    async with saga_env() as env:
        env.crash_at("after:charge")
        snapshot = await env.run(shop_saga(Shop()), "o-1")
        kinds = [str(item.kind) for item in snapshot.step_history]
        assert kinds == ["completed", "completed", "completed"]


async def test_worker_can_be_lost_more_than_once() -> None:
    async with saga_env() as env:
        for nth in (1, 2):
            env.crash_at("after:charge", nth=nth)
        assert (await env.run(shop_saga(Shop()), "o-1")).status is SagaStatus.COMPLETED
        assert env.workers_lost == 2


async def test_places_may_be_named_before_the_saga_is_known() -> None:
    async with saga_env() as env:
        env.crash_at("after:charge")
        assert (await env.run(shop_saga(Shop()), "o-1")).status is SagaStatus.COMPLETED

    env = saga_env()
    env.crash_at("after:chrage")
    with pytest.raises(SagaDefinitionError, match="the steps are reserve, charge, ship"):
        await env.run(shop_saga(Shop()), "o-1")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("after:chrage", "no step 'chrage'; the steps are reserve, charge, ship"),
        ("", "names no place"),
        ("during:charge", "names no place: write"),
        ("after:", "names no place"),
        ("before:after:charge", "names no place"),
        ("probe:charge", "has no probe; steps that have one: none"),
        (7, "names no place"),
    ],
)
async def test_bad_place_is_refused_with_the_steps(place: str, words: str) -> None:
    async with saga_env() as env:
        env.register("order", shop_saga(Shop()))
        for plan in (env.crash_at, env.fail_at):
            with pytest.raises(SagaDefinitionError, match=words):
                plan(place)
        with pytest.raises(SagaDefinitionError, match="names no place"):
            env.fail_at("recorded:charge")


async def test_step_without_compensate_is_refused() -> None:
    async with saga_env() as env:
        env.register("waiting", saga_of(wait=Wait()))
        with pytest.raises(SagaDefinitionError, match="step 'wait' has no compensate"):
            env.crash_at("compensate:wait")


@pytest.mark.parametrize(
    "options",
    [{"nth": 0}, {"times": 0}, {"nth": True}, {"error": "no"}, {"error": UnicodeDecodeError}],
)
async def test_bad_plan_is_refused(options: dict[str, object]) -> None:
    async with saga_env() as env:
        with pytest.raises(SagaDefinitionError):
            env.fail_at("charge", **options)  # type: ignore[arg-type]


async def test_plan_that_was_never_reached_fails_the_test() -> None:
    async def tests_nothing() -> None:
        async with saga_env() as env:
            env.crash_at("after:compensate:reserve")
            await env.run(shop_saga(Shop()), "o-1")

    with pytest.raises(AssertionError, match=r'crash_at\("after:compensate:reserve"\): no saga'):
        await tests_nothing()


async def test_error_of_the_block_is_not_hidden() -> None:
    async def fails() -> None:
        async with saga_env() as env:
            env.crash_at("after:charge")
            raise InjectedError

    with pytest.raises(InjectedError):
        await fails()
