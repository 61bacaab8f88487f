"""The SQLite store's transactions on the engine of a user's sessions."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import aiosqlite
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import StaticPool

from saga_backends.sql.checkout import checkout
from saga_backends.sql.joining import another_database, no_transaction, own_connection
from saga_backends.sql.lending import (
    SQL_CAPABILITIES,
    driver_connection,
    lend_session,
)
from saga_backends.sql.names import Names
from saga_backends.sqlite.connection import immediately, on_snapshot, our_errors
from saga_backends.sqlite.layout import Layout, micros, moment
from saga_backends.sqlite.store import SqliteStore
from saga_core.records import Committed, Created, NewSaga, Transition
from saga_core.transactions import StoreTransaction, ended_by_the_step

__all__ = ["SqliteModelStore"]

T = TypeVar("T")


def _text_of(value: int) -> str:
    """Return a time as SQLAlchemy's `DateTime` writes it to SQLite; the texts sort as times do."""
    return moment(value).strftime("%Y-%m-%d %H:%M:%S.%f")


def _micros_of(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


class SqliteModelStore(SqliteStore):
    """The SQLite store on a model's tables, with ids and times as SQLAlchemy has them."""

    capabilities = SQL_CAPABILITIES

    def __init__(
        self,
        database: EngineTransactions,
        make_session: Callable[[], AsyncSession],
        namespace: str,
        layout: Layout,
    ) -> None:
        super().__init__(database, namespace, layout)
        self._database = database
        self._make_session = make_session

    @classmethod
    def on(
        cls,
        engine: AsyncEngine,
        names: Names,
        *,
        make_session: Callable[[], AsyncSession],
        namespace: str,
        where: str,
        remedy: str,
    ) -> SqliteModelStore:
        """Return the store on a model's tables."""
        layout = Layout(names, id_of=_id_of, time_of=_text_of, micros_of=_micros_of)
        database = EngineTransactions(engine, where, remedy)
        return cls(database, make_session, namespace, layout)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        """Lend a session in a transaction; see `TransactionalStore.transaction`.

        It has the file's write lock from its beginning: one that has read before it writes would
        be refused as soon as somebody else has written.
        """

        async def apply(connection: aiosqlite.Connection, transition: Transition) -> Committed:
            if not connection.in_transaction:
                raise ended_by_the_step(transition.saga_id)
            with self._database.our_errors():
                return await run_on(connection, lambda db: self._commit(db, transition))

        async with (
            self._database.write_lock(),
            lend_session(self._make_session, self._database.where, apply, self._begin) as lent,
        ):
            yield lent

    async def _begin(self, session: AsyncSession) -> None:
        connection = await driver_connection(session)
        with self._database.our_errors():
            await run_on(connection, lambda db: _take_write_lock(db, self._layout.names.sagas))

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        """Look for a commit, behind whoever writes; see `TransactionalStore.recorded`."""
        return await self._db.write(lambda db: self._made_by(db, saga_id, commit_id))

    async def create_in(self, session: object, new: NewSaga) -> Created:
        """Write a saga in a caller's transaction; see `TransactionalStore.create_in`."""
        where = self._database.where
        connection, is_ours = await own_connection(
            session, "sqlite+aiosqlite", where, self._database.engine
        )
        with self._database.our_errors():
            if not is_ours:
                theirs = await run_on(connection, _file_of)
                if theirs != await self._db.read(_file_of):
                    raise another_database(where)
            if connection.isolation_level is None and not connection.in_transaction:
                raise no_transaction()
            return await run_on(connection, lambda db: self._create(db, new))


def _id_of(value: object) -> str:
    """Return an id as SQLAlchemy keeps it on SQLite; what is no UUID is just not found."""
    return value.hex if isinstance(value, UUID) else str(value)


class EngineTransactions:
    """Runs each transaction as one function, on a connection checked out for it.

    One at a time: SQLite has one writer anyway, and waiting here costs nothing.
    """

    def __init__(self, engine: AsyncEngine, where: str, remedy: str) -> None:
        self._engine = engine
        self.where = where
        self._remedy = remedy
        self._turn = asyncio.Lock()
        self._writing = asyncio.Lock()
        # An in-memory database has one connection for everybody: then nobody can even read.
        self._lent_alone = isinstance(engine.sync_engine.pool, StaticPool)

    @property
    def engine(self) -> Engine:
        return self._engine.sync_engine

    def our_errors(self) -> AbstractContextManager[None]:
        """Turn what sqlite3 raises in a block into our errors."""
        return our_errors(self.where, self._remedy)

    @asynccontextmanager
    async def write_lock(self) -> AsyncIterator[None]:
        """Let no write of this store begin while somebody else's transaction is open."""
        async with self._writing:
            if not self._lent_alone:
                yield
                return
            async with self._turn:
                yield

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in one IMMEDIATE transaction: all of it or nothing."""
        async with self._writing:
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
                return await run_on(connection, lambda db: _on_its_own_terms(db, transaction, work))


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


async def run_on(connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run a function on a connection's own thread."""
    result: T = await connection._execute(work, connection._conn)  # type: ignore[no-untyped-call]
    return result


def _take_write_lock(db: sqlite3.Connection, table: str) -> None:
    """Begin an IMMEDIATE transaction, or make one of what the user's engine has begun."""
    if not db.in_transaction:
        db.execute("BEGIN IMMEDIATE")
        return
    db.execute(f"UPDATE {table} SET namespace = namespace WHERE 0")  # noqa: S608 - a quoted name


def _file_of(db: sqlite3.Connection) -> str:
    """Return the file that a connection is open on; of an in-memory database, which it is."""
    path = next(row[2] for row in db.execute("PRAGMA database_list") if row[1] == "main")
    return os.path.realpath(path) if path else f"memory {id(db)}"
