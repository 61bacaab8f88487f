"""What an insert writes into the columns that a model adds to those of a saga."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.schema import ColumnDefault, Sequence

from saga_backends.sql.names import OwnColumn
from saga_core.errors import SagaDefinitionError

__all__ = ["own_columns"]


def own_columns(
    table: Table, ours: frozenset[str], dialect: Dialect
) -> tuple[tuple[OwnColumn, ...], Callable[[], tuple[Any, ...]]]:
    """Return the columns with a default on the Python side, and what makes their values.

    Server defaults, identities and computed columns are the database's to fill; nullable columns
    stay null. Raises `SagaDefinitionError` for a column that nobody would fill.
    """
    filled: list[OwnColumn] = []
    makers: list[Callable[[], Any]] = []
    for column in table.columns:
        if column.name in ours:
            continue
        default = column.default
        name = dialect.identifier_preparer.quote(column.name)
        if isinstance(default, Sequence):
            if dialect.name == "postgresql":
                sequence = dialect.identifier_preparer.format_sequence(default)
                filled.append(OwnColumn(name, f"nextval('{sequence}')"))
        elif isinstance(default, ColumnDefault):
            if default.is_clause_element:
                filled.append(OwnColumn(name, _expression(column, default, dialect)))
            else:
                filled.append(OwnColumn(name))
                makers.append(_maker(column, default, dialect))
        elif column.server_default is None and not column.nullable:
            raise SagaDefinitionError(
                f"column '{column.name}' of table '{table.fullname}' is NOT NULL and has no "
                "default, so no saga could be written: give it default= or server_default=, or "
                "make it nullable"
            )
    return tuple(filled), lambda: tuple(make() for make in makers)


def _expression(column: Column[Any], default: ColumnDefault, dialect: Dialect) -> str:
    try:
        return f"({default.arg.compile(dialect=dialect, compile_kwargs={'literal_binds': True})})"
    except Exception as error:
        raise SagaDefinitionError(
            f"the default of column '{column.name}' of table '{column.table}' cannot be written "
            f"as SQL by itself: {error}"
        ) from error


def _maker(column: Column[Any], default: ColumnDefault, dialect: Dialect) -> Callable[[], Any]:
    bind = column.type.dialect_impl(dialect).bind_processor(dialect)

    def make() -> Any:
        if not default.is_callable:
            value = default.arg
        else:
            try:
                value = default.arg(None)
            except Exception as error:
                raise SagaDefinitionError(
                    f"the default of column '{column.name}' of table '{column.table}' failed: "
                    f"{type(error).__name__}: {error}. There is no statement of SQLAlchemy's for "
                    "it to look at"
                ) from error
        return value if bind is None else bind(value)

    return make
