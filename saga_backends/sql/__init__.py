"""Sagas in a SQLAlchemy model of your own: `SagaStateMixin` and `SqlSagaStore`.

What the stores by URL share lies here too, so SQLAlchemy is imported only for these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saga_backends.sql.model import SagaStateMixin
    from saga_backends.sql.store import SqlSagaStore
    from saga_backends.sql.tables import SagaHistoryEntry

__all__ = ["SagaHistoryEntry", "SagaStateMixin", "SqlSagaStore"]

_HOMES = {
    "SagaHistoryEntry": "saga_backends.sql.tables",
    "SagaStateMixin": "saga_backends.sql.model",
    "SqlSagaStore": "saga_backends.sql.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
