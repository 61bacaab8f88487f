"""Messages that are not lost: a saga tells a Redis stream how it ended.

python examples/publish.py [STORE_URL]

The stream is kept by the Redis at REDIS_URL (default: redis://127.0.0.1:6379/0).
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any
from uuid import uuid4

import redis.asyncio
from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    FixedRetry,
    HookContext,
    Message,
    PublishStep,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    open_store,
)

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

REMEMBERED = timedelta(days=7)
"""For how long a key is remembered: longer than a saga may be stuck before it is retried."""

ADD_ONCE = """
local known = redis.call('GET', KEYS[2])
if known then return known end
local id = redis.call('XADD', KEYS[1], '*', 'key', ARGV[1], 'message', ARGV[2])
redis.call('SET', KEYS[2], id, 'EX', ARGV[3])
return id
"""


class RedisStreams:
    """A `Publisher`: each topic is a stream, and a message that comes again is not added again."""

    def __init__(self, client: Any) -> None:
        self._add_once = client.register_script(ADD_ONCE)

    async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
        text = json.dumps({"payload": message.payload, "headers": message.headers})
        keys = [message.topic, f"{{{message.topic}}}:sent:{idempotency_key}"]
        seconds = int(REMEMBERED.total_seconds())
        message_id: bytes = await self._add_once(keys, [idempotency_key, text, seconds])
        return message_id.decode()


class Order(BaseModel):
    order_id: str


class Ship(BaseStep[Order, Order]):
    async def execute(self, inp: Order) -> Order:
        return inp


def build_order_saga(streams: RedisStreams, stream: str) -> SagaDefinition:
    def ended(ctx: HookContext) -> Message:
        payload = {"order": ctx.initial_data["order_id"], "status": ctx.status.value}
        return Message(topic=stream, key=ctx.aggregation_id, payload=payload)

    # A broker that is down is tried for a day; then the saga is STUCK, and retry_step tries again.
    patience = FixedRetry(max_attempts=24 * 60, delay=timedelta(minutes=1))
    builder = SagaBuilder()
    builder.add_step(
        step_id="ship",
        step=Ship(),
        input_map=lambda ctx: Order(order_id=ctx.initial_data["order_id"]),
    )
    publish = PublishStep(streams)
    builder.on_completed(step=publish, input_map=ended, retry_policy=patience)
    builder.on_compensated(step=publish, input_map=ended, retry_policy=patience)
    return builder.build()


async def main(url: str) -> None:
    client = redis.asyncio.Redis.from_url(REDIS_URL)
    order_id = f"order-{uuid4().hex[:8]}"
    stream = f"example:orders:{order_id}"
    try:
        async with open_store(url, create_schema=True) as store:
            orchestrator = SagaOrchestrator(store=store)
            orchestrator.register("publish", build_order_saga(RedisStreams(client), stream))
            saga_id = await orchestrator.start(
                saga_name="publish", initial_data={"order_id": order_id}, aggregation_id=order_id
            )
            snapshot = await orchestrator.get_snapshot(saga_id)
            show(snapshot)
            expect(snapshot, SagaStatus.COMPLETED)
        for _, fields in await client.xrange(stream):
            told = json.loads(fields[b"message"])["payload"]
            print(f"in the stream: {told['status']}, key ...{fields[b'key'].decode()[36:]}")
        await client.delete(stream)
    finally:
        await client.aclose()


if __name__ == "__main__":
    run(main, __doc__)
