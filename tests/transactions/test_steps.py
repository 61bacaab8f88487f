"""What a step writes in the store's transaction stands exactly if the record of it stands."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from saga_core import (
    AwaitEvent,
    BaseStep,
    FixedRetry,
    SagaAdmin,
    SagaBuilder,
    SagaDefinitionError,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    SagaStore,
    Sleep,
    StepContext,
    open_store,
)
from saga_testing import Fault, FaultyStore, MemoryStore
from saga_testing.conformance import Business, StoreHarness
from saga_testing.servers import PostgresqlServer
from tests.transactions.cast import NAME, Approved, Book, Booking, bookings

NOW = timedelta(0)


class Shop:
    """One saga on one store."""

    def __init__(self, store: SagaStore, *steps: BaseStep[Booking, Booking], **more: Any) -> None:
        self.orchestrator = SagaOrchestrator(store=store)
        self.orchestrator.register(NAME, bookings(*steps, **more))
        self.admin = SagaAdmin(engine=self.orchestrator.engine)

    async def start(self, **more: Any) -> UUID:
        return await self.orchestrator.start(saga_name=NAME, initial_data={}, **more)

    async def status(self, saga_id: UUID) -> SagaStatus:
        return (await self.orchestrator.get_snapshot(saga_id)).status

    async def kinds(self, saga_id: UUID) -> list[str]:
        return [str(each.kind) for each in (await self.admin.get_saga(saga_id)).step_history]


async def raises(_: StepContext) -> None:
    raise ConnectionError("busy")


async def test_rows_of_a_step_that_is_done_stand(store: SagaStore, business: Business) -> None:
    shop = Shop(store, Book(business), Book(business))
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "do step_1"]


async def test_compensation_writes_in_a_transaction_too(
    store: SagaStore, business: Business
) -> None:
    shop = Shop(store, Book(business), Book(business), fails=True)
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPENSATED
    assert await business.rows() == ["do step_0", "do step_1", "undo step_1", "undo step_0"]


async def test_rows_of_a_failed_attempt_are_gone_and_the_failure_is_on_record(
    store: SagaStore, business: Business
) -> None:
    policy = FixedRetry(max_attempts=2, delay=NOW)
    shop = Shop(store, Book(business, raises), retry_policy=policy)
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await shop.kinds(saga_id) == ["retrying", "completed"]
    assert await business.rows() == ["do step_0"]


async def test_failed_compensation_leaves_no_rows(store: SagaStore, business: Business) -> None:
    shop = Shop(store, Book(business, undo=raises), fails=True)
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.STUCK
    assert await business.rows() == ["do step_0"]


async def test_statement_that_the_database_refuses_fails_the_step(
    store: SagaStore, business: Business
) -> None:
    async def breaks(ctx: StepContext) -> None:
        await business.break_a_rule(ctx.transaction)

    shop = Shop(store, Book(business), Book(business, breaks))
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPENSATED
    assert await business.rows() == ["do step_0", "undo step_0"]


async def test_step_that_swallows_what_the_database_refused_is_never_half_done(
    store: SagaStore, business: Business
) -> None:
    async def breaks(ctx: StepContext) -> None:
        with pytest.raises(Exception, match=r".+"):
            await business.break_a_rule(ctx.transaction)

    policy = FixedRetry(max_attempts=2, delay=NOW)
    shop = Shop(store, Book(business, breaks), retry_policy=policy)
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0"]
    kinds = await shop.kinds(saga_id)
    # PostgreSQL fails the whole transaction, SQLite the statement.
    assert kinds in (["retrying", "completed"], ["completed"])
    if kinds[0] == "retrying":
        first = (await shop.admin.get_saga(saga_id)).step_history[0]
        assert first.error_code == "TransactionFailedError"


async def test_step_that_waits_keeps_what_it_has_written_before(
    store: SagaStore, business: Business
) -> None:
    async def waits(_: StepContext) -> AwaitEvent:
        return AwaitEvent(Approved)

    shop = Shop(store, Book(business, waits))
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.SUSPENDED
    assert await business.rows() == ["do step_0"]
    await shop.orchestrator.signal(saga_id=saga_id, event=Approved(by="me"))
    assert await shop.orchestrator.run_due() == 1
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "do step_0"]


async def test_step_that_sleeps_keeps_what_it_has_written_before(
    store: SagaStore, business: Business, harness: StoreHarness
) -> None:
    async def sleeps(_: StepContext) -> Sleep:
        return Sleep(timedelta(days=1))

    shop = Shop(store, Book(business, sleeps))
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.SUSPENDED
    assert await business.rows() == ["do step_0"]
    await harness.age(saga_id, timedelta(days=2))
    assert await shop.orchestrator.run_due() == 1
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "do step_0"]


async def test_what_a_step_has_set_for_its_session_is_gone_with_its_transaction(
    postgresql: PostgresqlServer,
) -> None:
    """Else the statements of every other saga would run under the settings of a stranger."""

    class Careless:
        async def write(self, transaction: Any, text: str) -> None:
            await transaction.execute("SET statement_timeout = 1234")
            await transaction.execute("SET search_path = elsewhere")
            await transaction.execute("SELECT pg_advisory_lock(4711)")

    options: dict[str, Any] = {"create_schema": True, "namespace": f"n{uuid4().hex[:8]}"}
    async with open_store(postgresql.url, pool_max_size=1, **options) as store:
        shop = Shop(store, Book(Careless()))  # type: ignore[arg-type]
        await shop.start()
        pool = store._pool  # type: ignore[attr-defined]
        assert await pool.fetchval("SHOW statement_timeout") == "30s"
        assert await pool.fetchval("SHOW search_path") == '"$user", public'
        assert await pool.fetchval("SELECT count(*) FROM pg_locks WHERE objid = 4711") == 0


async def test_step_that_takes_too_long_leaves_no_rows(
    store: SagaStore, business: Business
) -> None:
    async def hangs(_: StepContext) -> None:
        await asyncio.Event().wait()

    shop = Shop(store, Book(business, hangs), timeout=timedelta(milliseconds=50))
    saga_id = await shop.start()
    snapshot = await shop.orchestrator.get_snapshot(saga_id)
    assert (snapshot.status, snapshot.error_code) == (SagaStatus.COMPENSATED, "StepTimeoutError")
    assert await business.rows() == []


async def test_limit_of_a_transaction_is_below_the_lease(
    store: SagaStore, business: Business
) -> None:
    async def hangs(_: StepContext) -> None:
        await asyncio.Event().wait()

    orchestrator = SagaOrchestrator(store=store, execution_lease=timedelta(seconds=1))
    orchestrator.register(NAME, bookings(Book(business, hangs)))
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    snapshot = await orchestrator.get_snapshot(saga_id)
    assert snapshot.error_code == "StepTimeoutError"
    assert "0.4 s" in (snapshot.last_error or "")
    assert await business.rows() == []


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_lost_commit_is_settled_by_its_id(
    store: SagaStore, business: Business, fault: Fault
) -> None:
    faulty = FaultyStore(store)
    faulty.fail("commit_lent", 1, fault)
    book = Book(business)
    shop = Shop(faulty, book, Book(business))
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "do step_1"]
    assert faulty.calls_of("recorded") == 1
    assert [context.attempt for context in book.contexts] == [1] * (
        2 if fault is Fault.BEFORE else 1
    )


async def test_third_commit_that_is_lost_in_a_row_is_a_failed_attempt(
    store: SagaStore, business: Business
) -> None:
    faulty = FaultyStore(store)
    for ordinal in (1, 2, 3):
        faulty.fail("commit_lent", ordinal, Fault.BEFORE)
    book = Book(business)
    policy = FixedRetry(max_attempts=2, delay=NOW)
    shop = Shop(faulty, book, Book(business), retry_policy=policy)
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "do step_1"]
    assert [context.attempt for context in book.contexts] == [1, 1, 1, 2]
    assert await shop.kinds(saga_id) == ["retrying", "completed", "completed"]
    first = (await shop.admin.get_saga(saga_id)).step_history[0]
    assert first.error_code == "StoreUnavailableError"


async def test_step_whose_transactions_are_all_lost_is_not_done_for_ever(
    store: SagaStore, business: Business
) -> None:
    faulty = FaultyStore(store)
    faulty.fail_always("commit_lent", Fault.BEFORE)
    book = Book(business)
    shop = Shop(faulty, book, retry_policy=FixedRetry(max_attempts=3, delay=NOW))
    async with asyncio.timeout(20):
        saga_id = await shop.start()
    snapshot = await shop.orchestrator.get_snapshot(saga_id)
    assert (snapshot.status, snapshot.error_code) == (
        SagaStatus.COMPENSATED,
        "StoreUnavailableError",
    )
    assert len(book.contexts) == 9
    assert await business.rows() == []


async def test_compensation_whose_transactions_are_all_lost_is_stuck(
    store: SagaStore, business: Business
) -> None:
    faulty = FaultyStore(store)
    book = Book(business)
    shop = Shop(
        faulty,
        book,
        fails=True,
        compensation_retry_policy=FixedRetry(max_attempts=2, delay=NOW),
    )
    for ordinal in range(2, 8):
        faulty.fail("commit_lent", ordinal, Fault.BEFORE)
    async with asyncio.timeout(20):
        saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.STUCK
    assert len(book.contexts) == 7
    assert await business.rows() == ["do step_0"]
    await shop.admin.retry_step(saga_id)
    assert await shop.status(saga_id) is SagaStatus.COMPENSATED
    assert await business.rows() == ["do step_0", "undo step_0"]


@pytest.mark.parametrize("harness", ["postgresql", "sql-postgresql"], indirect=True)
async def test_step_whose_connection_dies_in_each_attempt_has_failed(
    store: SagaStore, business: Business
) -> None:
    """As it does where `idle_in_transaction_session_timeout` is shorter than the step."""

    async def dies(ctx: StepContext) -> None:
        statement = "SELECT pg_terminate_backend(pg_backend_pid())"
        is_session = hasattr(ctx.transaction, "sync_session")
        with pytest.raises(Exception, match=r".+"):
            await ctx.transaction.execute(text(statement) if is_session else statement)

    book = Book(business, *(dies for _ in range(7)))
    shop = Shop(store, book, retry_policy=FixedRetry(max_attempts=2, delay=NOW))
    async with asyncio.timeout(20):
        saga_id = await shop.start()
    assert (await shop.orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
    assert len(book.contexts) <= 6
    assert await business.rows() == []


async def test_lost_question_for_a_lost_commit_is_asked_again(
    store: SagaStore, business: Business
) -> None:
    faulty = FaultyStore(store)
    faulty.fail("commit_lent", 1, Fault.AFTER)
    faulty.fail("recorded", 1, Fault.BEFORE)
    shop = Shop(faulty, Book(business))
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0"]


async def test_saga_that_was_taken_over_meanwhile_keeps_no_rows_of_its_old_driver(
    store: SagaStore, business: Business, harness: StoreHarness
) -> None:
    faulty = FaultyStore(store)
    old = Shop(faulty, Book(business))
    saga_id = await old.start(wait=False)

    async def take_over() -> None:
        """Between the step and its commit, which on SQLite has the file's write lock."""
        await harness.age(saga_id, timedelta(days=1))
        async with harness.open() as other:
            new = Shop(other, Book(business))
            assert await new.orchestrator.run_due() == 1
            assert await new.status(saga_id) is SagaStatus.COMPLETED

    faulty.between("transaction", 1, take_over)
    await old.orchestrator.run_due()
    assert await old.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0"]


async def test_cancelled_driver_leaves_no_rows_and_gives_the_saga_back(
    store: SagaStore, business: Business
) -> None:
    entered = asyncio.Event()

    async def hangs(_: StepContext) -> None:
        entered.set()
        await asyncio.Event().wait()

    shop = Shop(store, Book(business, hangs))
    saga_id = await shop.start(wait=False)
    driver = asyncio.ensure_future(shop.orchestrator.run_due())
    await entered.wait()
    driver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driver
    assert await business.rows() == []
    assert await shop.orchestrator.run_due() == 1
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0"]


# --- bad input ----------------------------------------------------------------------------------


async def test_transaction_of_a_step_that_has_ended_is_refused(
    store: SagaStore, business: Business
) -> None:
    book = Book(business)
    shop = Shop(store, book)
    saga_id = await shop.start()
    with pytest.raises(SagaStateError, match="used after its step had ended"):
        await business.write(book.contexts[0].transaction, "late")
    assert await business.rows() == ["do step_0"]
    assert await shop.status(saga_id) is SagaStatus.COMPLETED


async def test_method_of_the_transaction_that_was_kept_is_refused_as_well(
    store: SagaStore, business: Business
) -> None:
    kept: list[Any] = []

    async def keeps(ctx: StepContext) -> None:
        kept.append(ctx.transaction.execute)

    shop = Shop(store, Book(business, keeps))
    await shop.start()
    with pytest.raises(SagaStateError, match="used after its step had ended"):
        await kept[0]("SELECT 1")
    assert await business.rows() == ["do step_0"]


async def test_step_that_leaves_a_statement_on_its_way_is_not_done_for_ever(
    postgresql: PostgresqlServer,
) -> None:
    left: list[asyncio.Task[Any]] = []

    class Leaves(BaseStep[Booking, Booking]):
        async def execute(self, inp: Booking, ctx: StepContext) -> Booking:
            left.append(asyncio.create_task(ctx.transaction.execute("SELECT pg_sleep(10)")))
            await asyncio.sleep(0)
            return inp

    namespace = f"n{uuid4().hex[:8]}"
    async with open_store(postgresql.url, create_schema=True, namespace=namespace) as store:
        shop = Shop(store, Leaves(), retry_policy=FixedRetry(max_attempts=2, delay=NOW))
        async with asyncio.timeout(20):
            saga_id = await shop.start()
        snapshot = await shop.orchestrator.get_snapshot(saga_id)
    assert snapshot.error_code == "TransactionFailedError"
    assert "await all that uses it" in (snapshot.last_error or "")
    assert len(left) == 2
    assert all(
        isinstance(each, Exception) for each in await asyncio.gather(*left, return_exceptions=True)
    )


async def test_transaction_in_another_thread_is_refused(
    store: SagaStore, business: Business
) -> None:
    async def elsewhere(ctx: StepContext) -> None:
        await asyncio.to_thread(lambda: ctx.transaction.execute)

    shop = Shop(store, Book(business, elsewhere))
    saga_id = await shop.start()
    snapshot = await shop.orchestrator.get_snapshot(saga_id)
    assert snapshot.error_code == "SagaStateError"
    assert "in another thread than the step's" in (snapshot.last_error or "")
    assert await business.rows() == []


@pytest.mark.parametrize("verb", ["commit", "rollback", "close"])
async def test_step_cannot_end_the_transaction(
    store: SagaStore, business: Business, verb: str
) -> None:
    async def ends(ctx: StepContext) -> None:
        await getattr(ctx.transaction, verb)()

    shop = Shop(store, Book(business, ends))
    saga_id = await shop.start()
    snapshot = await shop.orchestrator.get_snapshot(saga_id)
    assert f"{verb}() is not for the step" in (snapshot.last_error or "")
    assert await business.rows() == []


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
async def test_step_that_ends_the_transaction_by_a_statement_has_failed(
    store: SagaStore, business: Business, statement: str
) -> None:
    async def ends(ctx: StepContext) -> None:
        is_session = hasattr(ctx.transaction, "sync_session")
        await ctx.transaction.execute(text(statement) if is_session else statement)

    shop = Shop(store, Book(business, ends))
    snapshot = await shop.orchestrator.get_snapshot(await shop.start())
    assert (snapshot.status, snapshot.error_code) == (
        SagaStatus.COMPENSATED,
        "TransactionFailedError",
    )
    assert "ended the store's transaction by itself" in (snapshot.last_error or "")


async def test_step_without_a_transaction_is_told_so(store: SagaStore, business: Business) -> None:
    orchestrator = SagaOrchestrator(store=store)
    builder = SagaBuilder()
    builder.add_step(step=Book(business), input_map=lambda _: Booking(amount=1))
    orchestrator.register(NAME, builder.build())
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    snapshot = await orchestrator.get_snapshot(saga_id)
    assert "add_step(..., transaction=True)" in (snapshot.last_error or "")


def test_plain_function_cannot_work_in_a_transaction() -> None:
    class Threaded(BaseStep[Booking, Booking]):
        def execute(self, inp: Booking) -> Booking:
            return inp

    with pytest.raises(SagaDefinitionError, match="execute is a plain def"):
        bookings(Threaded())
    with pytest.raises(SagaDefinitionError, match="transaction must be True or False"):
        SagaBuilder().add_step(
            step=Threaded(),
            input_map=lambda _: Booking(amount=1),
            transaction="yes",  # type: ignore[arg-type]
        )


async def test_saga_is_refused_by_a_store_without_transactions(
    business: Business, tmp_path: Any
) -> None:
    async with open_store(f"sqlite:///{tmp_path}/other.db") as sqlite:
        for store in (MemoryStore(), FaultyStore(MemoryStore()), sqlite):
            orchestrator = SagaOrchestrator(store=store)
            with pytest.raises(SagaDefinitionError, match=r"transaction=True.*does not"):
                orchestrator.register(NAME, bookings(Book(business)))


async def test_step_is_told_that_the_store_closes_its_transaction(
    store: SagaStore, business: Business
) -> None:
    async def enters(ctx: StepContext) -> None:
        async with ctx.transaction:
            pass

    shop = Shop(store, Book(business, enters))
    snapshot = await shop.orchestrator.get_snapshot(await shop.start())
    assert snapshot.error_code == "SagaStateError"
    assert "closed by the store" in (snapshot.last_error or "")
