"""A model keeps the shape that sagas need, and what is odd about it is told when it is made."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import DateTime, Enum, MetaData, String, Uuid, func, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import BLANK_SCHEMA

from saga_backends.sql import SagaStateMixin, SqlSagaStore
from saga_core.errors import SagaDefinitionError, SagaStateError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.status import SagaStatus
from tests.sql.shop import three_steps


async def run_one(engine: AsyncEngine, model: type[Any]) -> UUID:
    """Drive one saga in a model's own tables, made here."""
    async with engine.begin() as connection:
        await connection.run_sync(model.metadata.create_all)
    store = SqlSagaStore(model_class=model, session_maker=async_sessionmaker(engine))
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("count", three_steps())
    return await orchestrator.start(saga_name="count", initial_data={"value": 1})


def test_a_base_with_another_kind_of_id_is_refused() -> None:
    class Base(DeclarativeBase):
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(SagaDefinitionError, match=r"'id' of Orders is Integer\(\).*needs Uuid\(\)"):

        class Orders(Base, SagaStateMixin):  # type: ignore[misc]
            __tablename__ = "orders"


def test_a_base_with_times_without_a_zone_is_refused() -> None:
    class Base(DeclarativeBase):
        created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    with pytest.raises(SagaDefinitionError, match="'created_at' of Orders"):

        class Orders(Base, SagaStateMixin):
            __tablename__ = "orders"


def test_a_status_of_a_database_type_of_its_own_is_refused() -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(SagaDefinitionError, match="'status' of Orders"):

        class Orders(Base, SagaStateMixin):
            __tablename__ = "orders"
            status: Mapped[SagaStatus] = mapped_column(Enum(SagaStatus))


def test_a_column_of_ours_under_another_name_is_refused() -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(SagaDefinitionError, match="Orders has no column 'id'"):

        class Orders(Base, SagaStateMixin):
            __tablename__ = "orders"
            id: Mapped[UUID] = mapped_column("order_id", Uuid, primary_key=True)


async def test_a_column_of_ours_may_be_declared_anew_if_it_holds_the_same(
    engine: AsyncEngine,
) -> None:
    class Base(DeclarativeBase):
        created_at: Mapped[datetime] = mapped_column(
            DateTime(timezone=True), server_default=func.now()
        )

    class Orders(Base, SagaStateMixin):
        __tablename__ = "orders"
        saga_name: Mapped[str] = mapped_column(String(100), index=True)

    saga_id = await run_one(engine, Orders)
    async with async_sessionmaker(engine)() as session:
        saga = await session.get_one(Orders, saga_id)
    assert (saga.saga_name, saga.status) == ("count", SagaStatus.COMPLETED)


async def test_names_that_need_quotes_are_quoted(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    class Orders(Base, SagaStateMixin):
        __tablename__ = "Order Table"
        chosen: Mapped[str] = mapped_column("select", default="x")
        kind: Mapped[str] = mapped_column("Mixed Case", default=lambda: "y")

    saga_id = await run_one(engine, Orders)
    async with async_sessionmaker(engine)() as session:
        saga = await session.get_one(Orders, saga_id)
    assert (saga.chosen, saga.kind, len(saga.step_history)) == ("x", "y", 3)


async def test_a_long_table_name_leaves_room_for_its_indexes(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    class Orders(Base, SagaStateMixin):
        __tablename__ = "sagas_of_the_fulfilment_of_orders_in_our_own_shops"

    await run_one(engine, Orders)
    async with engine.connect() as connection:
        indexes = await connection.run_sync(
            lambda sync: inspect(sync).get_indexes(Orders.__tablename__)
        )
    assert len(indexes) == 5


def test_tables_stay_together_without_the_metadata_s_schema() -> None:
    class Base(DeclarativeBase):
        metadata = MetaData(schema="elsewhere")

    class Orders(Base, SagaStateMixin):
        __tablename__ = "orders"
        __table_args__ = ({"schema": BLANK_SCHEMA},)

    assert set(Base.metadata.tables) == {"orders", "orders_history", "orders_inbox"}


async def test_history_cannot_be_rewritten_through_its_entries(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    class Orders(Base, SagaStateMixin):
        __tablename__ = "orders"

    saga_id = await run_one(engine, Orders)
    async with async_sessionmaker(engine)() as session:
        saga = await session.get_one(Orders, saga_id)
        saga.step_history[0].error = "it was not me"
        with pytest.raises(SagaStateError, match="SqlSagaStore writes it"):
            await session.commit()


async def test_many_rows_bring_their_history_without_a_lazy_load(engine: AsyncEngine) -> None:
    class Base(DeclarativeBase):
        pass

    class Orders(Base, SagaStateMixin):
        __tablename__ = "orders"

    saga_id = await run_one(engine, Orders)
    await run_one(engine, Orders)
    async with async_sessionmaker(engine)() as session:
        saga = await session.get_one(Orders, saga_id)
        assert len(saga.step_history) == 3
        await session.refresh(saga)
        assert len(saga.step_history) == 3
        assert [entry.seq for entry in saga.step_history] == [1, 2, 3]


def test_a_missing_sqlalchemy_is_told_with_what_to_install() -> None:
    program = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from saga_core.errors import MissingDriverError\n"
        "try:\n"
        "    from saga_backends.sql import SagaStateMixin\n"
        "except MissingDriverError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'saga-core[" in done.stdout, done.stderr
