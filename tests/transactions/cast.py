"""Steps that write rows of the business in the store's own transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from saga_core import AwaitEvent, BaseStep, SagaBuilder, SagaDefinition, Sleep, StepContext
from saga_testing.conformance import Business

__all__ = ["NAME", "Act", "Approved", "Book", "Booking", "bookings"]

NAME = "bookings"

Act = Callable[[StepContext], Awaitable[Any]]


class Booking(BaseModel):
    amount: int


class Approved(BaseModel):
    by: str


class Book(BaseStep[Booking, Booking]):
    """Writes a row, and then does what the test wants."""

    def __init__(self, business: Business, *acts: Act, undo: Act | None = None) -> None:
        self._business = business
        self._acts = list(acts)
        self._undo = undo
        self.contexts: list[StepContext] = []

    async def execute(self, inp: Booking, ctx: StepContext) -> Booking | AwaitEvent | Sleep:
        self.contexts.append(ctx)
        await self._business.write(ctx.transaction, f"do {ctx.step_id}")
        if self._acts:
            answer = await self._acts.pop(0)(ctx)
            if isinstance(answer, (AwaitEvent, Sleep)):
                return answer
        return inp

    async def compensate(self, inp: Booking, out: Booking, ctx: StepContext) -> None:
        self.contexts.append(ctx)
        await self._business.write(ctx.transaction, f"undo {ctx.step_id}")
        if self._undo is not None:
            await self._undo(ctx)


class Refuse(BaseStep[Booking, Booking]):
    async def execute(self, inp: Booking) -> Booking:
        raise ValueError("the shop is closed")


def bookings(
    *steps: BaseStep[Booking, Booking], fails: bool = False, **more: Any
) -> SagaDefinition:
    """Return a saga of steps in the store's transaction; a last one fails, if it is to."""
    builder = SagaBuilder()
    for step in steps:
        builder.add_step(step=step, input_map=_amount, transaction=True, **more)
    if fails:
        builder.add_step(step=Refuse(), input_map=_amount)
    return builder.build()


def _amount(_: Any) -> Booking:
    return Booking(amount=7)
