"""Bugs to be planted in steps that work in the store's own transaction."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from saga_backends.sql.lending import LentSession
from saga_core import transacting
from saga_core.errors import StaleVersionError, StoreUnavailableError
from saga_core.records import Committed, Transition
from saga_core.transacting import Transactions
from tests.campaign.bug import Patch, bug


@bug("a row stands of an execution that is not on record", lends=True)
def failed_attempt_is_not_rolled_back(patch: Patch) -> None:
    patch.setattr(transacting, "FAILURES", ())


@bug("was recorded, but nothing of the kind happened", lends=True)
def lost_commit_is_sent_again_outside(patch: Patch) -> None:
    async def careless(
        self: Transactions, transaction: Any, stack: AsyncExitStack, change: Transition
    ) -> Committed:
        try:
            committed: Committed = await transaction.commit(change)
        except StoreUnavailableError:
            await stack.aclose()
            assert self._lender is not None
            return await self._lender.commit(change)
        return committed

    patch.setattr(Transactions, "_write", careless)


@bug("a row stands of an execution that is not on record", lends=True)
def rows_of_a_driver_that_was_overtaken_stand(patch: Patch) -> None:
    commit = LentSession._commit

    async def careless(self: LentSession, transition: Transition) -> Committed:
        try:
            return await commit(self, transition)
        except StaleVersionError:
            self._commits = True
            await self._session.commit()
            raise

    patch.setattr(LentSession, "_commit", careless)
