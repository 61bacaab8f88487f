"""The file, its one connection and thread, and the seam at which sqlite3's errors become ours."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Protocol, TypeVar

import aiosqlite

from saga_backends.sqlite.options import SqliteOptions
from saga_core.errors import (
    PayloadError,
    SagaError,
    SagaStateError,
    SchemaError,
    StoreUnavailableError,
    StoreUrlError,
)

__all__ = [
    "Database",
    "Transactions",
    "database_path",
    "immediately",
    "on_snapshot",
    "our_errors",
]

T = TypeVar("T")

REMEDY = "Run `saga db upgrade URL`, or open_store(url, create_schema=True)."

OLDEST_SQLITE = (3, 35, 0)
"""The first version with RETURNING."""


def database_path(url: str) -> str:
    """Return the file that a URL names, or `:memory:`. Raises `StoreUrlError`."""
    scheme, separator, rest = url.partition("://")
    name, _, driver = scheme.partition("+")
    if not separator or name != "sqlite":
        raise StoreUrlError("an SQLite URL looks like sqlite:///relative.db or sqlite:////abs.db")
    if driver not in ("", "aiosqlite"):
        raise StoreUrlError(f"sqlite+{driver}: the only driver is aiosqlite")
    if rest in ("", "/", "/:memory:"):
        return ":memory:"
    if not rest.startswith("/"):
        raise StoreUrlError(
            f"sqlite://{rest.partition('/')[0]}/...: an SQLite URL has no host; write three "
            "slashes for a relative path (sqlite:///orders.db), four for an absolute one"
        )
    path = rest[1:]
    if "?" in path or "#" in path or "\x00" in path:
        raise StoreUrlError(
            "an SQLite URL takes no query: pass options to open_store, as in "
            "open_store(url, synchronous='normal')"
        )
    return path


@contextmanager
def our_errors(where: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn what sqlite3 raises into our errors. `where` is the file."""
    try:
        yield
    except SagaError:
        raise
    except sqlite3.IntegrityError as error:
        raise SagaStateError(f"{where} refused the write: {error}") from error
    except sqlite3.OperationalError as error:
        text = str(error)
        if "no such table" in text or "no such column" in text:
            raise SchemaError(
                f"{where}: the saga tables are missing or not the right ones ({text}). {remedy}"
            ) from error
        if "locked" in text or "busy" in text:
            text = "another process held the write lock for longer than busy_timeout"
        elif "full" in text:
            text = f"{text}; free some space"
        elif "unable to open" in text or "readonly" in text:
            text = f"{text}; check that the folder exists and that file and folder can be written"
        raise StoreUnavailableError(f"{where}: {text}") from error
    except (OverflowError, UnicodeEncodeError, sqlite3.DataError) as error:
        raise PayloadError(f"{where} cannot hold a value: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnavailableError(
            f"{where} is not a sound SQLite database: {error}. Restore it from a backup, or name "
            "another file."
        ) from error
    except (ValueError, OSError, sqlite3.Error) as error:
        raise StoreUnavailableError(f"{where}: {error}") from error


class Transactions(Protocol):
    """What runs the store's transactions."""

    where: str

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in one IMMEDIATE transaction: all of it or nothing."""
        ...

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on one snapshot of the file."""
        ...


@dataclass(slots=True)
class Database:
    """One connection, whose thread runs each transaction as one function."""

    connection: aiosqlite.Connection
    where: str

    @classmethod
    async def open(
        cls,
        url: str,
        options: SqliteOptions,
        check: Callable[[Database], Awaitable[None]] | None = None,
    ) -> Database:
        """Open the file in WAL mode. Raises `StoreUrlError` or `StoreUnavailableError`.

        `check` is awaited before, so that a file which it refuses stays as it is.
        """
        path = database_path(url)
        where = f"sqlite:///{path}"
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreUnavailableError(
                f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or newer is needed"
            )
        connection = aiosqlite.connect(
            path, timeout=options.busy_timeout, isolation_level=None, cached_statements=256
        )
        with our_errors(where):
            try:
                await connection
            except BaseException:
                await _thread_ends(connection)
                raise
            database = cls(connection, where)
            try:
                if check is not None:
                    await check(database)
                await database.run(lambda db: db.execute("PRAGMA journal_mode = WAL").fetchone())
                level = options.synchronous.upper()
                await database.run(lambda db: db.execute(f"PRAGMA synchronous = {level}"))
                await database.run(lambda db: db.execute("PRAGMA wal_autocheckpoint = 1000"))
            except BaseException:
                await connection.close()
                raise
        return database

    async def close(self) -> None:
        await self.connection.close()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on the connection's thread: one hop, however many statements.

        It runs to its end even if the caller is cancelled. aiosqlite has no public way to run
        more than one statement per hop, which would make a transaction four times slower.
        """
        connection = self.connection
        with our_errors(self.where):
            result: T = await connection._execute(  # type: ignore[no-untyped-call]
                work, connection._conn
            )
            return result

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in one IMMEDIATE transaction: all of it or nothing."""
        return await self.run(lambda db: immediately(db, work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on one snapshot of the file."""
        return await self.run(lambda db: on_snapshot(db, work))


def immediately(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run a function in one IMMEDIATE transaction, on the connection's own thread."""
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return result


def on_snapshot(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run a function on one snapshot of the file, on the connection's own thread."""
    db.execute("BEGIN")
    try:
        return work(db)
    finally:
        db.execute("ROLLBACK")


async def _thread_ends(connection: aiosqlite.Connection) -> None:
    """Wait for the thread of a connection that was not opened: it still has to tell the loop."""
    thread = getattr(connection, "_thread", connection)
    if isinstance(thread, Thread):
        await asyncio.to_thread(thread.join, 5.0)
