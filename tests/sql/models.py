"""Models as users write them."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase

from saga_backends.sql import SagaStateMixin

__all__ = ["SagasOfOneNamespace", "create_tables", "sagas_of"]


class Base(DeclarativeBase):
    pass


class SagasOfOneNamespace(SagaStateMixin):
    __tablename__: str


@cache
def sagas_of(namespace: str) -> type[Any]:
    """Return a model whose table is for one namespace of the contract's rules."""
    return type(
        f"SagasOf{namespace.title()}",
        (Base, SagasOfOneNamespace),
        {"__tablename__": f"sagas_of_{namespace}"},
    )


async def create_tables(engine: AsyncEngine, model: type[Any]) -> None:
    """Create the three tables of a model unless they are there."""
    table = model.__table__
    names = (table.fullname, f"{table.fullname}_history", f"{table.fullname}_inbox")

    def create(connection: Connection) -> None:
        tables = [table.metadata.tables[name] for name in names]
        table.metadata.create_all(connection, tables=tables)

    async with engine.begin() as connection:
        await connection.run_sync(create)
