"""A memory store that lends transactions, and the business beside it: the kit's rules see both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from saga_core.errors import SagaError, SagaStateError, TransactionFailedError
from saga_core.hookspecs import Capability
from saga_core.records import Committed, Created, NewSaga, Transition
from saga_core.store import SagaStore
from saga_testing import MemoryStore
from saga_testing.conformance import Business
from tests.kit.running import KitHarness

__all__ = ["LendingHarness", "LendingStore"]


class Unit:
    """One open transaction: rows that nobody else sees yet."""

    def __init__(self, book: list[str], write: Callable[[Unit, str], None]) -> None:
        self.book = book
        self.rows: list[str] = []
        self.failed = False
        self.at: dict[str, list[Callable[[], None]]] = {"commit": [], "end": []}
        self._write = write

    def write(self, text: str) -> None:
        self._write(self, text)

    def refuse(self) -> None:
        self.failed = True
        raise RefusedError("the database refuses it")


class RefusedError(Exception):
    """What the database itself raises."""


class Lent:
    """What the store lends."""

    def __init__(self, store: LendingStore, unit: Unit) -> None:
        self._store = store
        self.handle = unit

    async def commit(self, transition: Transition) -> Committed:
        return await self._store._commit_lent(self.handle, transition)


class LendingStore(MemoryStore):
    """Rows and records change within one turn of the loop: together, or not at all."""

    capabilities = frozenset({Capability.WAKEUP, Capability.TRANSACTION})
    book: list[str]
    """The rows of the business that are committed, as all handles see them."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Lent]:
        unit = Unit(self.book, self._write)
        try:
            yield Lent(self, unit)
        finally:
            self._end(unit)

    def _write(self, unit: Unit, text: str) -> None:
        unit.rows.append(text)

    async def _commit_lent(self, unit: Unit, transition: Transition) -> Committed:
        """Change the record, then the rows, without a pause."""
        if unit.failed:
            raise TransactionFailedError("a statement had failed", saga_id=transition.saga_id)
        committed = await self.commit(transition)
        self._keep(unit)
        return committed

    def _keep(self, unit: Unit) -> None:
        unit.book.extend(unit.rows)
        unit.rows = []
        for happens in unit.at["commit"]:
            happens()

    def _end(self, unit: Unit) -> None:
        unit.rows = []

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        row = self._row(saga_id)
        mine = [known for known in row.commit_ids if known == commit_id]
        return self._first_answer(row, mine[-1]) if mine else None

    async def create_in(self, session: Any, new: NewSaga) -> Created:
        if not isinstance(session, Unit) or session.book is not self.book:
            raise SagaStateError("session= is no session of this store's own database")
        known = self.data.rows.get((self.namespace, new.saga_id))
        if known is not None:
            return Created(record=self._read(known), created=False)
        self._check_new(new)

        def write() -> None:
            self._follow_up(self._insert(new))

        session.at["commit"].append(write)
        record = new.as_record(now=self._now(), due_at=self._due_at(new.due))
        return Created(record=record, created=True)


_ = SagaError  # for the bugs, which are written in this module's names


class MemoryBusiness:
    """The user's own side."""

    def __init__(self, book: list[str]) -> None:
        self._book = book

    async def write(self, transaction: Unit, text: str) -> None:
        transaction.write(text)

    async def break_a_rule(self, transaction: Unit) -> None:
        transaction.refuse()

    async def rows(self) -> list[str]:
        return list(self._book)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Unit]:
        unit = Unit(self._book, lambda unit, text: unit.rows.append(text))
        try:
            yield unit
            self._book.extend(unit.rows)
            for happens in unit.at["commit"]:
                happens()
        finally:
            for happens in unit.at["end"]:
                happens()


class LendingHarness(KitHarness):
    """Handles on one store with one book of rows."""

    capabilities = LendingStore.capabilities

    def __init__(self, store_class: type[MemoryStore]) -> None:
        super().__init__(store_class)
        self._book: list[str] = []

    @asynccontextmanager
    async def open(self, *, namespace: str = "default") -> AsyncIterator[SagaStore]:
        async with super().open(namespace=namespace) as store:
            store.book = self._book  # type: ignore[attr-defined]
            yield store

    @asynccontextmanager
    async def business(self) -> AsyncIterator[Business]:
        yield MemoryBusiness(self._book)
