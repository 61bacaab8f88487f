"""Rows of your own that agree with the sagas: an order, its saga and the stock, in one database.

python examples/own_rows.py [STORE_URL]

The order and its saga come into being in one transaction; the stock is taken, and given back, in
the transaction that records it. Whoever dies when, nothing is taken twice, or taken and forgotten.
Takes a URL of SQLite or PostgreSQL: a store elsewhere cannot be part of your transactions.
"""

from __future__ import annotations

from uuid import uuid4

from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from storeurl import expect, run, show

from saga_backends.sql import SagaStateMixin, SqlSagaStore
from saga_core import (
    BaseStep,
    NonRetryableError,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    StepContext,
    StoreUrlError,
)

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Base(DeclarativeBase):
    pass


class ExampleSaga(Base, SagaStateMixin):
    __tablename__ = "example_saga"


class Article(Base):
    __tablename__ = "example_article"

    id: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Purchase(Base):
    __tablename__ = "example_purchase"

    id: Mapped[str] = mapped_column(primary_key=True)
    article_id: Mapped[str]
    pieces: Mapped[int]


class Order(BaseModel):
    purchase_id: str
    article_id: str
    pieces: int


class Reserve(BaseStep[Order, Order]):
    """Takes the pieces out of the stock; undone, it puts them back."""

    async def execute(self, inp: Order, ctx: StepContext) -> Order:
        if not await move(ctx.transaction, inp.article_id, -inp.pieces):
            raise NonRetryableError("there are not as many left")
        return inp

    async def compensate(self, inp: Order, out: Order, ctx: StepContext) -> None:
        await move(ctx.transaction, out.article_id, out.pieces)


class Ship(BaseStep[Order, Order]):
    async def execute(self, inp: Order) -> Order:
        if inp.pieces > 3:
            raise NonRetryableError("too heavy for one parcel")
        return inp


async def move(session: AsyncSession, article_id: str, pieces: int) -> bool:
    """Change how many are left, unless that were fewer than none."""
    enough = (Article.id == article_id) & (Article.left + pieces >= 0)
    changed = update(Article).where(enough).values(left=Article.left + pieces)
    return await session.scalar(changed.returning(Article.left)) is not None


def build_order_saga() -> SagaDefinition:
    builder = SagaBuilder()
    reserved = builder.add_step(
        step_id="reserve",
        step=Reserve(),
        input_map=lambda ctx: Order(**ctx.initial_data),
        transaction=True,
    )
    builder.add_step(
        step_id="ship", step=Ship(), input_map=lambda order: order, depends_on=reserved
    )
    return builder.build()


async def main(url: str) -> None:
    scheme, _, rest = url.partition("://")
    if scheme not in DRIVERS:
        raise StoreUrlError(f"{scheme}:// keeps no rows of yours: take sqlite:// or postgresql://")
    engine = create_async_engine(f"{DRIVERS[scheme]}://{rest}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine)
    orchestrator = SagaOrchestrator(
        store=SqlSagaStore(model_class=ExampleSaga, session_maker=sessions)
    )
    orchestrator.register("own_rows", build_order_saga())
    try:
        article_id = f"article-{uuid4().hex[:8]}"
        async with sessions.begin() as session:
            session.add(Article(id=article_id, left=10))
        for pieces, ends_as in ((2, SagaStatus.COMPLETED), (5, SagaStatus.COMPENSATED)):
            purchase = Purchase(id=uuid4().hex, article_id=article_id, pieces=pieces)
            order = Order(purchase_id=purchase.id, article_id=article_id, pieces=pieces)
            async with sessions.begin() as session:
                session.add(purchase)
                saga_id = await orchestrator.start(
                    saga_name="own_rows",
                    initial_data=order,
                    aggregation_id=purchase.id,
                    session=session,
                )
            await orchestrator.run_due()
            snapshot = await orchestrator.get_snapshot(saga_id)
            show(snapshot)
            expect(snapshot, ends_as)
        async with sessions() as session:
            left = await session.scalar(select(Article.left).where(Article.id == article_id))
        print(f"left of 10, after 2 were shipped and 5 put back: {left}")
    finally:
        await engine.dispose()


if __name__ == "__main__":
    run(main, __doc__)
