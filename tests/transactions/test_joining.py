"""What is wrong with a session is told in our words, with what to do, and it stays usable."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from saga_core import Query, SagaStateError, SagaStatus, SagaStore, StoreUnavailableError
from saga_testing.conformance import Business
from tests.transactions.cast import Book
from tests.transactions.test_steps import Shop

on_postgresql = pytest.mark.parametrize("harness", ["postgresql", "sql-postgresql"], indirect=True)


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "business_book"

    id: Mapped[int] = mapped_column(primary_key=True)
    said: Mapped[str | None]


async def closed(session: Any) -> Any:
    async with session.bind.connect() as connection:
        pass
    return connection


async def not_opened(session: Any) -> Any:
    return AsyncConnection(session.bind)


async def bound_to_nothing(_: Any) -> Any:
    return AsyncSession()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (closed, "is closed: start inside the block"),
        (not_opened, "is not open: start inside the block"),
        (bound_to_nothing, "bound to no engine"),
    ],
)
async def test_session_that_is_not_open_starts_nothing(
    store: SagaStore, business: Business, make: Any, says: str
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        with pytest.raises(SagaStateError, match=says) as refused:
            await shop.start(session=await make(session))
        assert isinstance(refused.value.__cause__, SQLAlchemyError)
    assert await store.count(Query()) == 0


@on_postgresql
async def test_transaction_that_has_failed_is_to_be_rolled_back_first(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        with pytest.raises(SQLAlchemyError):
            await business.break_a_rule(session)
        with pytest.raises(SagaStateError, match="has failed: roll it back"):
            await shop.start(session=session)
    async with business.session() as session:
        saga_id = await shop.start(session=session)
    assert await shop.status(saga_id) is SagaStatus.RUNNING


async def test_session_whose_flush_has_failed_is_to_be_rolled_back_first(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        engine = session.bind
    async with AsyncSession(engine) as session:
        session.add(Line(said=None))
        with pytest.raises(SQLAlchemyError):
            await session.flush()
        with pytest.raises(SagaStateError, match="has failed: roll it back"):
            await shop.start(session=session)
        await session.rollback()
        saga_id = await shop.start(session=session)
        await session.commit()
    assert await shop.status(saga_id) is SagaStatus.RUNNING


async def test_session_whose_connection_is_lost_tells_of_a_store_that_is_away(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        engine = session.bind
    async with AsyncSession(engine) as session:
        raw = (await (await session.connection()).get_raw_connection()).driver_connection
        if hasattr(raw, "terminate"):
            raw.terminate()
        else:
            await raw.close()
        with pytest.raises(StoreUnavailableError, match="is lost") as refused:
            await shop.start(session=session)
        assert isinstance(refused.value.__cause__, SQLAlchemyError)
        await session.rollback()
        saga_id = await shop.start(session=session)
        await session.commit()
    assert await shop.status(saga_id) is SagaStatus.RUNNING
    assert await store.count(Query()) == 1


@on_postgresql
async def test_session_that_several_tasks_use_at_once_is_refused(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        await session.connection()
        starts = (shop.start(session=session) for _ in range(4))
        came = await asyncio.gather(*starts, return_exceptions=True)
        refused = [each for each in came if isinstance(each, BaseException)]
        assert {type(each) for each in refused} == {SagaStateError}
        assert all("another task uses it" in str(each) for each in refused)
        await business.write(session, "after")
        saga_id = await shop.start(session=session)
    assert await business.rows() == ["after"]
    assert await shop.status(saga_id) is SagaStatus.RUNNING
    assert await store.count(Query()) == 1 + sum(isinstance(each, UUID) for each in came)


@on_postgresql
@pytest.mark.parametrize("more", [{"aggregation_id": "a"}, {"saga_id": uuid4()}])
async def test_session_that_looks_at_the_past_cannot_see_what_refuses_it(
    store: SagaStore, business: Business, more: Any
) -> None:
    """Neither the saga that holds the aggregate, nor one of the same id."""
    shop = Shop(store, Book(business))
    async with business.session() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        await session.execute(text("SELECT 1"))
        await shop.start(wait=False, **more)
        with pytest.raises(SagaStateError, match=r"REPEATABLE READ.*roll it back"):
            await shop.start(session=session, **more)
        await business.write(session, "after")
    assert await business.rows() == ["after"]
    assert await store.count(Query()) == 1


@on_postgresql
async def test_session_that_may_only_read_starts_nothing(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        await session.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(SagaStateError, match="read-only"):
            await shop.start(session=session)
    assert await store.count(Query()) == 0
