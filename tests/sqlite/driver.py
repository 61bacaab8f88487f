"""A process that drives whatever is due in a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from saga_core import Query, SagaOrchestrator, SagaStatus, open_store
from tests.behaviour.cast import Number, Story, definition

__all__ = ["NAME", "drive_all"]

NAME = "shared"


def drive_all(url: str, log: str) -> None:
    """Drive until nothing is left, and write down which step of which saga ran here."""
    asyncio.run(_drive_all(url, Path(log)))


async def _drive_all(url: str, log: Path) -> None:
    story = Story()
    with log.open("w") as lines:

        def note(_: Number, ctx: object) -> None:
            lines.write(f"{ctx.saga_id} {ctx.step_id}\n")  # type: ignore[attr-defined]

        async with open_store(url) as store:
            orchestrator = SagaOrchestrator(store=store)
            orchestrator.register(NAME, definition(story.step(note), story.step(note)))
            while await store.count(Query(statuses=(SagaStatus.RUNNING,))):
                await orchestrator.run_due(limit=5)
