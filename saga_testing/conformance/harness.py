"""What a backend's author writes for the suite: how to open the store, and how to age a saga."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from saga_core.hookspecs import Capability
from saga_core.store import SagaStore

__all__ = ["StoreHarness"]


class StoreHarness(ABC):
    """One empty store, for one test. Yielded by the sync pytest fixture `harness`.

    For a store that is `MULTI_PROCESS` or `DURABLE` some rules run in other processes, to which
    the harness travels by pickle: keep in it what names the store (a path, a URL, a prefix), open
    things only in its methods, and define the class in a module.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    """Which optional topics run. Declare what `BackendSpec.capabilities` declares."""
    backend: ClassVar[str | None] = None
    """The entry-point name of the store's backend, if it is published: the kit then compares."""

    @abstractmethod
    def open(self, *, namespace: str = "default") -> AbstractAsyncContextManager[SagaStore]:
        """Open a handle on the store: independent, as another process would have it.

        All handles of one harness see the same sagas, those of other harnesses see none of them.
        """

    @abstractmethod
    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        """Move the stored times of one saga into the past: due_at, created_at, updated_at.

        The times in its history and inbox may move with them; no rule of the suite needs that.
        So leases end and retries fall due at once, without waiting and without a clock in the
        store's own code. An UPDATE, a script, an attribute: whatever is simplest.
        """
