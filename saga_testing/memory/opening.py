"""How `open_store` comes by a memory store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga_core.errors import StoreUrlError
from saga_core.hookspecs import StoreOptions
from saga_testing.memory.store import MemoryStore
from saga_testing.memory.table import MemoryData

__all__ = ["open_memory"]

_shared: dict[str, tuple[MemoryData, int]] = {}


@asynccontextmanager
async def open_memory(
    url: str, *, create_schema: bool | None, options: StoreOptions
) -> AsyncIterator[MemoryStore]:
    """Give `memory://` a store of its own, and `memory://name` one shared within the process.

    Shared sagas live as long as at least one store of that name is open.
    """
    name = url.partition("://")[2].strip("/")
    if not all(character.isalnum() or character in "_-" for character in name):
        raise StoreUrlError("memory://NAME takes letters, digits, '_' and '-' only")
    if not name:
        yield MemoryStore(options.namespace)
        return
    data, users = _shared.get(name, (MemoryData(), 0))
    _shared[name] = (data, users + 1)
    try:
        yield MemoryStore(options.namespace, data=data)
    finally:
        data, users = _shared[name]
        if users == 1:
            del _shared[name]
        else:
            _shared[name] = (data, users - 1)
