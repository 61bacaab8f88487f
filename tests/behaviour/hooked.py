"""Sagas with hooks for the rules, and a publisher that keeps what it was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saga_core import (
    HookContext,
    Message,
    PublishStep,
    RetryPolicy,
    SagaBuilder,
    SagaDefinition,
)
from tests.behaviour.cast import Number, Story, definition

__all__ = ["HOOKS", "Outbox", "hooked"]

HOOKS = ("on_start", "on_completed", "on_compensated", "on_failed", "on_stuck")


class Outbox:
    """A broker: it knows each message by its key, however often it comes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.trouble: Callable[[Message], Any] = lambda message: None
        """Called before each message; it may raise."""

    async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
        self.trouble(message)
        self.sent.append((idempotency_key, message))
        return str(len(self.sent))

    @property
    def topics(self) -> list[str]:
        """What has come, each message once."""
        return [message.topic for message in dict(self.sent).values()]

    def down(self, *topics: str) -> None:
        """Take no messages, or none to these topics."""

        def trouble(message: Message) -> None:
            if not topics or message.topic in topics:
                raise ConnectionError("the broker is down")

        self.trouble = trouble

    def up(self) -> None:
        """Take messages."""
        self.trouble = lambda message: None


def told(ctx: HookContext) -> Message:
    """Return a message that says all that a hook is told."""
    return Message(
        topic=f"{ctx.status}",
        key=str(ctx.saga_id),
        payload={
            "saga": ctx.saga_name,
            "data": ctx.initial_data,
            "outputs": dict(ctx.step_outputs),
            "at": ctx.step_id,
            "error": ctx.error_code,
        },
    )


def hooked(
    *steps: Any,
    outbox: Outbox,
    hooks: tuple[str, ...] = HOOKS,
    hook_policy: RetryPolicy | None = None,
    **options: Any,
) -> SagaDefinition:
    """Return the saga that `definition` makes, with hooks that publish what they are told."""
    plain = definition(*steps, **options)
    builder = SagaBuilder()
    builder.add_step(step=Story().step(), input_map=lambda ctx: Number(n=1))
    for hook in hooks:
        add = getattr(builder, hook)
        add(step=PublishStep(outbox), input_map=told, retry_policy=hook_policy)
    return SagaDefinition(plain.steps, plain.compensate_on_failure, builder.build().hooks)
