"""The order saga that the demo runs: reserve the stock, charge the card, ship.

What a step does to the outside world it writes into a ledger, a file beside the store, so that
the demo can show which process really did what.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from saga_core.builder import SagaBuilder
from saga_core.definition import SagaDefinition
from saga_core.errors import NonRetryableError
from saga_core.retry import FixedRetry
from saga_core.step import BaseStep, StepContext

__all__ = ["SAGA_NAME", "Ledger", "LedgerLine", "build_order_saga"]

SAGA_NAME = "order"
SLOW_BANK = "bank that is busy"
NOWHERE = "nowhere"


class Order(BaseModel):
    order_id: str
    item: str
    bank: str
    address: str


class Reservation(BaseModel):
    reservation_id: str
    order: Order


class Payment(BaseModel):
    payment_id: str
    order: Order


class Shipment(BaseModel):
    tracking: str


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One thing that a step began to do."""

    at: float
    """Seconds since the epoch, by the clock of this machine."""
    pid: int
    deed: str
    order_id: str
    key: str
    """The idempotency key that the outside world was shown."""


class Ledger:
    """An append-only file that all processes of the demo write to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, deed: str, order_id: str, key: str) -> None:
        line = "\t".join([repr(time.time()), str(os.getpid()), deed, order_id, key])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self, order_id: str) -> list[LedgerLine]:
        """Return what was begun for an order, in order."""
        if not self.path.exists():
            return []
        rows = [line.split("\t") for line in self.path.read_text(encoding="utf-8").splitlines()]
        lines = [LedgerLine(float(r[0]), int(r[1]), r[2], r[3], r[4]) for r in rows]
        return [line for line in lines if line.order_id == order_id]


class ReserveStock(BaseStep[Order, Reservation]):
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def execute(self, inp: Order, ctx: StepContext) -> Reservation:
        self.ledger.write("reserve_stock", inp.order_id, ctx.idempotency_key)
        return Reservation(reservation_id=f"res-{inp.order_id}", order=inp)

    async def compensate(self, inp: Order, out: Reservation, ctx: StepContext) -> None:
        self.ledger.write("release_stock", inp.order_id, ctx.idempotency_key)


class ChargeCard(BaseStep[Reservation, Payment]):
    def __init__(self, ledger: Ledger, interrupt: Callable[[], Awaitable[None]] | None) -> None:
        self.ledger = ledger
        self.interrupt = interrupt

    async def execute(self, inp: Reservation, ctx: StepContext) -> Payment:
        self.ledger.write("charge_card", inp.order.order_id, ctx.idempotency_key)
        if self.interrupt is not None:
            await self.interrupt()
        if inp.order.bank == SLOW_BANK and ctx.attempt == 1:
            raise ConnectionError("the bank did not answer")
        return Payment(payment_id=f"pay-{inp.order.order_id}", order=inp.order)

    async def compensate(self, inp: Reservation, out: Payment, ctx: StepContext) -> None:
        self.ledger.write("refund_card", inp.order.order_id, ctx.idempotency_key)


class ShipOrder(BaseStep[Payment, Shipment]):
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def execute(self, inp: Payment, ctx: StepContext) -> Shipment:
        self.ledger.write("ship_order", inp.order.order_id, ctx.idempotency_key)
        if inp.order.address == NOWHERE:
            raise NonRetryableError("no such address")
        return Shipment(tracking=f"track-{inp.order.order_id}")


def build_order_saga(
    ledger: Ledger, *, interrupt: Callable[[], Awaitable[None]] | None = None
) -> SagaDefinition:
    """Build the saga. `interrupt` is awaited in the middle of charging the card."""
    builder = SagaBuilder()
    reserved = builder.add_step(
        step_id="reserve_stock",
        step=ReserveStock(ledger),
        input_map=lambda ctx: Order.model_validate(ctx.initial_data),
    )
    charged = builder.add_step(
        step_id="charge_card",
        step=ChargeCard(ledger, interrupt),
        depends_on=reserved,
        input_map=lambda reservation: reservation,
        retry_policy=FixedRetry(max_attempts=3, delay=timedelta(milliseconds=300)),
    )
    builder.add_step(
        step_id="ship_order",
        step=ShipOrder(ledger),
        depends_on=charged,
        input_map=lambda payment: payment,
    )
    return builder.build()
