"""The user's own rows beside the sagas, in one table of each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.schema import CreateTable

from saga_testing.conformance import Business
from tests.sql.engines import open_engine

__all__ = ["open_asyncpg_business", "open_session_business"]

BOOK = Table(
    "business_book",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("owner", String(80), nullable=False),
    Column("said", String(200), nullable=False),
)


class SessionBusiness:
    """Rows that are written with sessions."""

    def __init__(self, engine: AsyncEngine, owner: str) -> None:
        self._engine = engine
        self._owner = owner

    async def write(self, transaction: Any, text: str) -> None:
        await transaction.execute(insert(BOOK).values(owner=self._owner, said=text))

    async def break_a_rule(self, transaction: Any) -> None:
        await transaction.execute(insert(BOOK).values(owner=self._owner, said=None))

    async def rows(self) -> list[str]:
        async with self._engine.connect() as connection:
            wanted = select(BOOK.c.said).where(BOOK.c.owner == self._owner).order_by(BOOK.c.id)
            return list((await connection.execute(wanted)).scalars())

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        async with async_sessionmaker(self._engine).begin() as session:
            yield session


class AsyncpgBusiness(SessionBusiness):
    """Rows that steps write with a connection of asyncpg."""

    async def write(self, transaction: Any, text: str) -> None:
        if hasattr(transaction, "sync_session"):
            await super().write(transaction, text)
            return
        await transaction.execute(
            "INSERT INTO business_book (owner, said) VALUES ($1, $2)", self._owner, text
        )

    async def break_a_rule(self, transaction: Any) -> None:
        if hasattr(transaction, "sync_session"):
            await super().break_a_rule(transaction)
            return
        await transaction.execute("INSERT INTO business_book (owner) VALUES ($1)", self._owner)


@asynccontextmanager
async def open_session_business(url: str, owner: str, **options: Any) -> AsyncIterator[Business]:
    """Open the rows of one owner on a URL of SQLAlchemy's."""
    async with open_engine(url, **options) as engine:
        await _make_table(engine)
        yield SessionBusiness(engine, owner)


@asynccontextmanager
async def open_asyncpg_business(url: str, owner: str) -> AsyncIterator[Business]:
    """Open the rows of one owner on a URL of PostgreSQL's."""
    async with open_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1)) as engine:
        await _make_table(engine)
        yield AsyncpgBusiness(engine, owner)


async def _make_table(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # two at once would both try
            await connection.execute(text("SELECT pg_advisory_xact_lock(7311)"))
        await connection.execute(CreateTable(BOOK, if_not_exists=True))
