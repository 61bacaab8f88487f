"""Sagas on PostgreSQL, the reference backend: `open_store("postgresql://...")`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga_backends.postgresql.connection import open_pool, our_errors, safe
from saga_backends.postgresql.options import PostgresqlOptions
from saga_backends.postgresql.pool import LeanPool
from saga_backends.postgresql.schema import Migrations, check_schema, migration_sql, upgrade_schema
from saga_backends.postgresql.store import PostgresqlStore
from saga_core.hookspecs import BackendSpec, hookimpl

__all__ = ["PostgresqlOptions", "PostgresqlStore", "migration_sql", "open_postgresql"]


@asynccontextmanager
async def open_postgresql(
    url: str, *, create_schema: bool | None, options: PostgresqlOptions
) -> AsyncIterator[PostgresqlStore]:
    """Open a pool, check the schema (or with `create_schema` bring it up to date), and close."""
    inner = await open_pool(url, options)
    pool = LeanPool(inner, size=options.pool_max_size, command_timeout=options.command_timeout)
    try:
        with our_errors(safe(url), options.schema_name):
            async with pool.acquire() as connection:
                if create_schema:
                    await upgrade_schema(connection, options.schema_name)
                await check_schema(connection, options.schema_name, safe(url))
        yield PostgresqlStore(pool, url, options)
    finally:
        await pool.close()


@hookimpl
def saga_backend() -> BackendSpec:
    """Describe this backend."""
    return BackendSpec(
        name="postgresql",
        summary="PostgreSQL 13 or newer through asyncpg; the reference",
        open=open_postgresql,
        capabilities=PostgresqlStore.capabilities,
        options=PostgresqlOptions,
        schema=Migrations(),
    )
