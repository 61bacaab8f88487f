"""Sagas in this process's memory: the fake that unit tests use, and a backend like the others."""

from __future__ import annotations

from saga_core.hookspecs import BackendSpec, Capability, hookimpl
from saga_testing.memory.opening import open_memory
from saga_testing.memory.store import MemoryStore
from saga_testing.memory.table import MemoryData

__all__ = ["MemoryData", "MemoryStore", "open_memory"]


@hookimpl
def saga_backend() -> BackendSpec:
    """Describe this backend."""
    return BackendSpec(
        name="memory",
        summary="this process's memory, for tests",
        open=open_memory,
        capabilities=frozenset({Capability.WAKEUP}),
    )
