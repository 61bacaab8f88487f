"""What is wrong with a hook is said when it is added, with its name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from saga_core import (
    BaseStep,
    HookContext,
    InputContext,
    Message,
    PublishStep,
    SagaBuilder,
    SagaDefinitionError,
)
from saga_core.status import Hook, SagaStatus

HOOKS = ("on_start", "on_completed", "on_compensated", "on_failed", "on_stuck")


class A(BaseModel):
    n: int


class Step(BaseStep[A, A]):
    async def execute(self, inp: A) -> A:
        return inp


class Broker:
    async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
        return None


def seen(ctx: HookContext) -> A:
    return A(n=1)


def seen_as_input(ctx: InputContext) -> A:
    return A(n=1)


def of_a_step(out: A) -> A:
    return out


def to_a_message(ctx: HookContext) -> Message:
    return Message(topic="a")


def built(*hooks: str) -> Any:
    builder = SagaBuilder()
    builder.add_step(step=Step(), input_map=seen_as_input)
    for hook in hooks:
        getattr(builder, hook)(step=Step(), input_map=seen)
    return builder.build()


def test_every_end_has_a_hook() -> None:
    assert tuple(Hook) == (*HOOKS, Hook.TELL_PARENT)
    ends = (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED, SagaStatus.STUCK)
    assert tuple(map(Hook.of, ends)) == HOOKS[1:]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step": Step}, "got the class Step"),
        ({"step": "no step"}, "step must be a BaseStep, got str"),
        ({"input_map": of_a_step}, "input_map takes 'out: A', but it will get HookContext"),
        ({"input_map": to_a_message}, "input_map returns Message, but the step needs A"),
        ({"input_map": None}, "input_map must be callable"),
        ({"timeout": timedelta(0)}, "timeout must be above zero"),
        ({"retry_policy": 3}, "retry_policy must be a RetryPolicy"),
    ],
)
def test_what_does_not_fit_is_refused(hook: str, given: dict[str, Any], words: str) -> None:
    builder = SagaBuilder()
    with pytest.raises(SagaDefinitionError, match=f"hook {hook}.*{words}"):
        getattr(builder, hook)(**{"step": Step(), "input_map": seen, **given})


def test_map_that_takes_what_a_step_sees_fits_a_hook() -> None:
    SagaBuilder().on_failed(step=Step(), input_map=seen_as_input)


def test_second_hook_of_one_kind_is_refused() -> None:
    builder = SagaBuilder()
    builder.on_stuck(step=Step(), input_map=seen)
    with pytest.raises(SagaDefinitionError, match="hook on_stuck already"):
        builder.on_stuck(step=Step(), input_map=seen)


@pytest.mark.parametrize("hook", HOOKS)
def test_step_cannot_have_the_name_of_a_hook(hook: str) -> None:
    with pytest.raises(SagaDefinitionError, match="name of a hook"):
        SagaBuilder().add_step(step=Step(), input_map=seen_as_input, step_id=hook)


def test_hooks_are_part_of_what_a_saga_in_flight_depends_on() -> None:
    plain, hooked = built(), built("on_failed")
    assert hooked.fingerprint.startswith(plain.fingerprint)
    assert hooked.differences(plain.fingerprint) == ["hook 'on_failed' was added"]
    assert plain.differences(hooked.fingerprint) == ["hook 'on_failed' is gone"]
    assert built("on_failed", "on_start").fingerprint == built("on_start", "on_failed").fingerprint


@pytest.mark.parametrize("publisher", [None, Broker, object()])
def test_publisher_that_is_none_is_refused(publisher: Any) -> None:
    with pytest.raises(SagaDefinitionError, match="PublishStep needs a publisher"):
        PublishStep(publisher)
