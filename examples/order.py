"""An order: reserve the goods, charge the card, ship. The saga that the README shows.

python examples/order.py
python examples/order.py postgresql://user@localhost/db
"""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    ExponentialRetry,
    InputContext,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    StepContext,
    open_store,
)


class Reserve(BaseModel):
    order_id: str


class Reservation(BaseModel):
    reservation_id: str


class Charge(BaseModel):
    reservation_id: str


class Payment(BaseModel):
    payment_id: str


class Ship(BaseModel):
    order_id: str
    payment_id: str


class Shipment(BaseModel):
    tracking: str


class ReserveGoods(BaseStep[Reserve, Reservation]):
    async def execute(self, inp: Reserve) -> Reservation:
        return Reservation(reservation_id=f"res-{inp.order_id}")

    async def compensate(self, inp: Reserve, out: Reservation) -> None:
        print(f"  (gave back {out.reservation_id})")


class ChargeCard(BaseStep[Charge, Payment]):
    async def execute(self, inp: Charge, ctx: StepContext) -> Payment:
        # A real provider gets ctx.idempotency_key, so that a repeated attempt charges once.
        return Payment(payment_id=f"pay-{inp.reservation_id}")

    async def compensate(self, inp: Charge, out: Payment) -> None:
        print(f"  (refunded {out.payment_id})")


class ShipGoods(BaseStep[Ship, Shipment]):
    async def execute(self, inp: Ship) -> Shipment:
        return Shipment(tracking=f"track-{inp.order_id}")


def build_order_saga() -> SagaDefinition:
    builder = SagaBuilder()
    reserve = builder.add_step(
        step_id="reserve",
        step=ReserveGoods(),
        input_map=lambda ctx: Reserve(order_id=ctx.initial_data["order_id"]),
    )
    charge = builder.add_step(
        step_id="charge",
        step=ChargeCard(),
        depends_on=reserve,
        input_map=lambda out: Charge(reservation_id=out.reservation_id),
        timeout=timedelta(seconds=10),
        retry_policy=ExponentialRetry(max_attempts=3, base_delay=timedelta(seconds=5)),
    )

    def to_ship(ctx: InputContext) -> Ship:
        payment = ctx.output_of(charge)
        return Ship(order_id=ctx.initial_data["order_id"], payment_id=payment.payment_id)

    builder.add_step(step_id="ship", step=ShipGoods(), input_map=to_ship)
    return builder.build()


async def main(url: str) -> None:
    async with open_store(url, create_schema=True) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("create_order_v1", build_order_saga())
        order_id = f"order-{uuid4().hex[:8]}"
        saga_id = await orchestrator.start(
            saga_name="create_order_v1",
            initial_data={"order_id": order_id},
            aggregation_id=order_id,
        )
        snapshot = await orchestrator.get_snapshot(saga_id)
        show(snapshot)
        expect(snapshot, SagaStatus.COMPLETED)


if __name__ == "__main__":
    run(main, __doc__)
