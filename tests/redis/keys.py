"""The keys of one namespace, seen and changed past the store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from saga_backends.redis.scripts import SCRIPTS
from saga_core.records import SagaRecord

__all__ = ["Keys", "sends"]

CONTENT = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'hash' then
    value = redis.call('HGETALL', key)
  elseif kind == 'list' then
    value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'zset' then
    value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  else
    value = redis.call('GET', key)
  end
  found[#found + 1] = { key, kind, value }
end
return found
"""


class Keys:
    """What a namespace holds."""

    def __init__(self, client: Redis, namespace: str) -> None:
        self.client = client
        self.prefix = f"saga:{{{namespace}}}:"

    async def content(self) -> dict[str, Any]:
        """Return every key, without the prefix, with its value: what must not have changed."""
        found = {}
        for key, kind, value in await self.client.eval(CONTENT, 0, f"{self.prefix}*"):
            if kind == "hash":  # without an order worth comparing
                value = dict(zip(value[::2], value[1::2], strict=True))
            found[key.removeprefix(self.prefix)] = (kind, value)
        return found

    async def spoil(self, name: str) -> bytes | None:
        """Put a value of another type there; return what `mend` needs."""
        key = self.prefix + name
        kept: bytes | None = await self.client.execute_command("DUMP", key, NEVER_DECODE=True)
        await self.client.delete(key)
        await self.client.set(key, "somebody else's")
        return kept

    async def mend(self, name: str, kept: bytes | None) -> None:
        key = self.prefix + name
        await self.client.delete(key)
        if kept is not None:
            await self.client.restore(key, 0, kept)

    async def age(self, record: SagaRecord, by: timedelta) -> None:
        """Move a due time into the past."""
        saga_id: UUID = record.saga_id
        due = int(await self.client.hget(f"{self.prefix}saga:{saga_id}", "due"))
        due -= by // timedelta(microseconds=1)
        await self.client.hset(f"{self.prefix}saga:{saga_id}", "due", due)
        kind = await self.client.hget(f"{self.prefix}saga:{saga_id}", "kind")
        lane = int(record.state.direction)
        await self.client.zadd(f"{self.prefix}due", {str(saga_id): due})
        await self.client.zadd(f"{self.prefix}due:{lane}:{kind}", {str(saga_id): due})


def sends(verb: str) -> Any:
    """Return what picks the call of a script, by its digest or whole."""
    script = SCRIPTS[verb]
    marks = (script.digest.encode(), script.text.encode())
    return lambda command: any(mark in command for mark in marks)
