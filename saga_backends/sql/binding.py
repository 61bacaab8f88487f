"""From a model and a session maker to the store that fits them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Table, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import NoInspectionAvailable, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapper

from saga_backends.sql.model import SagaStateMixin
from saga_backends.sql.names import Names
from saga_backends.sql.own_columns import own_columns
from saga_backends.sql.tables import HISTORY, INBOX
from saga_core.errors import SagaDefinitionError
from saga_core.transactions import TransactionalStore

__all__ = ["bind"]

_OURS = frozenset(name for name in SagaStateMixin.__annotations__ if not name.startswith("_"))

_RENAMED = {
    "saga_id": "id",
    "step_index": "current_step_index",
    "token": "step_execution_token",
    "attempt": "retry_counter",
    "due_at": "deadline_at",
}


def bind(
    model_class: type[Any], session_maker: async_sessionmaker[AsyncSession], namespace: str
) -> TransactionalStore:
    """Return the store on a model's tables. Raises `SagaDefinitionError`."""
    mapper = _mapper(model_class)
    engine = _engine(session_maker, mapper)
    table = mapper.local_table
    assert isinstance(table, Table)  # noqa: S101 - the mixin declares columns
    names = _names(mapper, table, engine)
    url = engine.url
    where = f"{url.set(password=None, query={}).render_as_string()} (table {table.fullname})"
    remedy = (
        f"Create or alter the tables of {model_class.__name__} with a migration of your own; "
        "Alembic's autogenerate sees all three."
    )

    def make_session() -> AsyncSession:
        return session_maker(bind=engine)

    driver = f"{url.get_backend_name()}+{engine.dialect.driver}"
    if driver == "postgresql+asyncpg":
        from saga_backends.sql.postgresql import ModelStore

        return ModelStore(
            engine,
            names,
            make_session=make_session,
            namespace=namespace,
            where=where,
            remedy=remedy,
        )
    if driver == "sqlite+aiosqlite":
        from saga_backends.sql.sqlite import SqliteModelStore

        return SqliteModelStore.on(
            engine,
            names,
            make_session=make_session,
            namespace=namespace,
            where=where,
            remedy=remedy,
        )
    raise SagaDefinitionError(
        f"SqlSagaStore works with postgresql+asyncpg and sqlite+aiosqlite, not with {driver}"
    )


def _mapper(model_class: type[Any]) -> Mapper[Any]:
    try:
        mapper: Mapper[Any] = inspect(model_class)
    except NoInspectionAvailable:
        mapper = None  # type: ignore[assignment]
    if mapper is None or not issubclass(model_class, SagaStateMixin):
        raise SagaDefinitionError(
            f"model_class={model_class!r} is no declarative model with SagaStateMixin: write "
            "class OrderSagaState(Base, SagaStateMixin)"
        )
    return mapper


def _engine(session_maker: async_sessionmaker[AsyncSession], mapper: Mapper[Any]) -> AsyncEngine:
    try:
        found = session_maker().sync_session.get_bind(mapper)
    except (SQLAlchemyError, TypeError, AttributeError) as error:
        raise SagaDefinitionError(
            f"session_maker gives no session with an engine: {error}"
        ) from error
    if not isinstance(found, Engine):
        raise SagaDefinitionError(
            "session_maker is bound to one connection; SqlSagaStore needs an engine, as in "
            "async_sessionmaker(create_async_engine(url))"
        )
    return AsyncEngine(found)


def _names(mapper: Mapper[Any], table: Table, engine: AsyncEngine) -> Names:
    dialect: Dialect = engine.dialect
    preparer = dialect.identifier_preparer
    schemas = engine.get_execution_options().get("schema_translate_map", {})

    def quoted(target: Table) -> str:
        schema = schemas.get(target.schema, target.schema)
        name = preparer.quote(target.name)
        return name if schema is None else f"{preparer.quote_schema(schema)}.{name}"

    filled, values = own_columns(table, _OURS, dialect)
    related = mapper.relationships
    history, inbox = related[HISTORY].mapper.local_table, related[INBOX].mapper.local_table
    assert isinstance(history, Table)  # noqa: S101 - made by saga_backends.sql.tables
    assert isinstance(inbox, Table)  # noqa: S101
    return Names(
        sagas=quoted(table),
        history=quoted(history),
        inbox=quoted(inbox),
        own=filled,
        own_values=values,
        **_RENAMED,
    )
