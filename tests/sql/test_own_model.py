"""A model with columns, keys and relations of its own holds sagas, and reads as any other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from saga_backends.sql import SqlSagaStore
from saga_core.admin import SagaAdmin
from saga_core.errors import SagaStateError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.status import SagaStatus
from saga_core.upcaster import DoneStep, SagaInFlight
from tests.behaviour.cast import Story, definition, fails, retry
from tests.sql.shop import Base, Invoice, OrderSagaState, Tier, three_steps

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def sessions(engine: AsyncEngine) -> Sessions:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return async_sessionmaker(engine)


@pytest.fixture
def orchestrator(sessions: Sessions) -> SagaOrchestrator:
    store = SqlSagaStore(model_class=OrderSagaState, session_maker=sessions)
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("count", three_steps())
    return orchestrator


async def drive(orchestrator: SagaOrchestrator) -> UUID:
    return await orchestrator.start(
        saga_name="count", initial_data={"value": 1}, aggregation_id="order-1", trace_id="t"
    )


async def test_a_saga_runs_to_its_end(orchestrator: SagaOrchestrator) -> None:
    snapshot = await orchestrator.get_snapshot(await drive(orchestrator))
    assert snapshot.status is SagaStatus.COMPLETED
    assert snapshot.outputs["third"] == {"value": 4}


async def test_what_counts_no_more_is_not_in_the_context_of_the_row(sessions: Sessions) -> None:
    story = Story()
    failing = definition(story.step(), story.step(), story.step(fails()), retry_policy=retry(5))
    orchestrator = SagaOrchestrator(
        store=SqlSagaStore(model_class=OrderSagaState, session_maker=sessions)
    )
    orchestrator.register("story", failing)
    saga_id = await orchestrator.start(saga_name="story", initial_data={"n": 1})
    admin = SagaAdmin(engine=orchestrator.engine)
    await admin.retry_from(saga_id, "step_1", wait=False)
    async with sessions() as session:
        saga = await session.get_one(OrderSagaState, saga_id)
    assert saga.context["step_outputs"] == {"step_0": {"n": 2}}


async def test_the_row_reads_in_an_async_session(
    orchestrator: SagaOrchestrator, sessions: Sessions
) -> None:
    saga_id = await drive(orchestrator)
    async with sessions() as session:
        saga = await session.get_one(OrderSagaState, saga_id)
    assert saga.status == SagaStatus.COMPLETED
    assert (saga.id, saga.saga_name, saga.namespace) == (saga_id, "count", "default")
    assert (saga.aggregation_id, saga.trace_id) == ("order-1", "t")
    assert (saga.current_step_index, saga.retry_counter, saga.last_error) == (3, 0, None)
    assert (saga.step_execution_token, saga.deadline_at) == (None, None)
    assert saga.tags == []
    now = datetime.now(UTC)
    assert now - timedelta(minutes=1) < saga.created_at <= saga.updated_at
    assert saga.context == {
        "initial_data": {"value": 1},
        "step_outputs": {"first": {"value": 2}, "second": {"value": 3}, "third": {"value": 4}},
        "events": [],
    }
    history = saga.step_history
    assert [(entry.step_id, entry.kind) for entry in history] == [
        ("first", "completed"),
        ("second", "completed"),
        ("third", "completed"),
    ]
    assert history[0].input == {"value": 1}
    assert history[0].output == {"value": 2}
    assert (history[0].attempt, history[0].error, history[0].actor) == (1, None, None)
    assert history[0].at.tzinfo is not None


async def test_context_of_an_upcast_saga_is_what_the_new_version_sees(
    orchestrator: SagaOrchestrator, sessions: Sessions
) -> None:
    saga_id = await orchestrator.start(saga_name="count", initial_data={"value": 1}, wait=False)

    def upcast(saga: SagaInFlight) -> SagaInFlight:
        done = {"first": DoneStep(output={"value": 10})}
        return replace(saga, initial_data={"value": 9}, done=done, step_id="second")

    orchestrator.register("count", three_steps(), version="2", upcast={"1": upcast})
    await orchestrator.run_due()
    async with sessions() as session:
        saga = await session.get_one(OrderSagaState, saga_id)
    assert saga.context == {
        "initial_data": {"value": 9},
        "step_outputs": {"first": {"value": 10}, "second": {"value": 11}, "third": {"value": 12}},
        "events": [],
    }
    assert saga.tags == ["upcast:2"]


async def test_rows_are_found_by_the_promised_attributes(
    orchestrator: SagaOrchestrator, sessions: Sessions
) -> None:
    saga_id = await drive(orchestrator)
    async with sessions() as session:
        found = await session.scalars(
            select(OrderSagaState).where(
                OrderSagaState.status == SagaStatus.COMPLETED,
                OrderSagaState.aggregation_id == "order-1",
                OrderSagaState.created_at <= datetime.now(UTC),
            )
        )
        assert [saga.id for saga in found] == [saga_id]


@pytest.mark.parametrize("name", ["context", "step_history"])
async def test_what_happened_cannot_be_written(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(OrderSagaState(), name, {})


async def test_defaults_of_own_columns_apply(
    orchestrator: SagaOrchestrator, sessions: Sessions
) -> None:
    first = await orchestrator.start(saga_name="count", initial_data={"value": 1})
    second = await orchestrator.start(saga_name="count", initial_data={"value": 1}, wait=False)
    async with sessions() as session:
        one = await session.get_one(OrderSagaState, first)
        other = await session.get_one(OrderSagaState, second)
    assert (one.region, one.tier, one.rank, one.order) == ("eu", Tier.BASIC, 7, None)
    assert one.receipt != other.receipt
    assert isinstance(one.noticed_at, datetime)


async def test_other_tables_refer_to_a_saga_by_its_id(
    orchestrator: SagaOrchestrator, sessions: Sessions
) -> None:
    saga_id = await drive(orchestrator)
    async with sessions.begin() as session:
        session.add(Invoice(saga_id=saga_id))
    async with sessions() as session:
        saga = await session.get_one(OrderSagaState, saga_id)
        assert len(saga.invoices) == 1
        joined = await session.scalars(select(Invoice).join(Invoice.saga))
        assert [invoice.saga_id for invoice in joined] == [saga_id]


async def test_own_columns_may_be_written_beside_the_store(
    orchestrator: SagaOrchestrator, sessions: Sessions
) -> None:
    saga_id = await orchestrator.start(saga_name="count", initial_data={"value": 1}, wait=False)
    async with sessions.begin() as session:
        (await session.get_one(OrderSagaState, saga_id)).region = "us"
    assert await orchestrator.run_due() == 1
    async with sessions() as session:
        saga = await session.get_one(OrderSagaState, saga_id)
    assert (saga.region, saga.status) == ("us", "COMPLETED")


async def test_namespaces_share_a_table_but_no_id(sessions: Sessions) -> None:
    here, there = (
        SqlSagaStore(model_class=OrderSagaState, session_maker=sessions, namespace=name)
        for name in ("here", "there")
    )
    ours = SagaOrchestrator(store=here)
    theirs = SagaOrchestrator(store=there)
    for one in (ours, theirs):
        one.register("count", three_steps())
    saga_id = uuid4()
    await ours.start(saga_name="count", initial_data={"value": 1}, saga_id=saga_id, wait=False)
    assert await theirs.run_due() == 0
    with pytest.raises(SagaStateError, match=str(saga_id)):
        await theirs.start(saga_name="count", initial_data={"value": 1}, saga_id=saga_id)
    assert await ours.run_due() == 1
