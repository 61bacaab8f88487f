"""What a backend's author writes for the suite: how to open the store, and how to age a saga."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, ClassVar, Protocol
from uuid import UUID

from saga_core.hookspecs import Capability
from saga_core.store import SagaStore

__all__ = ["Business", "StoreHarness"]


class Business(Protocol):
    """The user's own rows in the store's database, for stores that lend their transactions."""

    async def write(self, transaction: Any, text: str) -> None:
        """Write a row with what the store lends to steps, or with a `session` of ours."""
        ...

    async def break_a_rule(self, transaction: Any) -> None:
        """Send a statement that the database refuses, and let what it raises through."""
        ...

    async def rows(self) -> list[str]:
        """Return the rows that are committed, in the order in which they were written."""
        ...

    def session(self) -> AbstractAsyncContextManager[Any]:
        """Open what `start(session=)` takes, in a transaction that is committed at the end of the
        block, and rolled back where the block raises."""
        ...


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

    def business(self) -> AbstractAsyncContextManager[Business]:
        """Open the user's own side of the database. Asked for only with `TRANSACTION` declared.

        What it gives sees the rows of this harness only.
        """
        raise NotImplementedError("a harness that declares TRANSACTION has a business")

    @abstractmethod
    async def age(self, saga_id: UUID, by: timedelta, *, namespace: str = "default") -> None:
        """Move the stored times of one saga into the past: due_at, created_at, updated_at.

        The times in its history and inbox may move with them; no rule of the suite needs that.
        So leases end and retries fall due at once, without waiting and without a clock in the
        store's own code. An UPDATE, a script, an attribute: whatever is simplest.
        """
