"""A step that a person does by hand: skip it with the output it would have had.

python examples/admin_skip.py [STORE_URL]
"""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    FixedRetry,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    open_store,
)


class Pay(BaseModel):
    invoice: str


class Payment(BaseModel):
    payment_id: str


class Book(BaseModel):
    payment_id: str


class Booked(BaseModel):
    entry: str


class PayInvoice(BaseStep[Pay, Payment]):
    async def execute(self, inp: Pay) -> Payment:
        raise ConnectionError("the bank is closed")


class BookPayment(BaseStep[Book, Booked]):
    async def execute(self, inp: Book) -> Booked:
        return Booked(entry=f"ledger:{inp.payment_id}")


def build_invoice_saga() -> SagaDefinition:
    builder = SagaBuilder()
    pay = builder.add_step(
        step_id="pay",
        step=PayInvoice(),
        input_map=lambda ctx: Pay(invoice=ctx.initial_data["invoice"]),
        retry_policy=FixedRetry(max_attempts=10, delay=timedelta(hours=1)),
    )
    builder.add_step(
        step_id="book",
        step=BookPayment(),
        depends_on=pay,
        input_map=lambda out: Book(payment_id=out.payment_id),
    )
    return builder.build()


async def main(url: str) -> None:
    async with open_store(url, create_schema=True) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("pay_invoice", build_invoice_saga())
        admin = SagaAdmin(engine=orchestrator.engine)
        invoice = f"invoice-{uuid4().hex[:8]}"
        saga_id = await orchestrator.start(
            saga_name="pay_invoice", initial_data={"invoice": invoice}, aggregation_id=invoice
        )
        waiting = await orchestrator.get_snapshot(saga_id)
        show(waiting)
        expect(waiting, SagaStatus.SUSPENDED)

        await admin.skip_step(
            saga_id,
            mock_output={"payment_id": "paid-at-the-counter"},
            actor="accounting",
            reason="paid in cash",
        )
        snapshot = await admin.get_saga(saga_id)
        show(snapshot)
        expect(snapshot, SagaStatus.COMPLETED)
        try:
            await admin.abort(saga_id)
        except SagaStateError as refused:
            print(f"refused: {refused}")


if __name__ == "__main__":
    run(main, __doc__)
