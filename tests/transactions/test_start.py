"""A saga that is started in a caller's transaction comes and goes with it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from saga_backends.sql import SqlSagaStore
from saga_core import (
    ActiveSagaAlreadyExistsError,
    FixedRetry,
    Query,
    SagaDefinitionError,
    SagaNotFoundError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    SagaStore,
    StepContext,
    StoreUnavailableError,
    open_store,
)
from saga_core.records import Held
from saga_core.transactions import lender_of
from saga_testing import MemoryStore
from saga_testing.conformance import Business
from saga_testing.conformance.sagas import HOUR, ME, leased
from saga_testing.conformance.waiters import queued
from saga_testing.servers import PostgresqlServer
from tests.behaviour.cast import Story, definition
from tests.sql.models import create_tables, sagas_of
from tests.transactions.cast import Book
from tests.transactions.test_steps import Shop


async def test_saga_begins_once_its_starter_has_committed(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        await business.write(session, "order")
        saga_id = await shop.start(session=session)
        with pytest.raises(SagaNotFoundError):
            await shop.orchestrator.get_snapshot(saga_id)
        assert await shop.orchestrator.run_due() == 0
    assert await shop.status(saga_id) is SagaStatus.RUNNING
    assert await shop.orchestrator.run_due() == 1
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["order", "do step_0"]


async def test_connection_will_do_as_well_as_a_session(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        saga_id = await shop.start(session=await session.connection())
    assert await shop.status(saga_id) is SagaStatus.RUNNING


async def test_refused_start_leaves_the_session_usable(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    holder = await shop.start(aggregation_id="a", wait=False)
    async with business.session() as session:
        await business.write(session, "before")
        with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
            await shop.start(aggregation_id="a", session=session)
        assert refused.value.saga_id == holder
        with pytest.raises(SagaStateError, match="other initial_data"):
            await shop.orchestrator.start(
                saga_name="bookings", initial_data={"x": 1}, saga_id=holder, session=session
            )
        await business.write(session, "after")
    assert await business.rows() == ["before", "after"]
    assert await store.count(Query()) == 1


async def test_repeated_start_in_a_session_is_the_same_saga(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    saga_id = uuid4()
    for _ in range(2):
        async with business.session() as session:
            assert await shop.start(saga_id=saga_id, session=session) == saga_id
            assert await shop.start(saga_id=saga_id, session=session) == saga_id
    assert await store.count(Query()) == 1


async def test_what_is_no_session_of_the_store_starts_nothing(
    store: SagaStore, business: Business, tmp_path: Any
) -> None:
    shop = Shop(store, Book(business))
    with pytest.raises(SagaStateError, match="takes an SQLAlchemy AsyncSession"):
        await shop.start(session="no session")
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/elsewhere.db")
    async with async_sessionmaker(engine).begin() as session:
        with pytest.raises(SagaStateError, match="database"):
            await shop.start(session=session)
    await engine.dispose()
    assert await store.count(Query()) == 0


async def test_session_that_commits_each_statement_starts_nothing(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    async with business.session() as session:
        engine = session.bind.execution_options(isolation_level="AUTOCOMMIT")
        async with async_sessionmaker(engine).begin() as careless:
            with pytest.raises(SagaStateError, match="autocommit mode"):
                await shop.start(session=careless)
    assert await store.count(Query()) == 0


async def test_session_of_another_database_of_the_same_server_is_refused(
    postgresql: PostgresqlServer,
) -> None:
    admin = await asyncpg.connect(postgresql.url)
    await admin.execute("CREATE DATABASE elsewhere")
    base, _, _ = postgresql.url.rpartition("/")
    elsewhere = f"{base}/elsewhere".replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(elsewhere)
    try:
        async with (
            open_store(postgresql.url, create_schema=True, namespace="elsewhere") as store,
            async_sessionmaker(engine).begin() as session,
        ):
            shop = Shop(store, fails=True)
            with pytest.raises(SagaStateError, match="another database than the store"):
                await shop.start(session=session)
            assert await store.count(Query()) == 0
    finally:
        await engine.dispose()
        await admin.execute("DROP DATABASE elsewhere")
        await admin.close()


async def test_holder_that_is_not_committed_is_waited_for_but_not_for_ever(
    postgresql: PostgresqlServer,
) -> None:
    url = postgresql.url.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url)
    sessions = async_sessionmaker(engine)
    options: dict[str, Any] = {"create_schema": True, "namespace": f"n{uuid4().hex[:8]}"}
    try:
        async with (
            open_store(postgresql.url, lock_timeout=0.2, **options) as store,
            sessions.begin() as first,
        ):
            shop = Shop(store, fails=True)
            holder = await shop.start(aggregation_id="a", session=first)
            async with sessions.begin() as second:
                with pytest.raises(StoreUnavailableError):
                    await shop.start(aggregation_id="a", session=second)
                # His transaction is usable, and waits for locks as it did before.
                connection = await second.connection()
                assert (await connection.exec_driver_sql("SHOW lock_timeout")).scalar() == "0"
            async with (
                open_store(postgresql.url, lock_timeout=20, **options) as patient,
                sessions.begin() as third,
            ):
                waiting = asyncio.ensure_future(
                    Shop(patient, fails=True).start(aggregation_id="a", session=third)
                )
                await asyncio.sleep(0)
                await first.commit()
                with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
                    await waiting
                assert refused.value.saga_id == holder
    finally:
        await engine.dispose()


async def test_store_without_transactions_refuses_a_session() -> None:
    orchestrator = SagaOrchestrator(store=MemoryStore())
    orchestrator.register("story", definition(Story().step()))
    with pytest.raises(SagaDefinitionError, match=r"start\(session=\.\.\.\).*MemoryStore does not"):
        await orchestrator.start(saga_name="story", initial_data={"n": 1}, session=object())
    assert await orchestrator.store.count(Query()) == 0


async def test_row_that_points_at_the_saga_keeps_no_signal_waiting(
    postgresql: PostgresqlServer,
) -> None:
    """A foreign key takes a lock on the saga's row, and the transaction is open for long."""
    namespace = f"n{uuid4().hex[:8]}"
    async with open_store(postgresql.url, create_schema=True, namespace=namespace) as store:
        admin = await asyncpg.connect(postgresql.url)
        await admin.execute(
            "CREATE TABLE IF NOT EXISTS points_at_saga (namespace text, saga_id uuid, "
            "FOREIGN KEY (namespace, saga_id) REFERENCES saga.saga (namespace, saga_id))"
        )
        entered, go_on = asyncio.Event(), asyncio.Event()

        class Desk:
            async def write(self, transaction: Any, text: str) -> None:
                await transaction.execute(
                    "INSERT INTO points_at_saga VALUES ($1, $2)", namespace, saga_id
                )
                entered.set()
                await go_on.wait()

        shop = Shop(store, Book(Desk()))  # type: ignore[arg-type]
        saga_id = await shop.start(wait=False)
        driver = asyncio.ensure_future(shop.orchestrator.run_due())
        await entered.wait()
        async with asyncio.timeout(5):
            await shop.admin.pause(saga_id)
        go_on.set()
        await driver
        assert await admin.fetchval("SELECT count(*) FROM points_at_saga") == 1
        await admin.execute("DROP TABLE points_at_saga")
        await admin.close()


async def test_queued_saga_begins_with_a_step_in_a_transaction(
    store: SagaStore, business: Business
) -> None:
    """The commit that ends the one before it calls it, in the transaction of that one's step."""
    shop = Shop(store, Book(business))
    one = await shop.start(wait=False, aggregation_id="key")
    two = await shop.start(wait=False, aggregation_id="key", on_conflict="queue")
    assert await shop.orchestrator.run_due() == 2
    assert await shop.status(one) is SagaStatus.COMPLETED
    assert await shop.status(two) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "do step_0"]


async def test_saga_queues_from_within_a_callers_transaction(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business))
    one = await shop.start(wait=False, aggregation_id="key")
    async with business.session() as session:
        two = await shop.start(aggregation_id="key", on_conflict="queue", session=session)
        same = await shop.start(aggregation_id="key", on_conflict="return", session=session)
    assert same == one
    assert await shop.orchestrator.run_due() == 2
    assert await shop.status(two) is SagaStatus.COMPLETED


@pytest.mark.parametrize("harness", ["postgresql", "sql-postgresql"], indirect=True)
async def test_open_transaction_puts_off_the_renewal_of_the_saga_it_is_queued_behind_alone(
    store: SagaStore, business: Business
) -> None:
    """On SQLite a transaction that has written is the only one to write at all."""
    holder, other = leased(aggregation_id="key"), leased()
    for new in (holder, other):
        await store.create(new)
    held = [Held(new.saga_id, 1) for new in (holder, other)]
    lost = Held(holder.saga_id, 2)
    async with business.session() as session:
        behind = queued("key")
        await lender_of(store, "this rule").create_in(session, behind)
        async with asyncio.timeout(5):
            assert await store.renew(ME, held, HOUR) == {holder.saga_id: None, other.saga_id: 0}
            assert await store.renew(ME, [lost], HOUR) == {}
    assert await store.renew(ME, held, HOUR) == {holder.saga_id: 0, other.saga_id: 0}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_session_that_has_the_only_connection_of_its_pool_waits_for_no_other(
    kind: str, postgresql: PostgresqlServer, tmp_path: Any
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/one.db"
    if kind == "postgresql":
        url = postgresql.url.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=3)
    model = sagas_of("alone")
    await create_tables(engine, model)
    sessions = async_sessionmaker(engine)
    store = SqlSagaStore(model_class=model, session_maker=sessions, namespace="alone")
    shop = Shop(store, fails=True)
    async with sessions.begin() as session:
        saga_id = await shop.start(session=session)
    assert await shop.status(saga_id) is SagaStatus.RUNNING
    await engine.dispose()


async def test_saga_that_a_step_starts_is_there_exactly_if_its_record_is(
    store: SagaStore, business: Business
) -> None:
    started: list[Any] = []
    kept: list[Any] = []

    async def starts(ctx: StepContext) -> None:
        kept.append(ctx.transaction)
        started.append(
            await shop.orchestrator.start(
                saga_name="story", initial_data={"n": 1}, session=ctx.transaction
            )
        )

    async def starts_and_fails(ctx: StepContext) -> None:
        await starts(ctx)
        raise ConnectionError("busy")

    policy = FixedRetry(max_attempts=2, delay=timedelta(0))
    shop = Shop(store, Book(business, starts_and_fails, starts), retry_policy=policy)
    shop.orchestrator.register("story", definition(Story().step()))
    async with asyncio.timeout(30):
        assert await shop.status(await shop.start()) is SagaStatus.COMPLETED
    lost, other = started
    with pytest.raises(SagaNotFoundError):
        await shop.orchestrator.get_snapshot(lost)
    assert await shop.orchestrator.run_due() == 1
    assert await shop.status(other) is SagaStatus.COMPLETED
    with pytest.raises(SagaStateError, match="used after its step had ended"):
        await shop.start(session=kept[0])


async def test_step_starts_no_saga_of_another_store_in_its_transaction(
    postgresql: PostgresqlServer,
) -> None:
    class Desk:
        async def write(self, transaction: Any, text: str) -> None:
            await there.start(session=transaction)

    options: dict[str, Any] = {"create_schema": True, "pool_max_size": 1}
    async with (
        open_store(postgresql.url, namespace=f"n{uuid4().hex[:8]}", **options) as one,
        open_store(postgresql.url, namespace=f"n{uuid4().hex[:8]}", **options) as two,
    ):
        there = Shop(two, fails=True)
        here = Shop(one, Book(Desk()))  # type: ignore[arg-type]
        snapshot = await here.orchestrator.get_snapshot(await here.start())
        assert snapshot.error_code == "SagaStateError"
        assert await two.count(Query()) == 0
