"""A shop's own models and saga."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy import ForeignKey, Index, MetaData, String, UniqueConstraint, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from saga_backends.sql import SagaStateMixin
from saga_core.builder import SagaBuilder
from saga_core.definition import SagaDefinition
from saga_core.step import BaseStep

CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=CONVENTION)


class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"


class Shop(Base):
    __tablename__ = "shop"

    id: Mapped[int] = mapped_column(primary_key=True)


class OrderSagaState(Base, SagaStateMixin):
    """With every kind of column that an insert must, or must not, fill."""

    __tablename__ = "order_saga_state"
    __table_args__ = (
        Index("ix_order_region", "region"),
        UniqueConstraint("receipt"),
        {"comment": "orders on their way"},
    )

    region: Mapped[str] = mapped_column(String(8), default="eu")
    receipt: Mapped[UUID] = mapped_column(default=uuid4)
    tier: Mapped[Tier] = mapped_column(default=Tier.BASIC)
    rank: Mapped[int] = mapped_column(server_default="7")
    noticed_at: Mapped[datetime] = mapped_column(default=func.current_timestamp())
    order: Mapped[str | None]
    shop_id: Mapped[int | None] = mapped_column(ForeignKey("shop.id"))
    shop: Mapped[Shop | None] = relationship()
    invoices: Mapped[list[Invoice]] = relationship(back_populates="saga", lazy="selectin")


class Invoice(Base):
    """Points at the saga's row by its id."""

    __tablename__ = "invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    saga_id: Mapped[UUID] = mapped_column(ForeignKey("order_saga_state.id"))
    saga: Mapped[OrderSagaState] = relationship(back_populates="invoices")


class Number(BaseModel):
    value: int


class AddOne(BaseStep[Number, Number]):
    async def execute(self, inp: Number) -> Number:
        return Number(value=inp.value + 1)


def three_steps() -> SagaDefinition:
    """Add one, three times: steps `first`, `second` and `third`."""
    builder = SagaBuilder()
    first = builder.add_step(
        step=AddOne(), step_id="first", input_map=lambda c: Number(value=c.initial_data["value"])
    )
    second = builder.add_step(
        step=AddOne(), step_id="second", input_map=lambda out: out, depends_on=first
    )
    builder.add_step(step=AddOne(), step_id="third", input_map=lambda out: out, depends_on=second)
    return builder.build()
