"""The three tables of a model live in the user's metadata, under the user's own rules."""

from __future__ import annotations

import re
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import ops
from sqlalchemy import Connection, Index, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, declarative_base, mapped_column

from saga_backends.sql import SagaStateMixin, SqlSagaStore
from saga_core.errors import SagaDefinitionError, SchemaError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.records import Query
from tests.sql import shop
from tests.sql.shop import three_steps


def base(**metadata: Any) -> type[Any]:
    return type("Base", (DeclarativeBase,), {"metadata": MetaData(**metadata)})


async def migration(engine: AsyncEngine, metadata: MetaData) -> list[Any]:
    def compare(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


async def test_autogenerate_makes_the_tables_and_then_nothing(engine: AsyncEngine) -> None:
    own = base()
    type("Sagas", (own, SagaStateMixin), {"__tablename__": "sagas"})
    tables = [
        change for change in await migration(engine, own.metadata) if change[0] == "add_table"
    ]
    assert {change[1].name for change in tables} == {"sagas", "sagas_history", "sagas_inbox"}
    async with engine.begin() as connection:
        await connection.run_sync(own.metadata.create_all)
    assert await migration(engine, own.metadata) == []


async def test_a_generated_migration_makes_tables_that_work(engine: AsyncEngine) -> None:
    own = base(naming_convention=shop.CONVENTION)
    model = type("Sagas", (own, SagaStateMixin), {"__tablename__": "sagas"})

    def upgrade(connection: Connection) -> None:
        context = MigrationContext.configure(connection)
        script = produce_migrations(context, own.metadata)
        assert isinstance(script.upgrade_ops, ops.UpgradeOps)
        code = render_python_code(script.upgrade_ops)
        assert "saga_backends" not in code, "a migration must stand without this library"
        import sqlalchemy
        from alembic.operations import Operations
        from sqlalchemy.dialects import postgresql

        names = {"op": Operations(context), "sa": sqlalchemy, "postgresql": postgresql}
        exec("def upgrade():\n" + re.sub("^", "    ", code, flags=re.M), names)
        names["upgrade"]()  # type: ignore[operator]

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    assert await migration(engine, own.metadata) == []
    await run_one(model, engine)


async def run_one(model: type[Any], engine: AsyncEngine) -> None:
    """Drive a saga to its end in the tables of a model."""
    store = SqlSagaStore(model_class=model, session_maker=async_sessionmaker(engine))
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("count", three_steps())
    saga_id = await orchestrator.start(saga_name="count", initial_data={"value": 1})
    async with async_sessionmaker(engine)() as session:
        saga = await session.get_one(model, saga_id)
    assert len(saga.step_history) == 3
    assert await store.count(Query()) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_schema_holds_all_three_tables(engine: AsyncEngine) -> None:
    own = base(schema="Orders Of 2030", naming_convention=shop.CONVENTION)

    class Sagas(own, SagaStateMixin):  # type: ignore[misc,valid-type]
        __tablename__ = "order"
        __table_args__ = {"comment": "a reserved word"}  # noqa: RUF012

    async with engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "Orders Of 2030"'))
        await connection.run_sync(own.metadata.create_all)
    assert {table.schema for table in own.metadata.tables.values()} == {"Orders Of 2030"}
    await run_one(Sagas, engine)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_translated_schema_is_followed(engine: AsyncEngine) -> None:
    own = base()
    model = type("Sagas", (own, SagaStateMixin), {"__tablename__": "sagas"})
    tenant = engine.execution_options(schema_translate_map={None: "tenant"})
    async with tenant.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.run_sync(own.metadata.create_all)
    await run_one(model, tenant)


async def test_two_models_in_one_metadata_keep_apart(engine: AsyncEngine) -> None:
    own = base()

    class Orders(own, SagaStateMixin):  # type: ignore[misc,valid-type]
        __tablename__ = "orders"
        __table_args__ = (Index("ix_by_name", "saga_name"),)

    class Returns(SagaStateMixin, own):  # type: ignore[misc,valid-type]
        __tablename__ = "returns"

    async with engine.begin() as connection:
        await connection.run_sync(own.metadata.create_all)
    assert len(own.metadata.tables) == 6
    await run_one(Orders, engine)
    await run_one(Returns, engine)


async def test_the_older_declarative_base_works(engine: AsyncEngine) -> None:
    own = declarative_base()

    class Sagas(own, SagaStateMixin):  # type: ignore[misc,valid-type]
        __tablename__ = "sagas"

    async with engine.begin() as connection:
        await connection.run_sync(own.metadata.create_all)
    await run_one(Sagas, engine)


async def test_an_active_saga_is_never_stranded(engine: AsyncEngine) -> None:
    own = base()
    model = type("Sagas", (own, SagaStateMixin), {"__tablename__": "sagas"})
    async with engine.begin() as connection:
        await connection.run_sync(own.metadata.create_all)
    store = SqlSagaStore(model_class=model, session_maker=async_sessionmaker(engine))
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register("count", three_steps())
    await orchestrator.start(saga_name="count", initial_data={"value": 1}, wait=False)
    with pytest.raises(Exception, match="no_stranded_saga"):
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE sagas SET deadline_at = NULL"))


async def test_missing_tables_are_told_with_the_remedy(engine: AsyncEngine) -> None:
    store = SqlSagaStore(model_class=shop.OrderSagaState, session_maker=async_sessionmaker(engine))
    with pytest.raises(SchemaError, match=r"order_saga_state.*migration of your own"):
        await store.count(Query())


async def test_a_missing_column_is_told_with_the_remedy(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE order_saga_state (id text, namespace text)"))
    store = SqlSagaStore(model_class=shop.OrderSagaState, session_maker=async_sessionmaker(engine))
    with pytest.raises(SchemaError, match="migration of your own"):
        await store.find(Query())


async def test_a_column_that_nobody_fills_is_refused_at_once(engine: AsyncEngine) -> None:
    class Sagas(base(), SagaStateMixin):  # type: ignore[misc]
        __tablename__ = "sagas"
        customer: Mapped[str] = mapped_column()

    with pytest.raises(SagaDefinitionError, match=r"'customer'.*'sagas'.*default="):
        SqlSagaStore(model_class=Sagas, session_maker=async_sessionmaker(engine))


async def test_a_class_without_the_mixin_is_refused(engine: AsyncEngine) -> None:
    for model in (shop.Shop, SagaStateMixin, int):
        with pytest.raises(SagaDefinitionError, match="SagaStateMixin"):
            SqlSagaStore(model_class=model, session_maker=async_sessionmaker(engine))


async def test_sessions_without_an_engine_are_refused() -> None:
    with pytest.raises(SagaDefinitionError, match="engine"):
        SqlSagaStore(model_class=shop.OrderSagaState, session_maker=async_sessionmaker())


async def test_other_drivers_are_refused_with_those_that_work() -> None:
    from sqlalchemy.dialects.postgresql import asyncpg

    engine = create_async_engine("postgresql+asyncpg://u:secret@nowhere/db")
    assert isinstance(engine.dialect, asyncpg.dialect)
    engine.dialect.driver = "psycopg"
    with pytest.raises(SagaDefinitionError, match=r"asyncpg and sqlite\+aiosqlite, not .*psycopg"):
        SqlSagaStore(model_class=shop.OrderSagaState, session_maker=async_sessionmaker(engine))
