"""The schema: numbered SQL files that run once, in order, whoever else tries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import asyncpg

from saga_backends.postgresql.connection import connect, our_errors, safe
from saga_backends.postgresql.options import PostgresqlOptions
from saga_core.errors import SchemaError
from saga_core.hookspecs import SchemaStatus

__all__ = ["Migrations", "check_schema", "migration_sql", "migrations", "upgrade_schema"]

FORMAT = 1
"""The format of what this library writes. A schema may demand a newer one."""

LOCK = 0x5A6A_0001

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    def text(self, schema: str) -> str:
        return self.sql.replace("{schema}", schema)


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations in order."""
    found = []
    for file in resources.files("saga_backends.postgresql").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            name = file.name.removesuffix(".sql")
            found.append(Migration(int(match[1]), name, file.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.number))


def migration_sql(schema_name: str = "saga", *, after: int = 0) -> str:
    """Return the SQL that brings a schema from version `after` to the latest, in one text.

    For those who run their own migrations: pass it to `op.execute` in an Alembic revision.
    Raises `SchemaError` for a name that is not an identifier.
    """
    schema = _checked(schema_name)
    parts = [_bookkeeping(schema)]
    for migration in migrations():
        if migration.number > after:
            parts.append(migration.text(schema))
            parts.append(_record(schema, migration))
    return "\n".join(parts)


def _checked(schema: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", schema):
        raise SchemaError(f"schema name {schema!r} is not a lower-case identifier")
    return schema


def _bookkeeping(schema: str) -> str:
    return f"""
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.saga_schema (
    version       integer     PRIMARY KEY,
    name          text        NOT NULL,
    oldest_format integer     NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);"""


def _record(schema: str, migration: Migration) -> str:
    return (
        f"INSERT INTO {schema}.saga_schema (version, name, oldest_format) "  # noqa: S608
        f"VALUES ({migration.number}, '{migration.name}', {FORMAT});"
    )


async def _versions(connection: Any, schema: str) -> tuple[int, int]:
    """Return the schema's version and the oldest format it admits; (0, 0) without a schema."""
    there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{schema}.saga_schema")
    if not there:
        return 0, 0
    row = await connection.fetchrow(
        f"SELECT coalesce(max(version), 0), coalesce(max(oldest_format), 0) "  # noqa: S608
        f"FROM {schema}.saga_schema"
    )
    return row[0], row[1]


async def check_schema(connection: Any, schema: str, where: str) -> None:
    """Raise `SchemaError` unless this library can work with the schema."""
    current, oldest_format = await _versions(connection, schema)
    latest = migrations()[-1].number
    if oldest_format > FORMAT:
        raise SchemaError(
            f"{where}: schema '{schema}' (version {current}) is too new for this version of the "
            "library; upgrade saga-core in this service"
        )
    if current == 0:
        raise SchemaError(
            f"{where}: there is no schema '{schema}' with saga tables. Run `saga db upgrade URL`, "
            "or open_store(url, create_schema=True)."
        )
    if current < latest:
        raise SchemaError(
            f"{where}: schema '{schema}' has version {current}, but version {latest} is needed. "
            "Run `saga db upgrade URL`, or open_store(url, create_schema=True)."
        )


async def upgrade_schema(connection: Any, schema: str) -> None:
    """Run what is pending in one transaction, under an advisory lock that others wait for."""
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK, schema)
        current, oldest_format = await _versions(connection, schema)
        if oldest_format > FORMAT:
            return  # newer than this library: nothing for us to run
        await connection.execute(_bookkeeping(schema))
        for migration in migrations():
            if migration.number > current:
                await connection.execute(migration.text(schema))
                await connection.execute(_record(schema, migration))


class Migrations:
    """The `SchemaManager` of the PostgreSQL backend."""

    async def status(self, url: str, options: PostgresqlOptions) -> SchemaStatus:
        """Return how the schema stands; changes nothing."""
        return await self._run(url, options, upgrade=False)

    async def upgrade(self, url: str, options: PostgresqlOptions) -> SchemaStatus:
        """Run the pending migrations once, whoever else tries; return the status after."""
        return await self._run(url, options, upgrade=True)

    async def _run(self, url: str, options: PostgresqlOptions, *, upgrade: bool) -> SchemaStatus:
        connection: asyncpg.Connection = await connect(url, options)
        schema = options.schema_name
        try:
            with our_errors(safe(url), schema):
                if upgrade:
                    await upgrade_schema(connection, schema)
                current, _ = await _versions(connection, schema)
        finally:
            await connection.close()
        return SchemaStatus(
            current=current,
            latest=migrations()[-1].number,
            pending=tuple(m.name for m in migrations() if m.number > current),
        )
