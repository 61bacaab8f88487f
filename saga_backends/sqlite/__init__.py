"""Sagas in one SQLite file, for development: `open_store("sqlite:///orders.db")`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga_backends.sqlite.connection import Database
from saga_backends.sqlite.options import SqliteOptions
from saga_backends.sqlite.schema import (
    Migrations,
    check_schema,
    refuse_missing_file,
    upgrade_schema,
)
from saga_backends.sqlite.store import SqliteStore
from saga_core.hookspecs import BackendSpec, Capability, hookimpl

__all__ = ["SqliteOptions", "SqliteStore", "open_sqlite"]


@asynccontextmanager
async def open_sqlite(
    url: str, *, create_schema: bool | None, options: SqliteOptions
) -> AsyncIterator[SqliteStore]:
    """Open the file, make or upgrade its schema unless `create_schema` is False, and close.

    `sqlite://` and `sqlite:///:memory:` are a database that nobody else sees and that ends with
    the block. With `create_schema=False` a missing file is a `SchemaError`, and is not made; so is
    one without our schema, which is not touched.
    """
    check = None
    if create_schema is False:
        refuse_missing_file(url)
        check = check_schema
    database = await Database.open(url, options, check)
    try:
        if create_schema is not False:
            await upgrade_schema(database)
        await check_schema(database)
        yield SqliteStore(database, options.namespace)
    finally:
        await database.close()


@hookimpl
def saga_backend() -> BackendSpec:
    """Describe this backend."""
    return BackendSpec(
        name="sqlite",
        summary="one SQLite file, for development and small services",
        open=open_sqlite,
        capabilities=frozenset({Capability.MULTI_PROCESS, Capability.DURABLE}),
        options=SqliteOptions,
        schema=Migrations(),
    )
