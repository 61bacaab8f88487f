"""What is lent by `SqlSagaStore` is a session, and a step may reach what lies behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import async_object_session
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from saga_core import FixedRetry, SagaStateError, SagaStatus, SagaStore, StepContext
from saga_testing.conformance import Business
from tests.transactions.cast import Book
from tests.transactions.test_steps import NOW, Shop

pytestmark = pytest.mark.parametrize("harness", ["sql-postgresql", "sql-sqlite"], indirect=True)

Verb = Callable[[Any], Awaitable[Any]]


async def by_the_sync_session(session: Any) -> None:
    await session.run_sync(lambda sync: sync.commit())


async def by_its_transaction(session: Any) -> None:
    await session.get_transaction().commit()


async def by_its_transaction_beside_a_savepoint(session: Any) -> None:
    await session.begin_nested()
    await session.get_transaction().commit()


async def by_its_connection(session: Any) -> None:
    await (await session.connection()).commit()


COMMITS = [
    by_the_sync_session,
    by_its_transaction,
    by_its_transaction_beside_a_savepoint,
    by_its_connection,
]


@pytest.mark.parametrize("commit", COMMITS)
async def test_step_cannot_commit_by_what_lies_behind_its_session(
    store: SagaStore, business: Business, commit: Verb
) -> None:
    async def commits(ctx: StepContext) -> None:
        await commit(ctx.transaction)

    policy = FixedRetry(max_attempts=2, delay=NOW)
    shop = Shop(store, Book(business, commits), retry_policy=policy)
    saga_id = await shop.start()
    assert await shop.status(saga_id) is SagaStatus.COMPLETED
    assert await shop.kinds(saga_id) == ["retrying", "completed"]
    first = (await shop.admin.get_saga(saga_id)).step_history[0]
    assert "commit is not for the step" in (first.error or "")
    assert await business.rows() == ["do step_0"]


@pytest.mark.parametrize("commit", COMMITS)
async def test_step_that_swallows_that_its_commit_was_refused_has_failed(
    store: SagaStore, business: Business, commit: Verb
) -> None:
    async def commits(ctx: StepContext) -> None:
        with suppress(SagaStateError):
            await commit(ctx.transaction)

    shop = Shop(store, Book(business, commits))
    snapshot = await shop.orchestrator.get_snapshot(await shop.start())
    assert (snapshot.status, snapshot.error_code) == (
        SagaStatus.COMPENSATED,
        "TransactionFailedError",
    )
    assert await business.rows() == []


async def rolls_back_by_the_sync_session(session: Any) -> None:
    await session.run_sync(lambda sync: sync.rollback())


async def rolls_back_by_its_transaction(session: Any) -> None:
    await session.get_transaction().rollback()


async def closes_the_sync_session(session: Any) -> None:
    await session.run_sync(lambda sync: sync.close())


@pytest.mark.parametrize(
    "end", [rolls_back_by_the_sync_session, rolls_back_by_its_transaction, closes_the_sync_session]
)
async def test_step_that_ends_the_transaction_behind_its_session_has_failed(
    store: SagaStore, business: Business, end: Verb
) -> None:
    async def ends(ctx: StepContext) -> None:
        await end(ctx.transaction)
        await business.write(ctx.transaction, "after")

    shop = Shop(store, Book(business, ends))
    snapshot = await shop.orchestrator.get_snapshot(await shop.start())
    assert (snapshot.status, snapshot.error_code) == (
        SagaStatus.COMPENSATED,
        "TransactionFailedError",
    )
    assert "ended the store's transaction by itself" in (snapshot.last_error or "")
    assert await business.rows() == []


async def test_savepoints_are_for_the_step(store: SagaStore, business: Business) -> None:
    async def tries(ctx: StepContext) -> None:
        async with ctx.transaction.begin_nested():
            await business.write(ctx.transaction, "kept")
        savepoint = await ctx.transaction.begin_nested()
        await business.write(ctx.transaction, "dropped")
        await savepoint.rollback()
        await ctx.transaction.begin_nested()
        await business.write(ctx.transaction, "left open")

    shop = Shop(store, Book(business, tries))
    assert await shop.status(await shop.start()) is SagaStatus.COMPLETED
    assert await business.rows() == ["do step_0", "kept", "left open"]


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "business_book"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    said: Mapped[str]


async def test_session_that_was_kept_by_an_object_is_of_no_use_after_the_step(
    store: SagaStore, business: Business
) -> None:
    kept: list[tuple[Line, Any]] = []

    async def keeps(ctx: StepContext) -> None:
        line = Line(owner="nobody", said="in time")
        ctx.transaction.add(line)
        await ctx.transaction.flush()
        session = async_object_session(line)
        assert session is not None
        session.sync_session.expire_on_commit = False
        kept.append((line, session))

    shop = Shop(store, Book(business, keeps))
    assert await shop.status(await shop.start()) is SagaStatus.COMPLETED
    line, session = kept[0]
    assert line.said == "in time"
    with pytest.raises(SagaStateError, match="its step has ended"):
        await business.write(session, "late")
    with pytest.raises(SagaStateError, match="its step has ended"):
        await session.connection()
    session.add(Line(owner="nobody", said="late"))
    with pytest.raises(SagaStateError, match="its step has ended"):
        await session.commit()
    assert await business.rows() == ["do step_0"]


async def test_what_is_lent_is_as_good_as_a_session(store: SagaStore, business: Business) -> None:
    seen: list[Any] = []

    async def works(ctx: StepContext) -> None:
        line = Line(owner="nobody", said="line")
        ctx.transaction.autoflush = False
        seen.append(ctx.transaction.sync_session.autoflush)
        seen.append(line in ctx.transaction)
        ctx.transaction.add(line)
        seen.append(line in ctx.transaction)
        await ctx.transaction.flush()
        seen.append(list(ctx.transaction) == [line])

    book = Book(business, works)
    shop = Shop(store, book)
    assert await shop.status(await shop.start()) is SagaStatus.COMPLETED
    assert seen == [False, False, True, True]
    late = book.contexts[0].transaction
    with pytest.raises(SagaStateError, match="used after its step had ended"):
        late.autoflush = True
    with pytest.raises(SagaStateError, match="used after its step had ended"):
        _ = object() in late
