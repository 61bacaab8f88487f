"""A booking whose last step fails: what was done before is undone, newest first.

`check_saga` tries what else may go wrong, by what it does to `BOOKED`; tests/rehearsal runs it.

python examples/compensation_flow.py [STORE_URL]
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    FixedRetry,
    NonRetryableError,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    StepContext,
    open_store,
)

BOOKED: set[str] = set()
"""The outside world: what the airline and the hotel have in their books."""


class Trip(BaseModel):
    city: str


class Booking(BaseModel):
    code: str


class BookFlight(BaseStep[Trip, Booking]):
    async def execute(self, inp: Trip) -> Booking:
        BOOKED.add(f"flight-{inp.city}")
        return Booking(code=f"flight-{inp.city}")

    async def compensate(self, inp: Trip, out: Booking, ctx: StepContext) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("the airline does not answer")
        BOOKED.discard(out.code)
        print(f"  (cancelled {out.code} at attempt {ctx.attempt})")


class SendBrochure(BaseStep[Trip, Booking]):
    """Nothing to undo: a step without `compensate` is passed over."""

    async def execute(self, inp: Trip) -> Booking:
        return Booking(code=f"brochure-{inp.city}")


class BookHotel(BaseStep[Trip, Booking]):
    async def execute(self, inp: Trip) -> Booking:
        BOOKED.add(f"hotel-{inp.city}")
        return Booking(code=f"hotel-{inp.city}")

    async def compensate(self, inp: Trip, out: Booking) -> None:
        BOOKED.discard(out.code)
        print(f"  (cancelled {out.code})")


class BookCar(BaseStep[Trip, Booking]):
    async def execute(self, inp: Trip) -> Booking:
        raise NonRetryableError(f"no cars in {inp.city}")


def build_trip_saga() -> SagaDefinition:
    builder = SagaBuilder()
    for step_id, step in (
        ("flight", BookFlight()),
        ("brochure", SendBrochure()),
        ("hotel", BookHotel()),
        ("car", BookCar()),
    ):
        builder.add_step(
            step_id=step_id,
            step=step,
            input_map=lambda ctx: Trip(city=ctx.initial_data["city"]),
            retry_policy=FixedRetry(max_attempts=3, delay=timedelta(seconds=1)),
            compensation_retry_policy=FixedRetry(max_attempts=3, delay=timedelta(0)),
        )
    return builder.build()


async def main(url: str) -> None:
    async with open_store(url, create_schema=True) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("book_trip", build_trip_saga())
        saga_id = await orchestrator.start(saga_name="book_trip", initial_data={"city": "Porto"})
        snapshot = await orchestrator.get_snapshot(saga_id)
        show(snapshot)
        expect(snapshot, SagaStatus.COMPENSATED)
        print("history:")
        for entry in (await SagaAdmin(engine=orchestrator.engine).get_saga(saga_id)).step_history:
            print(f"  {entry.seq}. {entry.step_id}: {entry.kind} (attempt {entry.attempt})")


if __name__ == "__main__":
    run(main, __doc__)
