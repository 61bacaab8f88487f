"""A retry policy of a user is code as a step is: its fault is a failure of the step, and told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from saga_core import RetryPolicy, SagaStatus, SagaStore
from saga_core.failure import MAX_ERROR_BYTES
from tests.behaviour.branches import parallel
from tests.behaviour.cast import HOUR, Story, fails, saga


class Own(RetryPolicy):
    """Gives or raises what it is made of, one after the other, the last for ever."""

    max_attempts: int | None = 3
    delays: list[Any]

    def delay_after(self, failed_attempts: int, *, jitter: float) -> Any:
        delay = self.delays.pop(0) if len(self.delays) > 1 else self.delays[0]
        if isinstance(delay, Exception):
            raise delay
        return delay


class Unsure(RetryPolicy):
    max_attempts: int | None = 3

    def retries(self, error: BaseException) -> bool:
        raise RuntimeError(f"unsure of {type(error).__name__}")


FAULTS: dict[str, tuple[RetryPolicy, str]] = {
    "raises": (Own(delays=[ZeroDivisionError("bug")]), "Own.delay_after raised ZeroDivisionError"),
    "too long": (Own(delays=[timedelta(days=10**8)]), "Own.delay_after gave the delay 100000000 "),
    "negative": (Own(delays=[timedelta(days=-5)]), "Own.delay_after gave the delay -5 days"),
    "no timedelta": (Own(delays=[5]), "Own.delay_after gave int, not a timedelta from 0 to"),
    "retries raises": (Unsure(), "Unsure.retries raised RuntimeError: unsure of ValueError"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_step_whose_policy_is_at_fault_has_failed_for_good(
    store: SagaStore, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy, told = FAULTS[fault]
    story = Story()
    one = saga(store, story.step(), story.step(fails("no card")), retry_policy=policy)
    after = await one.run()
    assert (after.status, after.error_code) == (SagaStatus.COMPENSATED, "ValueError")
    assert (after.last_error or "").startswith(f"ValueError: no card; not tried again: {told}")
    assert story.log == ["do step_0", "do step_1", "undo step_0 1->2"]
    failed = next(entry for entry in after.step_history if entry.kind == "failed")
    assert (failed.attempt, failed.error) == (1, after.last_error)
    assert told in caplog.text
    left = await one.start(wait=False)
    assert await one.orchestrator.run_due() == 1
    assert (await one.see(left)).status is SagaStatus.COMPENSATED
    assert await one.admin.count(status="COMPENSATED") == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_compensation_whose_policy_is_at_fault_is_stuck(store: SagaStore, fault: str) -> None:
    policy, told = FAULTS[fault]
    story = Story()
    steps = story.step(undo=fails("closed")), story.step(fails())
    after = await saga(store, *steps, compensation_retry_policy=policy).run()
    assert after.status is SagaStatus.STUCK
    assert (after.last_error or "").startswith(f"ValueError: closed; not tried again: {told}")


@pytest.mark.parametrize("fault", FAULTS)
async def test_branch_whose_policy_is_at_fault_has_failed_for_good(
    store: SagaStore, fault: str
) -> None:
    policy, told = FAULTS[fault]
    steps = {"left": Story().step(fails("no card")), "right": Story().step()}
    after = await saga(store, made=parallel(steps, {}, retry_policy=policy)).run()
    assert after.status is SagaStatus.COMPENSATED
    assert told in (after.last_error or "")


class Paid(BaseModel):
    amount: int


async def test_event_before_a_retry_is_taken_though_the_policy_is_at_fault_by_now(
    store: SagaStore,
) -> None:
    story = Story()
    policy = Own(delays=[HOUR, ZeroDivisionError("bug")])
    one = saga(store, story.step(fails("no card")), retry_policy=policy)
    saga_id = await one.start()
    assert (await one.see(saga_id)).status is SagaStatus.SUSPENDED
    await one.orchestrator.signal(saga_id=saga_id, event=Paid(amount=1))
    await one.orchestrator.run_due()
    after = await one.see(saga_id)
    assert after.status is SagaStatus.COMPENSATED
    assert "ValueError: no card; not tried again: Own.delay_after" in (after.last_error or "")


async def test_fault_of_the_policy_is_told_beside_an_error_of_any_length(store: SagaStore) -> None:
    policy = Own(delays=[ZeroDivisionError("b" * 9999)])
    after = await saga(store, Story().step(fails("é" * 9999)), retry_policy=policy).run()
    error = after.last_error or ""
    assert len(error.encode()) <= MAX_ERROR_BYTES
    assert error.startswith("ValueError: éé")
    assert "...; not tried again: Own.delay_after raised ZeroDivisionError: bbb" in error
