"""The process that is killed while its steps work in the store's own transactions."""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from asyncpg.transaction import Transaction
from sqlalchemy.ext.asyncio import AsyncSession

from saga_core import BaseStep, FixedRetry, SagaBuilder, SagaDefinition, SagaOrchestrator
from saga_core.step import StepContext
from saga_testing import FaultyStore
from saga_testing.conformance import Business, StoreHarness
from tests.transactions.cast import Booking, Refuse

__all__ = ["EXPECTED", "LEASE", "NAME", "Scene", "build", "live"]

NAME = "ledger"
LEASE = timedelta(minutes=5)
"""Long, so that no renewal comes in between: the list of points stays the same."""

EXPECTED = [
    ("retrying", "book"),
    ("completed", "book"),
    ("completed", "ship"),
    ("failed", "refuse"),
    ("compensation_retrying", "ship"),
    ("compensated", "ship"),
    ("compensated", "book"),
]

Probe = Callable[[str], None]


@dataclass(frozen=True)
class Scene:
    """One saga of its own."""

    harness: StoreHarness
    saga_id: UUID
    points: Path
    """Where the points that were passed are written, in a dry run."""
    kill_at: str | None
    """The point at which the process kills itself; None for a dry run."""


class Entry(BaseStep[Booking, Booking]):
    """Writes a row; its first attempt fails where the story says so, with the row written."""

    def __init__(self, business: Business, probe: Probe, *, fails: str | None = None) -> None:
        self._business = business
        self._probe = probe
        self._fails = fails

    async def execute(self, inp: Booking, ctx: StepContext) -> Booking:
        await self._write("do", ctx)
        return inp

    async def compensate(self, inp: Booking, out: Booking, ctx: StepContext) -> None:
        await self._write("undo", ctx)

    async def _write(self, verb: str, ctx: StepContext) -> None:
        self._probe(f"{verb} {ctx.step_id} {ctx.attempt} entered")
        await self._business.write(ctx.transaction, f"{verb} {ctx.step_id}")
        self._probe(f"{verb} {ctx.step_id} {ctx.attempt} written")
        if self._fails == verb and ctx.attempt == 1:
            raise ConnectionError("busy")


def build(business: Business, probe: Probe) -> SagaDefinition:
    """Return the saga: a retry, two steps that are done, a failure, a retry on the way back."""
    again = FixedRetry(max_attempts=3, delay=timedelta(0))
    builder = SagaBuilder()
    for step_id, fails in (("book", "do"), ("ship", "undo")):
        builder.add_step(
            step=Entry(business, probe, fails=fails),
            step_id=step_id,
            input_map=_amount,
            retry_policy=again,
            compensation_retry_policy=again,
            transaction=True,
        )
    builder.add_step(step=Refuse(), step_id="refuse", input_map=_amount)
    return builder.build()


def _amount(_: Any) -> Booking:
    return Booking(amount=7)


def live(scene: Scene) -> None:
    """Run in a process of its own. What goes wrong is kept for the verdict."""
    try:
        asyncio.run(_live(scene))
    except BaseException:
        scene.points.write_text(traceback.format_exc())
        raise


async def _live(scene: Scene) -> None:
    passed: list[str] = []

    def probe(point: str) -> None:
        passed.append(point)
        if point == scene.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def probe_call(method: str, ordinal: int, moment: str) -> None:
        probe(f"{method} {ordinal} {moment}")

    async with scene.harness.business() as business, scene.harness.open() as inner:
        store = FaultyStore(inner, probe=probe_call)
        orchestrator = SagaOrchestrator(store=store, execution_lease=LEASE)
        orchestrator.register(NAME, build(business, probe))
        # Only from here on: what opens a store may commit as well.
        commits: Counter[str] = Counter()
        _watch(AsyncSession, probe, commits)
        _watch(Transaction, probe, commits)
        await orchestrator.start(saga_name=NAME, initial_data={}, saga_id=scene.saga_id)
    scene.points.write_text("".join(f"{point}\n" for point in passed))


def _watch(owner: Any, probe: Probe, commits: Counter[str]) -> None:
    """Tell of each COMMIT, before it is sent and after it was answered."""
    plain = owner.commit

    async def commit(self: Any) -> None:
        if commits["inside"]:  # a session commits by its driver's transaction
            await plain(self)
            return
        commits["COMMIT"] += 1
        number = commits["COMMIT"]
        commits["inside"] = 1
        probe(f"COMMIT {number} before")
        await plain(self)
        probe(f"COMMIT {number} after")
        commits["inside"] = 0

    owner.commit = commit
