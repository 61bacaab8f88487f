"""Sagas in a SQLAlchemy model of your own: `SagaStateMixin` and `SqlSagaStore`.

What the stores by URL share lies here too, so SQLAlchemy is imported only for these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saga_core.errors import MissingDriverError

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
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "sqlalchemy":
            raise
        raise MissingDriverError(
            f"saga_backends.sql.{name} needs SQLAlchemy: pip install 'saga-core[postgresql]', or "
            "'saga-core[sqlite]'"
        ) from error
