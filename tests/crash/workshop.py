"""Worker processes for crash tests: slow sagas, one that kills its process, and a quiet stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    BaseStep,
    Query,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    SagaWorker,
    Sleep,
    StepContext,
    open_store,
)
from tests.crash.ledger import Ledger

__all__ = [
    "DEADLINE",
    "LEASE",
    "NAP",
    "Paid",
    "SOON",
    "Workshop",
    "drain_by_run_due",
    "orchestrator_of",
    "start_later",
    "start_with_deadline",
    "work",
    "work_until_signal",
]

LEASE = timedelta(milliseconds=600)
SOON = timedelta(milliseconds=200)
DEADLINE = timedelta(seconds=1)
NAP = timedelta(milliseconds=500)
ENDED = (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED, SagaStatus.STUCK)


@dataclass(frozen=True)
class Workshop:
    """Where a worker process finds its sagas, and whether the deadly step has been mended."""

    url: str
    namespace: str
    folder: Path
    sagas: int = 0
    step_seconds: float = 0.1
    lease: timedelta = LEASE
    grace: timedelta = timedelta(seconds=10)

    @property
    def mended(self) -> Path:
        return self.folder / "mended"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger")


class Empty(BaseModel):
    pass


class Slow(BaseStep[Empty, Empty]):
    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def execute(self, inp: Empty, ctx: StepContext) -> Empty:
        self._shop.ledger.note("begin", "do", ctx.step_id, ctx.attempt, ctx.fence)
        await asyncio.sleep(self._shop.step_seconds)
        self._shop.ledger.note("end", "do", ctx.step_id, ctx.attempt, ctx.fence)
        return inp


class Deadly(BaseStep[Empty, Empty]):
    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def execute(self, inp: Empty) -> Empty:
        if not self._shop.mended.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return inp


class Paid(BaseModel):
    amount: int


class Waiting(BaseStep[Empty, Paid]):
    """Waits for an event; entered with it, it kills its process until it is mended."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def execute(self, inp: Empty, ctx: StepContext) -> Paid | AwaitEvent:
        if not ctx.waits:
            return AwaitEvent(Paid)
        self._shop.ledger.note("begin", "do", ctx.step_id, ctx.attempt, ctx.fence)
        if not self._shop.mended.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        assert isinstance(ctx.event, Paid)
        return ctx.event


class Sleeping(BaseStep[Empty, Empty]):
    """Sleeps; woken, it kills its process until it is mended."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def execute(self, inp: Empty, ctx: StepContext) -> Empty | Sleep:
        if not ctx.woken:
            return Sleep(NAP)
        self._shop.ledger.note("begin", "do", ctx.step_id, ctx.attempt, ctx.fence)
        if not self._shop.mended.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return inp


def build(*steps: BaseStep[Empty, Any]) -> SagaDefinition:
    builder = SagaBuilder()
    for step in steps:
        builder.add_step(step=step, input_map=lambda _: Empty())
    return builder.build()


def orchestrator_of(shop: Workshop, store: SagaStore) -> SagaOrchestrator:
    orchestrator = SagaOrchestrator(store=store, execution_lease=shop.lease)
    orchestrator.register("slow", build(Slow(shop), Slow(shop)))
    orchestrator.register("deadly", build(Slow(shop), Deadly(shop)))
    orchestrator.register("waiting", build(Waiting(shop)))
    orchestrator.register("sleeping", build(Sleeping(shop)))
    return orchestrator


def work(shop: Workshop) -> None:
    """Drive until every saga rests. In a process of its own."""
    asyncio.run(_work(shop))


async def _work(shop: Workshop) -> None:
    async with (
        open_store(shop.url, namespace=shop.namespace) as store,
        SagaWorker(
            orchestrator_of(shop, store), concurrency=50, poll_interval=timedelta(milliseconds=100)
        ),
    ):
        while await store.count(Query(statuses=ENDED)) < shop.sagas:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def drain_by_run_due(shop: Workshop) -> None:
    """Call `run_due` once. In a process of its own."""
    asyncio.run(_drain(shop))


async def _drain(shop: Workshop) -> None:
    async with open_store(shop.url, namespace=shop.namespace) as store:
        await orchestrator_of(shop, store).run_due()


def start_later(shop: Workshop) -> None:
    """Start a saga that is to begin in a moment, and die. In a process of its own."""
    asyncio.run(_start(shop, delay=SOON))
    os.kill(os.getpid(), signal.SIGKILL)


def start_with_deadline(shop: Workshop) -> None:
    """Start a saga that has to be done soon, and drive it. In a process of its own."""
    asyncio.run(_start(shop, deadline=DEADLINE))


async def _start(shop: Workshop, **times: timedelta) -> None:
    async with open_store(shop.url, namespace=shop.namespace) as store:
        await orchestrator_of(shop, store).start(saga_name="slow", initial_data={}, **times)


def work_until_signal(shop: Workshop) -> None:
    """Drive until SIGTERM. In a process of its own."""
    asyncio.run(_work_until_signal(shop))
    sys.exit(0)


async def _work_until_signal(shop: Workshop) -> None:
    async with open_store(shop.url, namespace=shop.namespace) as store:
        worker = SagaWorker(orchestrator_of(shop, store), concurrency=3, shutdown_grace=shop.grace)
        await worker.run(handle_signals=True)
