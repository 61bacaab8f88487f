"""A shop with a fake outside world, for the rules of the users' test kit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    BaseStep,
    FixedRetry,
    SagaBuilder,
    SagaDefinition,
    Sleep,
    StepContext,
)

__all__ = [
    "HOUR",
    "Approved",
    "Counted",
    "Deed",
    "Done",
    "Order",
    "Shop",
    "Threaded",
    "Wait",
    "saga_of",
    "shop_saga",
]

HOUR = timedelta(hours=1)


class Order(BaseModel):
    order_id: str


class Done(BaseModel):
    key: str


class Approved(BaseModel):
    by: str


class Shop:
    """What the steps have done outside, by what and whose."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def look(self) -> dict[str, str]:
        return self.rows

    def reset(self) -> None:
        self.rows.clear()


class Deed(BaseStep[Order, Done]):
    """Writes a row and takes it out again."""

    def __init__(self, shop: Shop, name: str, *, forgets: bool = False) -> None:
        self._shop, self._name, self._forgets = shop, name, forgets

    async def execute(self, inp: Order, ctx: StepContext) -> Done:
        self._shop.rows[self._name] = inp.order_id
        return Done(key=ctx.idempotency_key)

    async def compensate(self, inp: Order, out: Done) -> None:
        if not self._forgets:
            self._shop.rows.pop(self._name, None)


class Counted(Deed):
    """Leaves one more each time, whoever asks: not fit for a step that may run twice."""

    async def execute(self, inp: Order, ctx: StepContext) -> Done:
        self._shop.rows[self._name] = self._shop.rows.get(self._name, "") + "|"
        return Done(key=ctx.idempotency_key)

    async def compensate(self, inp: Order, out: Done) -> None:
        left = self._shop.rows.pop(self._name)[1:]
        if left:
            self._shop.rows[self._name] = left


class Threaded(BaseStep[Order, Done]):
    """The same in a thread, and undone also if it may have been done."""

    def __init__(self, shop: Shop, name: str, *, forgets: bool = False) -> None:
        self._shop, self._name, self._forgets = shop, name, forgets

    def execute(self, inp: Order) -> Done:
        self._shop.rows[self._name] = inp.order_id
        return Done(key="")

    def compensate(self, inp: Order, out: Done | None) -> None:
        if not self._forgets or out is not None:
            self._shop.rows.pop(self._name, None)


class Wait(BaseStep[Order, Done]):
    """Sleeps for two weeks, then waits for an approval."""

    def __init__(self, timeout: timedelta | None = None) -> None:
        self._timeout = timeout

    async def execute(self, inp: Order, ctx: StepContext) -> Done | AwaitEvent | Sleep:
        if ctx.waits == 0:
            return Sleep(timedelta(days=14))
        if ctx.waits == 1:
            return AwaitEvent(Approved, correlation_id=inp.order_id, timeout=self._timeout)
        return Done(key=ctx.event.by)


def saga_of(pivot: str | None = None, **steps: BaseStep[Order, Done]) -> SagaDefinition:
    """Return a saga of these steps, each of them tried three times."""
    builder = SagaBuilder()
    for step_id, step in steps.items():
        options: dict[str, Any] = {"pivot": step_id == pivot}
        if isinstance(step, Threaded):
            options["compensate_when"] = "maybe_done"
        builder.add_step(
            step_id=step_id,
            step=step,
            input_map=lambda ctx: Order(order_id=ctx.initial_data),
            retry_policy=FixedRetry(max_attempts=3, delay=HOUR),
            compensation_retry_policy=FixedRetry(max_attempts=3, delay=HOUR),
            **options,
        )
    return builder.build()


def shop_saga(shop: Shop, **forgets: bool) -> SagaDefinition:
    """Return a saga of three steps, of which some forget to undo what they did."""
    return saga_of(
        reserve=Deed(shop, "reserve", forgets=forgets.get("reserve", False)),
        charge=Threaded(shop, "charge", forgets=forgets.get("charge", False)),
        ship=Deed(shop, "ship"),
    )
