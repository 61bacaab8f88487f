"""A step that fails twice: the saga waits in the store, and `run_due` goes on with it.

python examples/retry_recovery.py [STORE_URL]
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    ExponentialRetry,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    StepContext,
    open_store,
)


class Fetch(BaseModel):
    url: str


class Report(BaseModel):
    rows: int
    attempts: int


class FetchReport(BaseStep[Fetch, Report]):
    async def execute(self, inp: Fetch, ctx: StepContext) -> Report:
        if ctx.attempt < 3:
            raise ConnectionError(f"{inp.url} is busy (attempt {ctx.attempt})")
        return Report(rows=42, attempts=ctx.attempt)


def build_report_saga() -> SagaDefinition:
    builder = SagaBuilder()
    builder.add_step(
        step_id="fetch",
        step=FetchReport(),
        input_map=lambda ctx: Fetch(url=ctx.initial_data["url"]),
        retry_policy=ExponentialRetry(max_attempts=4, base_delay=timedelta(milliseconds=50)),
    )
    return builder.build()


async def main(url: str) -> None:
    async with open_store(url, create_schema=True) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("fetch_report", build_report_saga())
        saga_id = await orchestrator.start(
            saga_name="fetch_report", initial_data={"url": "reports.example"}
        )
        snapshot = await orchestrator.get_snapshot(saga_id)
        show(snapshot)
        expect(snapshot, SagaStatus.SUSPENDED)

        # A SagaWorker does this by itself; here it is done by hand to show how.
        while not snapshot.status.is_terminal:
            driven = await orchestrator.run_due(limit=10)
            snapshot = await orchestrator.get_snapshot(saga_id)
            if driven:
                show(snapshot)
            await asyncio.sleep(0.02)
        expect(snapshot, SagaStatus.COMPLETED)


if __name__ == "__main__":
    run(main, __doc__)
