"""The store's own transaction, lent to a step: what a store offers, and what the step sees of it.

A store that declares `Capability.TRANSACTION` keeps this contract beside `SagaStore`. What the
step writes with the transaction and the record that the step is done are committed together or
not at all, so in that database its effects happen exactly once.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast
from uuid import UUID

from saga_core.errors import SagaDefinitionError, SagaStateError, TransactionFailedError
from saga_core.hookspecs import Capability
from saga_core.records import Committed, Created, NewSaga, Transition
from saga_core.store import SagaStore

__all__ = [
    "StepTransaction",
    "StoreTransaction",
    "TransactionalStore",
    "ended_by_the_step",
    "handle_of",
    "lender_of",
    "transactional",
]


class StoreTransaction(Protocol):
    """One open transaction."""

    @property
    def handle(self) -> Any:
        """What the step works with: the driver's connection, or a session."""
        ...

    async def commit(self, transition: Transition) -> Committed:
        """Apply the transition as the last statement, as `SagaLog.commit` would, and commit all.

        It touches the saga's row first here, so no lock on it is held while user code runs. A
        version other than the expected one raises `StaleVersionError`, and anything that the
        server refuses, deferred constraints among it, `TransactionFailedError`: then all is
        rolled back. `StoreUnavailableError` means that nobody knows; ask `recorded`.
        """
        ...


class TransactionalStore(SagaStore, Protocol):
    """A store that lends its transactions, and takes part in those of others."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do; `TRANSACTION` among it."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """Open a transaction at READ COMMITTED, or what is stricter, for a block.

        The block's end rolls back what was not committed, whatever happened to the connection.
        Raises `StoreUnavailableError` when it cannot be opened.
        """
        ...

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        """Return what a commit has made, or None if it is not on record.

        Waits until no transaction under way holds the saga's row. Raises `SagaNotFoundError`.
        """
        ...

    async def create_in(self, session: object, new: NewSaga) -> Created:
        """Do what `create` does within the transaction of a caller's session or connection.

        That may be the handle of one of this store's own transactions.

        Nobody sees the saga before the caller commits; the wake-up goes out then. A refusal leaves
        his transaction as it was, and usable. Another, uncommitted saga that holds the aggregate
        is waited for, for as long as the store waits for locks, then `StoreUnavailableError`.
        Raises `SagaStateError` for a session that is none, belongs to another database, or cannot
        be used as it is.
        """
        ...


def transactional(store: SagaStore) -> TransactionalStore | None:
    """Return the store as one that lends its transactions, if it declares to be one."""
    declared: frozenset[Capability] = getattr(store, "capabilities", frozenset())
    return cast("TransactionalStore", store) if Capability.TRANSACTION in declared else None


def lender_of(store: SagaStore, wanted_for: str) -> TransactionalStore:
    """Return a store that lends its transactions. Raises `SagaDefinitionError` if it has none."""
    lender = transactional(store)
    if lender is None:
        raise SagaDefinitionError(
            f"{wanted_for}, which needs a store that lends its own transactions "
            f"(Capability.TRANSACTION); {type(store).__name__} does not. PostgreSQL does, and "
            "SqlSagaStore"
        )
    return lender


def ended_by_the_step(saga_id: UUID) -> TransactionFailedError:
    """Return what a store raises whose transaction is over before it was to be committed."""
    return TransactionFailedError(
        "the step has ended the store's transaction by itself, so its record cannot be committed "
        "with it: leave commit and rollback to the store",
        saga_id=saga_id,
    )


_NOT_FOR_STEPS = frozenset(
    {"begin", "close", "close_all", "commit", "invalidate", "reset", "rollback", "terminate"}
)


class StepTransaction:
    """`ctx.transaction`: passes everything on to the store's handle while the step runs.

    What would end the transaction is refused, for that is the store's to do; so is any use after
    the step has ended, or in another thread. `SagaStateError` says which.
    """

    __slots__ = ("_handle", "_thread", "_where")

    def __init__(self, handle: Any, where: str) -> None:
        for name, value in zip(self.__slots__, (handle, threading.get_ident(), where), strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"<transaction of {self._where}>"

    def __getattr__(self, name: str) -> Any:
        self._check(name)
        found = getattr(self._handle, name)
        if not inspect.ismethod(found):
            return found

        @functools.wraps(found)
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._check(name)  # a method may have been kept longer than the step runs
            return found(*args, **kwargs)

        return checked

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(name)
        setattr(self._handle, name, value)

    def __contains__(self, each: object) -> bool:
        self._check("in")
        return each in self._handle

    def __iter__(self) -> Iterator[Any]:
        self._check("iter")
        return iter(self._handle)

    async def __aenter__(self) -> Any:
        raise SagaStateError(
            f"`async with ctx.transaction` is not for the step: the transaction of {self._where} "
            "is open, and closed by the store: use it as it is"
        )

    async def __aexit__(self, *_: object) -> None:
        """Never come to this."""

    def _check(self, name: str) -> None:
        if self._handle is None:
            raise SagaStateError(
                f"the transaction of {self._where} was used after its step had ended, when it was "
                "committed or rolled back: do all of its work before execute returns"
            )
        if threading.get_ident() != self._thread:
            raise SagaStateError(
                f"the transaction of {self._where} was used in another thread than the step's: "
                "await its methods in the step itself"
            )
        if name in _NOT_FOR_STEPS:
            raise SagaStateError(
                f"{name}() is not for the step: the transaction of {self._where} is committed with "
                "the step's record, and rolled back when the step raises"
            )

    def end(self) -> None:
        """Let nobody use it any more."""
        object.__setattr__(self, "_handle", None)


def handle_of(session: object) -> object:
    """Return what a step's transaction stands for, and any other session as it is.

    Raises `SagaStateError` for one that the step may not use.
    """
    if not isinstance(session, StepTransaction):
        return session
    session._check("start")
    return session._handle
