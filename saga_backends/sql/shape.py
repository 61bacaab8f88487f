"""Whether a model's table has the mixin's columns as the mixin means them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import DateTime, Enum, Integer, String, Table, Uuid
from sqlalchemy.types import TypeDecorator, TypeEngine

from saga_core.errors import SagaDefinitionError

__all__ = ["check_shape"]

_FAMILIES = (String, Integer, DateTime, Uuid)


def check_shape(table: Table, model: str, expected: Mapping[str, TypeEngine[Any]]) -> None:
    """Raise `SagaDefinitionError` if a column of `expected` is missing or of another kind.

    A base class that declares `id` or `created_at` itself wins over the mixin, and so does the
    model. That is welcome as long as the column can hold the same values.
    """
    for name, wanted in expected.items():
        column = table.columns.get(name)
        if column is None:
            raise SagaDefinitionError(
                f"{model} has no column '{name}': the columns of SagaStateMixin keep their names"
            )
        found = column.type
        if not _holds(found, wanted):
            raise SagaDefinitionError(
                f"column '{name}' of {model} is {_told(found)}, but a saga needs {_told(wanted)}: "
                "a base class, or the model, declares a column of that name. Rename it, or give "
                "it that type"
            )


def _holds(found: TypeEngine[Any], wanted: TypeEngine[Any]) -> bool:
    if isinstance(found, TypeDecorator):
        found = found.impl_instance
    if isinstance(found, Enum) and found.native_enum:
        return False
    if isinstance(wanted, DateTime):
        return isinstance(found, DateTime) and found.timezone
    family = next((family for family in _FAMILIES if isinstance(wanted, family)), type(wanted))
    return isinstance(found, family)


def _told(kind: TypeEngine[Any]) -> str:
    return repr(kind)
