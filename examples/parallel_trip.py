"""A trip whose parts are booked side by side, and given back side by side when the last step fails.

`check_saga` tries what else may go wrong, by what it does to `BOOKED`; tests/rehearsal runs it.

python examples/parallel_trip.py [STORE_URL]
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    NonRetryableError,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    open_store,
)

BOOKED: set[str] = set()
"""The outside world: what the airline, the hotel and the railway have in their books."""


class Trip(BaseModel):
    city: str


class Booking(BaseModel):
    code: str


class Book(BaseStep[Trip, Booking]):
    def __init__(self, what: str) -> None:
        self.what = what

    async def execute(self, inp: Trip) -> Booking:
        await asyncio.sleep(0)  # meanwhile the others begin
        BOOKED.add(f"{self.what}-{inp.city}")
        return Booking(code=f"{self.what}-{inp.city}")

    async def compensate(self, inp: Trip, out: Booking) -> None:
        BOOKED.discard(out.code)
        print(f"  (cancelled {out.code})")


class SendTickets(BaseStep[Trip, Booking]):
    def __init__(self, *, lost: bool) -> None:
        self.lost = lost

    async def execute(self, inp: Trip) -> Booking:
        if self.lost:
            raise NonRetryableError("the post has lost them")
        return Booking(code=f"tickets-{inp.city}")


def build_trip(*, lost: bool = False) -> SagaDefinition:
    """Flight and hotel are independent; the train to the hotel needs both, the tickets all."""
    builder = SagaBuilder(parallel=True)
    flight, hotel = (
        builder.add_step(
            step=Book(what), input_map=lambda ctx: Trip(city=ctx.initial_data), step_id=what
        )
        for what in ("flight", "hotel")
    )
    train = builder.add_step(
        step=Book("train"),
        input_map=lambda flight, hotel: Trip(city=f"{flight.code}-{hotel.code}"),
        depends_on=[flight, hotel],
        step_id="train",
    )
    builder.add_step(
        step=SendTickets(lost=lost),
        input_map=lambda flight, hotel, train: Trip(city=train.code),
        depends_on=[flight, hotel, train],
        step_id="tickets",
    )
    return builder.build()


async def main(url: str) -> None:
    async with open_store(url, create_schema=True) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("trip", build_trip(lost=True))
        saga_id = await orchestrator.start(saga_name="trip", initial_data="Porto")
        snapshot = await SagaAdmin(engine=orchestrator.engine).get_saga(saga_id)
        show(snapshot)
        expect(snapshot, SagaStatus.COMPENSATED)
        told = [item for item in snapshot.step_history if item.kind != "branch"]
        for number, item in enumerate(told, start=1):
            print(f"{number}. {item.step_id}: {item.kind}")


if __name__ == "__main__":
    run(main, __doc__)
