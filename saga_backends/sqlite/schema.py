"""The schema: numbered SQL files that run once, in order, whoever else tries."""

from __future__ import annotations

import os
import re
import sqlite3
from functools import cache
from importlib import resources

from saga_backends.sqlite.connection import REMEDY, Database, database_path
from saga_backends.sqlite.options import SqliteOptions
from saga_core.errors import SchemaError
from saga_core.hookspecs import SchemaStatus

__all__ = ["Migrations", "check_schema", "migrations", "refuse_missing_file", "upgrade_schema"]

FORMAT = 1
"""The format of what this library writes. A schema may demand a newer one."""

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS saga_schema (
    version       INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL,
    oldest_format INTEGER NOT NULL
)
"""


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """Return number, name and SQL of the migrations, in order."""
    found = []
    for file in resources.files("saga_backends.sqlite").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            name = file.name.removesuffix(".sql")
            found.append((int(match[1]), name, file.read_text(encoding="utf-8")))
    return tuple(sorted(found))


def _versions(db: sqlite3.Connection) -> tuple[int, int]:
    there = db.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'saga_schema'"
    ).fetchone()
    if not there[0]:
        return 0, 0
    row = db.execute(
        "SELECT coalesce(max(version), 0), coalesce(max(oldest_format), 0) FROM saga_schema"
    ).fetchone()
    return row[0], row[1]


def refuse_missing_file(url: str) -> None:
    """Raise `SchemaError` if there is no file: SQLite would make an empty one on opening."""
    path = database_path(url)
    if path != ":memory:" and not os.path.exists(path):
        raise SchemaError(f"sqlite:///{path}: there is no such file. {REMEDY}")


async def check_schema(database: Database) -> None:
    """Raise `SchemaError` unless this library can work with the schema."""
    current, oldest_format = await database.read(_versions)
    latest = migrations()[-1][0]
    if oldest_format > FORMAT:
        raise SchemaError(
            f"{database.where}: its schema (version {current}) is too new for this version of the "
            "library; upgrade saga-core in this service"
        )
    if current < latest:
        found = f"has version {current}" if current else "is missing"
        raise SchemaError(
            f"{database.where}: the saga schema {found}, but version {latest} is needed. Run "
            "`saga db upgrade URL`, or open_store(url, create_schema=True)."
        )


async def upgrade_schema(database: Database) -> None:
    """Run what is pending in one transaction; other processes wait for it."""
    current, oldest_format = await database.read(_versions)
    if current >= migrations()[-1][0] or oldest_format > FORMAT:
        return

    def upgrade(db: sqlite3.Connection) -> None:
        db.execute(_BOOKKEEPING)
        done, _ = _versions(db)
        for number, name, sql in migrations():
            if number > done:
                for statement in _statements(sql):
                    db.execute(statement)
                db.execute("INSERT INTO saga_schema VALUES (?, ?, ?)", (number, name, FORMAT))

    await database.write(upgrade)


def _statements(sql: str) -> list[str]:
    """Split a script: `executescript` would commit the transaction it runs in."""
    found, pending = [], ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


class Migrations:
    """The `SchemaManager` of the SQLite backend."""

    async def status(self, url: str, options: SqliteOptions) -> SchemaStatus:
        """Return how the schema stands; changes nothing but may make an empty file."""
        return await self._run(url, options, upgrade=False)

    async def upgrade(self, url: str, options: SqliteOptions) -> SchemaStatus:
        """Run the pending migrations once, whoever else tries; return the status after."""
        return await self._run(url, options, upgrade=True)

    async def _run(self, url: str, options: SqliteOptions, *, upgrade: bool) -> SchemaStatus:
        database = await Database.open(url, options)
        try:
            if upgrade:
                await upgrade_schema(database)
            current, _ = await database.read(_versions)
        finally:
            await database.close()
        pending = tuple(name for number, name, _ in migrations() if number > current)
        return SchemaStatus(current=current, latest=migrations()[-1][0], pending=pending)
