"""What the store sends to PostgreSQL through the user's engine, counted on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from saga_backends.sql import SqlSagaStore
from saga_core.orchestrator import SagaOrchestrator
from saga_core.status import SagaStatus
from saga_testing.proxy import PostgresqlProxy, postgresql_proxy
from tests.sql.shop import Base, OrderSagaState, three_steps

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[PostgresqlProxy]:
    async with postgresql_proxy(database.replace("+asyncpg", "", 1)) as proxy:
        yield proxy


@pytest.fixture
async def engine(proxy: PostgresqlProxy) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(proxy.url.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def orchestrator(engine: AsyncEngine) -> SagaOrchestrator:
    store = SqlSagaStore(model_class=OrderSagaState, session_maker=async_sessionmaker(engine))
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("count", three_steps())
    return orchestrator


async def run_one(orchestrator: SagaOrchestrator) -> SagaStatus:
    saga_id = await orchestrator.start(saga_name="count", initial_data={"value": 1})
    return (await orchestrator.get_snapshot(saga_id)).status


async def test_saga_of_three_steps_is_four_round_trips(
    orchestrator: SagaOrchestrator, proxy: PostgresqlProxy
) -> None:
    await run_one(orchestrator)  # prepares the statements
    proxy.round_trips = 0
    await orchestrator.start(saga_name="count", initial_data={"value": 1})
    assert proxy.round_trips == 4


async def test_an_idle_poll_is_one_round_trip(
    orchestrator: SagaOrchestrator, proxy: PostgresqlProxy
) -> None:
    await orchestrator.run_due()
    proxy.round_trips = 0
    assert await orchestrator.run_due() == 0
    assert proxy.round_trips == 1


async def test_a_lost_answer_to_a_commit_is_settled_by_the_same_commit(
    orchestrator: SagaOrchestrator, proxy: PostgresqlProxy, engine: AsyncEngine
) -> None:
    # The first commit of all: its statement is prepared, and then its answer is lost.
    proxy.drop_next_reply(lambda request: b"WITH moved" in request)
    saga_id = await orchestrator.start(saga_name="count", initial_data={"value": 1})
    assert proxy.dropped.is_set()
    async with async_sessionmaker(engine)() as session:
        saga = await session.get_one(OrderSagaState, saga_id)
    assert saga.status == SagaStatus.COMPLETED
    assert [entry.step_id for entry in saga.step_history] == ["first", "second", "third"]
