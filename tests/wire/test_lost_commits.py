"""An answer that is lost while a step's own transaction is committed: row and record agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from saga_backends.postgresql import PostgresqlStore
from saga_core import FixedRetry, SagaOrchestrator, SagaStatus, StepContext
from saga_core.store import SagaStore
from saga_testing.conformance import Business
from saga_testing.proxy import PostgresqlProxy
from saga_testing.servers import PostgresqlServer
from tests.conformance.test_postgresql import PostgresqlHarness
from tests.conformance.test_sql_postgresql import SqlPostgresqlHarness
from tests.transactions.cast import NAME, Book, bookings

Harness = PostgresqlHarness | SqlPostgresqlHarness

COMMIT = b"COMMIT;"
LAST_STATEMENT = b"WITH moved"


def sends(text: bytes) -> Any:
    return lambda request: text in request


class Lose:
    """Lets the next answer to a request get lost, once, from within a step."""

    def __init__(self, proxy: PostgresqlProxy, request: bytes) -> None:
        self._proxy = proxy
        self._request = request

    async def __call__(self, _: StepContext) -> None:
        self._proxy.drop_next_reply(sends(self._request))


@pytest.fixture(params=[PostgresqlHarness, SqlPostgresqlHarness], ids=["url", "sql"])
def direct(request: pytest.FixtureRequest, postgresql: PostgresqlServer) -> Harness:
    """Return what goes past the proxy."""
    kind: type[Harness] = request.param
    return kind(postgresql.url)


@pytest_asyncio.fixture
async def store(direct: Harness, proxy: PostgresqlProxy) -> AsyncIterator[SagaStore]:
    through = type(direct)(proxy.url)
    through._prefix = direct._prefix
    async with through.open() as store:
        yield store


@pytest_asyncio.fixture
async def business(direct: Harness) -> AsyncIterator[Business]:
    async with direct.business() as business:
        yield business


def shop(store: SagaStore, *steps: Book, **more: Any) -> SagaOrchestrator:
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register(NAME, bookings(*steps, **more))
    return orchestrator


async def told(store: SagaStore, saga_id: Any) -> list[tuple[str, str | None]]:
    return [(str(each.kind), each.step_id) for each in await store.history(saga_id)]


async def test_step_whose_commit_is_not_answered_is_not_done_again(
    proxy: PostgresqlProxy, store: SagaStore, business: Business
) -> None:
    book = Book(business, Lose(proxy, COMMIT))
    orchestrator = shop(store, book, Book(business))
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert len(book.contexts) == 1
    assert await business.rows() == ["do step_0", "do step_1"]
    assert await told(store, saga_id) == [("completed", "step_0"), ("completed", "step_1")]


async def test_connection_that_is_lost_after_the_commit_undoes_nothing(
    proxy: PostgresqlProxy, store: SagaStore, business: Business
) -> None:
    """What a step may have left on it is reset then."""
    book = Book(business, Lose(proxy, b"RESET ALL"))
    orchestrator = shop(store, book, Book(business))
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    if isinstance(store, PostgresqlStore):
        assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert len(book.contexts) == 1
    assert await business.rows() == ["do step_0", "do step_1"]


async def test_step_whose_last_statement_is_not_answered_is_done_once_more(
    proxy: PostgresqlProxy, store: SagaStore, business: Business
) -> None:
    """Its COMMIT was never sent, so the server has rolled back what the step had written."""
    book = Book(business, Lose(proxy, LAST_STATEMENT))
    orchestrator = shop(store, book, Book(business))
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert len(book.contexts) == 2
    assert await business.rows() == ["do step_0", "do step_1"]
    assert await told(store, saga_id) == [("completed", "step_0"), ("completed", "step_1")]


async def test_step_that_loses_its_connection_fails_and_is_tried_again(
    proxy: PostgresqlProxy, store: SagaStore, business: Business
) -> None:
    async def lose_it(ctx: StepContext) -> None:
        await proxy.cut()
        await business.write(ctx.transaction, "into the void")

    retry = FixedRetry(max_attempts=2, delay=timedelta(0))
    book = Book(business, lose_it)
    orchestrator = shop(store, book, retry_policy=retry)
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert len(book.contexts) == 2
    assert await business.rows() == ["do step_0"]


async def test_compensation_whose_commit_is_not_answered_is_not_done_again(
    proxy: PostgresqlProxy, store: SagaStore, business: Business
) -> None:
    book = Book(business, undo=Lose(proxy, COMMIT))
    orchestrator = shop(store, book, fails=True)
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
    assert await business.rows() == ["do step_0", "undo step_0"]
    assert [kind for kind, _ in await told(store, saga_id)].count("compensated") == 1


async def test_saga_that_is_taken_over_before_the_lost_commit_is_looked_up_is_done_once(
    proxy: PostgresqlProxy,
    direct: Harness,
    store: SagaStore,
    business: Business,
) -> None:
    """The commit is on record, and so is another driver: the first one leaves the saga to it."""
    first, second = Book(business, Lose(proxy, COMMIT)), Book(business)
    orchestrator = shop(store, first, second)
    saga_id = await orchestrator.start(saga_name=NAME, initial_data={}, wait=False)
    recorded = store.recorded  # type: ignore[attr-defined]

    async def take_over(*asked: Any) -> Any:
        await direct.age(saga_id, timedelta(days=1))
        async with direct.open() as other:
            theirs = shop(other, Book(business), Book(business))
            assert await theirs.run_due() == 1
        return await recorded(*asked)

    store.recorded = take_over  # type: ignore[attr-defined]
    await orchestrator.run_due()
    assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert (len(first.contexts), len(second.contexts)) == (1, 0)
    assert await business.rows() == ["do step_0", "do step_1"]
    assert await told(store, saga_id) == [("completed", "step_0"), ("completed", "step_1")]
