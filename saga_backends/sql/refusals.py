"""What is wrong with a caller's session, in our words: what he is to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import (
    DBAPIError,
    IllegalStateChangeError,
    InterfaceError,
    InvalidRequestError,
    PendingRollbackError,
    ResourceClosedError,
    SQLAlchemyError,
    UnboundExecutionError,
)
from sqlalchemy.ext.asyncio.exc import AsyncContextNotStarted

from saga_backends.sql.joining import has_failed, in_use
from saga_core.errors import SagaError, SagaStateError, StoreUnavailableError

__all__ = ["session_errors"]


@contextmanager
def session_errors(where: str) -> Iterator[None]:
    """Turn what SQLAlchemy raises in a block into `SagaStateError` or `StoreUnavailableError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _told(error, where) from error


def _told(error: SQLAlchemyError, where: str) -> SagaError:
    said = str(error).partition("\n")[0]
    match error:
        case UnboundExecutionError():
            return _refused("bound to no engine: make it with async_sessionmaker(engine)")
        case AsyncContextNotStarted():
            return _refused("not open: start inside the block, `async with engine.begin() as ...:`")
        case ResourceClosedError():
            return _refused("closed: start inside the block that has opened it")
        case PendingRollbackError():
            return has_failed()
        case IllegalStateChangeError():
            return in_use()
        case InvalidRequestError():
            return _refused(f"not usable: {said}")
        case DBAPIError() if error.connection_invalidated:
            return StoreUnavailableError(
                f"{where}: the connection of session= is lost ({said}): its transaction is rolled "
                "back, so do its work anew in another one"
            )
        case DBAPIError() if getattr(error.orig, "sqlstate", None) == _FAILED_BEFORE:
            return has_failed()
        case InterfaceError():
            return in_use()
    return StoreUnavailableError(f"{where}: {said}")


_FAILED_BEFORE = "25P02"
"""PostgreSQL's in_failed_sql_transaction."""


def _refused(why: str) -> SagaStateError:
    return SagaStateError(f"session= is {why}")
