"""The SQLite store's transactions on the engine of a user's sessions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_backends.sql.checkout import checkout
from saga_backends.sql.names import Names
from saga_backends.sqlite.connection import immediately, on_snapshot, our_errors
from saga_backends.sqlite.layout import Layout, micros, moment
from saga_backends.sqlite.store import SqliteStore

__all__ = ["sqlite_store"]

T = TypeVar("T")


def _text_of(value: int) -> str:
    """Return a time as SQLAlchemy's `DateTime` writes it to SQLite; the texts sort as times do."""
    return moment(value).strftime("%Y-%m-%d %H:%M:%S.%f")


def _micros_of(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def sqlite_store(
    engine: AsyncEngine, names: Names, *, namespace: str, where: str, remedy: str
) -> SqliteStore:
    """Return the SQLite store on a model's tables, with ids and times as SQLAlchemy has them."""
    layout = Layout(names, id_of=_id_of, time_of=_text_of, micros_of=_micros_of)
    return SqliteStore(_EngineTransactions(engine, where, remedy), namespace, layout)


def _id_of(value: object) -> str:
    """Return an id as SQLAlchemy keeps it on SQLite; what is no UUID is just not found."""
    return value.hex if isinstance(value, UUID) else str(value)


class _EngineTransactions:
    """Runs each transaction as one function, on a connection checked out for it.

    One at a time: SQLite has one writer anyway, and waiting here costs nothing.
    """

    def __init__(self, engine: AsyncEngine, where: str, remedy: str) -> None:
        self._engine = engine
        self.where = where
        self._remedy = remedy
        self._turn = asyncio.Lock()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in one IMMEDIATE transaction: all of it or nothing."""
        return await self._run(immediately, work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on one snapshot of the file."""
        return await self._run(on_snapshot, work)

    async def _run(
        self,
        transaction: Callable[[sqlite3.Connection, Callable[[sqlite3.Connection], T]], T],
        work: Callable[[sqlite3.Connection], T],
    ) -> T:
        with our_errors(self.where, self._remedy):
            async with self._turn, checkout(self._engine, self.where) as proxied:
                connection = proxied.driver_connection
                assert isinstance(connection, aiosqlite.Connection)  # noqa: S101
                result: T = await connection._execute(  # type: ignore[no-untyped-call]
                    lambda db: _on_its_own_terms(db, transaction, work), connection._conn
                )
                return result


def _on_its_own_terms(
    db: sqlite3.Connection,
    transaction: Callable[[sqlite3.Connection, Callable[[sqlite3.Connection], T]], T],
    work: Callable[[sqlite3.Connection], T],
) -> T:
    """Run a transaction that is begun by hand, however the user's engine begins its own."""
    mode: Any = db  # `autocommit` came with Python 3.12
    if getattr(db, "autocommit", None) is not False:
        return transaction(db, work)
    mode.autocommit = True
    try:
        return transaction(db, work)
    finally:
        mode.autocommit = False
