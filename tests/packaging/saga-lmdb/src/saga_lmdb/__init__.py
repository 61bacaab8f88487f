"""Sagas in one LMDB file: `open_store("lmdb:///orders.lmdb")`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga_core.hookspecs import BackendSpec, Capability, hookimpl
from saga_lmdb.database import Database, LmdbOptions
from saga_lmdb.store import LmdbStore

__all__ = ["LmdbOptions", "LmdbStore", "open_lmdb"]


@asynccontextmanager
async def open_lmdb(
    url: str, *, create_schema: bool | None, options: LmdbOptions
) -> AsyncIterator[LmdbStore]:
    """Open the file, which is made unless `create_schema` is False, and close it."""
    database = await Database.open(url, options, create=create_schema is not False)
    try:
        yield LmdbStore(database, options.namespace)
    finally:
        await database.close()


@hookimpl
def saga_backend() -> BackendSpec:
    """Describe this backend."""
    return BackendSpec(
        name="lmdb",
        summary="one LMDB file, for the processes of one machine",
        open=open_lmdb,
        capabilities=frozenset({Capability.MULTI_PROCESS, Capability.DURABLE}),
        options=LmdbOptions,
    )
