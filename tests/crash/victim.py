"""The process that is killed: drives the booking from its start to its end, unless it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from saga_core import SagaAdmin, SagaOrchestrator, SagaStatus, SagaStore, open_store
from saga_testing import FaultyStore
from tests.crash.booking import NAME, build
from tests.crash.ledger import Ledger

__all__ = ["LEASE", "Scene", "live"]

LEASE = timedelta(minutes=1)
"""Long, so that no renewal comes in between: the list of points stays the same."""


@dataclass(frozen=True)
class Scene:
    """One saga of its own, in a store of its own."""

    url: str
    namespace: str
    saga_id: UUID
    ledger: Path
    points: Path
    """Where the points that were passed are written, in a dry run."""
    kill_at: str | None
    """The point at which the process kills itself; None for a dry run."""


def live(scene: Scene) -> None:
    """Run in a process of its own. What goes wrong is kept for the verdict."""
    try:
        asyncio.run(_live(scene))
    except BaseException:
        scene.points.write_text(traceback.format_exc())
        raise


async def _until_due(store: SagaStore, saga_id: UUID) -> None:
    """Wait for the retry, by the store's own clock."""
    while True:
        record = await store.load(saga_id)
        if record.due_at is None or record.due_at <= record.now:
            return
        await asyncio.sleep(0.002)


async def _live(scene: Scene) -> None:
    passed: list[str] = []

    def probe(point: str) -> None:
        passed.append(point)
        if point == scene.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def probe_call(method: str, ordinal: int, moment: str) -> None:
        probe(f"{method} {ordinal} {moment}")

    async with open_store(scene.url, namespace=scene.namespace) as inner:
        store = FaultyStore(inner, probe=probe_call)
        orchestrator = SagaOrchestrator(store=store, execution_lease=LEASE)
        orchestrator.register(NAME, build(Ledger(scene.ledger), probe))
        await orchestrator.start(saga_name=NAME, initial_data={}, saga_id=scene.saga_id, wait=False)
        await orchestrator.run_due(limit=1)  # one claim, however fast the retry falls due
        await orchestrator.get_snapshot(scene.saga_id)
        await _until_due(inner, scene.saga_id)
        await orchestrator.run_due(limit=1)
        await orchestrator.get_snapshot(scene.saga_id)
        snapshot = await orchestrator.get_snapshot(scene.saga_id)
        assert snapshot.step_execution_token is not None
        assert await orchestrator.notify(
            saga_id=scene.saga_id,
            token=snapshot.step_execution_token,
            event={"approved": True},
        )
        assert await orchestrator.run_due() == 0
        await orchestrator.wait(scene.saga_id)
        admin = SagaAdmin(engine=orchestrator.engine)
        assert (await admin.get_saga(scene.saga_id)).status is SagaStatus.COMPENSATED
    scene.points.write_text("".join(f"{point}\n" for point in passed))
