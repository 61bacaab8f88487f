"""Rules for stores that declare `TRANSACTION`: rows and record stand or fall together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaStateError,
    StaleVersionError,
    TransactionFailedError,
)
from saga_core.hookspecs import Capability
from saga_core.records import Query, SagaRecord
from saga_core.transactions import StoreTransaction, TransactionalStore, lender_of
from saga_testing.conformance.harness import Business, StoreHarness
from saga_testing.conformance.sagas import commit_of, leased, new_saga
from saga_testing.conformance.topic import Topic, needs
from saga_testing.conformance.transitions import unchanged

__all__ = ["TransactionRules"]


class _Scene:
    """A store with its user's rows, and a saga that somebody drives."""

    def __init__(self, store: TransactionalStore, business: Business, saga: SagaRecord) -> None:
        self.store = store
        self.business = business
        self.saga = saga

    async def write_and(self, last: Callable[[StoreTransaction], Awaitable[object]]) -> None:
        """Write a row in a transaction, and do something else there last."""
        async with self.store.transaction() as transaction:
            await self.business.write(transaction.handle, "row")
            await last(transaction)


async def _raise(_: StoreTransaction) -> None:
    raise ZeroDivisionError


@asynccontextmanager
async def _scene(harness: StoreHarness) -> AsyncIterator[_Scene]:
    """Open the store, and the user's own side of its database."""
    needs(harness, Capability.TRANSACTION)
    async with harness.business() as business, harness.open() as store:
        lender = lender_of(store, "these rules")
        saga = (await store.create(leased(aggregation_id="taken"))).record
        yield _Scene(lender, business, saga)


class TransactionRules(Topic):
    async def test_rows_and_record_are_committed_together(self, harness: StoreHarness) -> None:
        async with _scene(harness) as scene:
            transition = commit_of(scene.saga)
            async with scene.store.transaction() as transaction:
                await scene.business.write(transaction.handle, "row")
                committed = await transaction.commit(transition)
            assert committed.version == scene.saga.version + 1
            assert committed.held
            assert await scene.business.rows() == ["row"]
            assert (await scene.store.load(scene.saga.saga_id)).version == committed.version
            assert await scene.store.commit(transition) == committed

    async def test_nothing_is_seen_before_the_commit(self, harness: StoreHarness) -> None:
        async with _scene(harness) as scene, harness.open() as other:
            before = await other.export(scene.saga.saga_id)
            async with scene.store.transaction() as transaction:
                await scene.business.write(transaction.handle, "row")
                assert await scene.business.rows() == []
                assert await unchanged(other, scene.saga.saga_id, before)
                await transaction.commit(commit_of(scene.saga))
            assert await scene.business.rows() == ["row"]

    async def test_block_that_ends_without_a_commit_leaves_nothing(
        self, harness: StoreHarness
    ) -> None:
        async with _scene(harness) as scene:
            before = await scene.store.export(scene.saga.saga_id)
            async with scene.store.transaction() as transaction:
                await scene.business.write(transaction.handle, "row")
            with pytest.raises(ZeroDivisionError):
                await scene.write_and(_raise)
            assert await scene.business.rows() == []
            assert await unchanged(scene.store, scene.saga.saga_id, before)

    async def test_stale_commit_takes_the_rows_with_it(self, harness: StoreHarness) -> None:
        async with _scene(harness) as scene:
            stale = commit_of(scene.saga)
            await scene.store.commit(commit_of(scene.saga))
            before = await scene.store.export(scene.saga.saga_id)
            with pytest.raises(StaleVersionError):
                await scene.write_and(lambda transaction: transaction.commit(stale))
            assert await scene.business.rows() == []
            assert await unchanged(scene.store, scene.saga.saga_id, before)

    async def test_statement_that_failed_and_was_swallowed_fails_the_commit_or_is_undone_alone(
        self, harness: StoreHarness
    ) -> None:
        """The rows that stand are those of a transaction whose record stands."""
        async with _scene(harness) as scene:
            done = False
            try:
                async with scene.store.transaction() as transaction:
                    await scene.business.write(transaction.handle, "row")
                    with pytest.raises(Exception, match=r".+"):
                        await scene.business.break_a_rule(transaction.handle)
                    await transaction.commit(commit_of(scene.saga))
                    done = True
            except TransactionFailedError:
                assert not done
            version = (await scene.store.load(scene.saga.saga_id)).version
            assert await scene.business.rows() == ["row"] * (version - scene.saga.version)

    async def test_spawned_sagas_are_part_of_the_transaction(self, harness: StoreHarness) -> None:
        async with _scene(harness) as scene:
            child, lost = new_saga(), new_saga()
            async with scene.store.transaction() as transaction:
                committed = await transaction.commit(commit_of(scene.saga, spawn=(child,)))
            assert (await scene.store.load(child.saga_id)).version == 1
            stale = commit_of(scene.saga, spawn=(lost,))
            with pytest.raises(StaleVersionError):
                await scene.write_and(lambda transaction: transaction.commit(stale))
            assert await scene.store.count(Query()) == 2
            assert committed.version == 2

    async def test_commit_that_is_on_record_is_found_and_another_is_not(
        self, harness: StoreHarness
    ) -> None:
        async with _scene(harness) as scene:
            transition = commit_of(scene.saga)
            saga_id = scene.saga.saga_id
            assert await scene.store.recorded(saga_id, transition.commit_id) is None
            async with scene.store.transaction() as transaction:
                committed = await transaction.commit(transition)
            assert await scene.store.recorded(saga_id, transition.commit_id) == committed
            assert await scene.store.recorded(saga_id, uuid4()) is None

    async def test_asking_for_a_commit_waits_for_one_that_is_under_way(
        self, harness: StoreHarness
    ) -> None:
        async with _scene(harness) as scene:
            transition = commit_of(scene.saga)
            async with harness.open() as other:
                store = lender_of(other, "these rules")
                async with scene.store.transaction() as transaction:
                    await scene.business.write(transaction.handle, "row")
                    committing = asyncio.ensure_future(transaction.commit(transition))
                    found = asyncio.ensure_future(
                        store.recorded(scene.saga.saga_id, transition.commit_id)
                    )
                    committed = await committing
                # Asked before or after, it is one answer or the other, and never later another.
                first = await found
                assert first in (None, committed)
                assert await store.recorded(scene.saga.saga_id, transition.commit_id) == committed

    # --- sagas that a caller writes in his own transaction ---------------------------------------

    async def test_saga_in_a_callers_transaction_comes_with_its_commit(
        self, harness: StoreHarness
    ) -> None:
        async with _scene(harness) as scene:
            new = new_saga(aggregation_id="b")
            async with harness.open() as other:
                async with scene.business.session() as session:
                    await scene.business.write(session, "row")
                    created = await scene.store.create_in(session, new)
                    assert created.created
                    assert created.record.version == 1
                    assert await other.count(Query()) == 1
                assert await other.count(Query()) == 2
                assert await scene.business.rows() == ["row"]
                assert (await other.load(new.saga_id)).aggregation_id == "b"

    async def test_saga_in_a_callers_transaction_goes_with_its_rollback(
        self, harness: StoreHarness
    ) -> None:
        async with _scene(harness) as scene:

            async def start_and_fail() -> None:
                async with scene.business.session() as session:
                    await scene.business.write(session, "row")
                    await scene.store.create_in(session, new_saga())
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await start_and_fail()
            assert await scene.store.count(Query()) == 1
            assert await scene.business.rows() == []

    async def test_refusal_leaves_the_callers_transaction_usable(
        self, harness: StoreHarness
    ) -> None:
        async with _scene(harness) as scene:
            async with scene.business.session() as session:
                await scene.business.write(session, "before")
                with pytest.raises(ActiveSagaAlreadyExistsError) as refused:
                    await scene.store.create_in(session, new_saga(aggregation_id="taken"))
                assert refused.value.saga_id == scene.saga.saga_id
                again = await scene.store.create_in(session, new_saga(saga_id=scene.saga.saga_id))
                assert not again.created
                await scene.business.write(session, "after")
            assert await scene.business.rows() == ["before", "after"]
            assert await scene.store.count(Query()) == 1

    async def test_saga_in_a_lent_transaction_comes_and_goes_with_it(
        self, harness: StoreHarness
    ) -> None:
        """So a step starts another saga, which is there exactly if the step's record is."""
        async with _scene(harness) as scene:
            new, lost = new_saga(aggregation_id="b"), new_saga()
            async with scene.store.transaction() as transaction:
                await scene.store.create_in(transaction.handle, lost)
            assert await scene.store.count(Query()) == 1
            async with scene.store.transaction() as transaction:
                with pytest.raises(ActiveSagaAlreadyExistsError):
                    await scene.store.create_in(
                        transaction.handle, new_saga(aggregation_id="taken")
                    )
                assert (await scene.store.create_in(transaction.handle, new)).created
                await scene.business.write(transaction.handle, "row")
                await transaction.commit(commit_of(scene.saga))
            assert await scene.business.rows() == ["row"]
            assert await scene.store.count(Query()) == 2
            assert (await scene.store.load(new.saga_id)).version == 1

    @pytest.mark.parametrize("session", [None, "session", object()])
    async def test_what_is_no_session_is_refused(self, harness: StoreHarness, session: Any) -> None:
        async with _scene(harness) as scene:
            with pytest.raises(SagaStateError, match="session"):
                await scene.store.create_in(session, new_saga())
            assert await scene.store.count(Query()) == 1
