"""Run a step in the store's own transaction, and commit what happened in that same transaction."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

from saga_core.errors import StoreUnavailableError, TransactionFailedError
from saga_core.failure import failure_of
from saga_core.happening import (
    BranchLeft,
    CompensationFailed,
    DeadlinePassed,
    Happened,
    StepFailed,
    Undecodable,
)
from saga_core.records import Committed, Transition
from saga_core.status import Direction
from saga_core.transactions import StepTransaction, StoreTransaction, transactional
from saga_core.writing import settle

if TYPE_CHECKING:
    from saga_core.live import LiveSaga
    from saga_core.outage import Outage
    from saga_core.store import SagaStore

__all__ = ["LENT", "Transactions", "works_in_transaction"]

LENT = 0.4
"""The share of a lease for which a step may keep a transaction open: no store may then need to
renew the lease meanwhile, and the renewal before lies a third back at most."""

FAILURES = (BranchLeft, CompensationFailed, DeadlinePassed, StepFailed, Undecodable)
"""What a step has written before it came to this must not stay."""

Write = Callable[[Transition], Awaitable[Committed]]


def works_in_transaction(live: LiveSaga) -> bool:
    """Tell whether what the saga does next is done in the store's own transaction."""
    step_id = live.state.step_id
    if live.state.is_queued:
        return False
    return step_id is not None and live.definition.step(step_id).transaction


MOST_LOST = 3
"""So many transactions of a step are lost in a row until its attempt has failed."""


class _NotCommittedError(Exception):
    """The transaction was lost before it was committed: nothing of it has happened.

    Raised from the store's error.
    """


class Transactions:
    """Drives single steps in the transactions of one store."""

    def __init__(self, store: SagaStore, outage: Outage, *, patience: float) -> None:
        """`patience` is for how many seconds it is asked what became of a lost commit."""
        self._outage = outage
        self._patience = patience
        self._lender = transactional(store)

    async def run(
        self,
        live: LiveSaga,
        step: Callable[[LiveSaga], Awaitable[Happened | None]],
        commit: Callable[[LiveSaga, Happened, Write], Awaitable[None]],
    ) -> Happened | None:
        """Run a step; return what is still to be committed, outside, if anything is.

        A failed attempt is rolled back and left to the caller to record. What has gone well is
        handed to `commit` with the way to write it. A transaction that was lost on its way is as
        if it had never been: None, and the step is done once more. The third in a row is a failed
        attempt, as one that cannot be committed is: there may be a reason that does not pass.
        """
        lender = self._lender
        assert lender is not None  # noqa: S101 - `register` has seen to it
        step_id = live.state.step_id or ""
        try:
            async with AsyncExitStack() as stack:
                transaction = await stack.enter_async_context(lender.transaction())
                lent = live.transaction = StepTransaction(transaction.handle, live.position)
                try:
                    happened = await step(live)
                finally:
                    lent.end()
                    live.transaction = None
                if happened is None or isinstance(happened, FAILURES):
                    live.transactions_lost = 0
                    return happened
                await commit(live, happened, lambda change: self._write(transaction, stack, change))
                live.transactions_lost = 0
                return None
        except TransactionFailedError as error:
            return _failed(live, step_id, error)
        except _NotCommittedError as lost:
            live.transactions_lost += 1
            if live.transactions_lost < MOST_LOST:
                if live.state.direction is Direction.FORWARD:
                    live.forget(step_id)
                return None
            live.transactions_lost = 0
            return _failed(live, step_id, lost.__cause__ or lost)

    async def _write(
        self, transaction: StoreTransaction, stack: AsyncExitStack, change: Transition
    ) -> Committed:
        """Commit; where the answer is lost, ask until it is known what became of it.

        Sent again outside the transaction, the change would stand without what the step wrote.
        """
        try:
            committed = await transaction.commit(change)
        except StoreUnavailableError as error:
            self._outage.unanswered(f"commit of a step of saga {change.saga_id}", error)
            assert self._lender is not None  # noqa: S101 - it has lent the transaction
            lender = self._lender
            await stack.aclose()  # what is still open would be waited for
            found = await settle(
                lambda: lender.recorded(change.saga_id, change.commit_id),
                what=lambda: f"looking for a commit of saga {change.saga_id}",
                outage=self._outage,
                until=asyncio.get_running_loop().time() + self._patience,
            )
            if found is None:
                raise _NotCommittedError from error
            return found
        self._outage.answered()
        return committed


def _failed(live: LiveSaga, step_id: str, error: BaseException) -> StepFailed | CompensationFailed:
    """Return what it comes to that a step's transaction did not come about."""
    spec = live.definition.step(step_id)
    jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
    if live.state.direction is Direction.FORWARD:
        live.forget(step_id)
        return StepFailed(failure_of(error, spec.retry_policy), uuid4(), jitter)
    return CompensationFailed(failure_of(error, spec.compensation_retry_policy), jitter)
