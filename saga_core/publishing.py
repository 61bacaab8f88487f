"""Messages as durable steps: `PublishStep` sends one, at least once, with its idempotency key."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from saga_core.errors import SagaDefinitionError
from saga_core.step import BaseStep, StepContext

__all__ = ["Message", "PublishStep", "Published", "Publisher"]


class Message(BaseModel):
    """What is sent: the input of a `PublishStep`, kept with the saga until it is on its way."""

    model_config = ConfigDict(frozen=True)

    topic: str = Field(min_length=1)
    """Where to: a stream, a topic, an exchange."""
    payload: Any = None
    """Whatever is JSON."""
    key: str | None = None
    """What the broker orders by, if it does."""
    headers: dict[str, str] = Field(default_factory=dict)


class Published(BaseModel):
    """What a `PublishStep` puts out."""

    idempotency_key: str
    message_id: str | None = None
    """What the broker calls the message, if it says so."""


@runtime_checkable
class Publisher(Protocol):
    """Hands messages to a broker. One instance serves all sagas of a process, many at a time."""

    async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
        """Return once the broker has the message, what it calls it if it says so.

        Raise whatever there is to raise if it may not have it: the step's retry policy decides.
        The same message may come again, after any failure, with the same `idempotency_key`, and
        with no other message: send it along, so that a consumer, or the broker, can tell.
        """
        ...


class PublishStep(BaseStep[Message, Published]):
    """Sends a message: as a hook, or as a step among others. Nothing undoes it."""

    def __init__(self, publisher: Publisher) -> None:
        """Raises `SagaDefinitionError` for what has no `publish`."""
        if isinstance(publisher, type) or not isinstance(publisher, Publisher):
            raise SagaDefinitionError(
                "PublishStep needs a publisher, an object with `async def publish(self, message, "
                f"*, idempotency_key)`, got {publisher!r}"
            )
        self._publisher = publisher

    async def execute(self, inp: Message, ctx: StepContext) -> Published:
        """Send the message."""
        key = ctx.idempotency_key
        message_id = await self._publisher.publish(inp, idempotency_key=key)
        return Published(idempotency_key=key, message_id=message_id)
