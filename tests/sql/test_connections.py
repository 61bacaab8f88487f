"""The store borrows connections from the user's engine, and gives them back as they were."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import StaticPool

from saga_backends.sql import SqlSagaStore
from saga_core.errors import StoreUnavailableError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.records import Query
from saga_core.status import SagaStatus
from saga_testing.servers import PostgresqlServer
from tests.sql.engines import all_given_back, open_engine
from tests.sql.shop import Base, OrderSagaState, Shop, three_steps

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


async def orchestrator_on(engine: AsyncEngine) -> SagaOrchestrator:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine)
    orchestrator = SagaOrchestrator(
        store=SqlSagaStore(model_class=OrderSagaState, session_maker=sessions)
    )
    orchestrator.register("count", three_steps())
    return orchestrator


async def assert_runs(orchestrator: SagaOrchestrator) -> None:
    saga_id = await orchestrator.start(saga_name="count", initial_data={"value": 1})
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED


async def test_a_session_of_the_users_is_not_disturbed(engine: AsyncEngine) -> None:
    orchestrator = await orchestrator_on(engine)
    async with async_sessionmaker(engine)() as session:
        assert (await session.scalars(select(Shop))).all() == []
        await assert_runs(orchestrator)
        session.add(Shop(id=1))
        await session.flush()
        await session.rollback()
        assert (await session.scalars(select(Shop))).all() == []
        assert len((await session.scalars(select(OrderSagaState))).all()) == 1


@on_postgresql
async def test_statements_are_read_committed_on_a_stricter_server(database: str) -> None:
    settings = {"default_transaction_isolation": "serializable"}
    async with open_engine(database, connect_args={"server_settings": settings}) as engine:
        orchestrator = await orchestrator_on(engine)
        store = orchestrator.store
        await asyncio.gather(*(assert_runs(orchestrator) for _ in range(10)))
        inner: Any = store._store  # type: ignore[attr-defined]
        level = await inner._pool.fetchval("SELECT current_setting('transaction_isolation')")
        assert level == "read committed"


@on_postgresql
async def test_connections_lost_in_the_pool_are_replaced(
    engine: AsyncEngine, postgresql: PostgresqlServer
) -> None:
    orchestrator = await orchestrator_on(engine)
    await assert_runs(orchestrator)
    admin = await asyncpg.connect(postgresql.url)
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            engine.url.database,
        )
    finally:
        await admin.close()
    await asyncio.sleep(0.05)  # until the client has heard of it
    # Asked of the store itself: the engine would try again.
    assert await orchestrator.store.count(Query()) == 1


async def test_a_cancelled_caller_leaves_no_connection_behind(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    orchestrator = await orchestrator_on(engine)
    given_up = 0
    for turns in range(1, 25):
        task = asyncio.create_task(orchestrator.store.count(Query()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        given_up += task.cancelled()
        await all_given_back(engine)
    assert given_up > 5
    assert caplog.text == "", "the garbage collector had to give a connection back"
    await assert_runs(orchestrator)


async def test_an_exhausted_pool_is_told(database: str) -> None:
    async with open_engine(database, pool_size=1, max_overflow=0, pool_timeout=0.05) as engine:
        orchestrator = await orchestrator_on(engine)
        async with engine.connect() as held:
            await held.execute(text("SELECT 1"))
            with pytest.raises(StoreUnavailableError, match="pool_size"):
                await orchestrator.store.count(Query())


async def test_no_message_holds_the_password() -> None:
    engine = create_async_engine("postgresql+asyncpg://app:hunter2@127.0.0.1:1/db")
    store = SqlSagaStore(model_class=OrderSagaState, session_maker=async_sessionmaker(engine))
    try:
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1") as error:
            await store.count(Query())
    finally:
        await engine.dispose()
    assert "hunter2" not in str(error.value)


async def test_a_refused_login_is_an_error_of_ours(postgresql: PostgresqlServer) -> None:
    place = postgresql.url.rpartition("/")[0].replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(f"{place}/no_such_database")
    store = SqlSagaStore(model_class=OrderSagaState, session_maker=async_sessionmaker(engine))
    try:
        with pytest.raises(StoreUnavailableError, match="no_such_database"):
            await store.count(Query())
    finally:
        await engine.dispose()


async def test_sqlite_in_memory_serves_tests() -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    try:
        await assert_runs(await orchestrator_on(engine))
    finally:
        await engine.dispose()


@on_sqlite
async def test_an_engine_that_begins_by_hand_is_left_as_it_was(database: str) -> None:
    async with open_engine(database, isolation_level="AUTOCOMMIT") as engine:
        orchestrator = await orchestrator_on(engine)
        await asyncio.gather(*(assert_runs(orchestrator) for _ in range(5)))
