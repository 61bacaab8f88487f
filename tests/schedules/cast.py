"""Schedules and clocks for the rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from saga_core import (
    BaseStep,
    Query,
    SagaAdmin,
    SagaBuilder,
    SagaOrchestrator,
    SagaStore,
)
from saga_core.codec import PayloadLimits, decode_json
from saga_cron import Schedules

__all__ = ["HOUR", "NOON", "Clerk", "Note", "hourly", "runs"]

HOUR = timedelta(hours=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""When a `ManualClock` of the rules starts."""


def hourly() -> str:
    """Return a cron line whose ticks are half an hour away, so that no rule runs into one."""
    return f"{(datetime.now(UTC) + HOUR / 2).minute} * * * *"


class Note(BaseStep[dict[str, Any], dict[str, Any]]):
    async def execute(self, inp: dict[str, Any]) -> dict[str, Any]:
        return inp


class Clerk:
    """One process: an orchestrator that knows the saga `report`, and its schedules."""

    def __init__(self, store: SagaStore, limits: PayloadLimits | None = None) -> None:
        builder = SagaBuilder()
        builder.add_step(step=Note(), input_map=lambda ctx: ctx.initial_data)
        self.orchestrator = SagaOrchestrator(store=store, limits=limits)
        self.orchestrator.register("report", builder.build())
        self.schedules = Schedules(self.orchestrator)
        self.admin = SagaAdmin(engine=self.orchestrator.engine)

    async def add(self, name: str = "hourly", **more: Any) -> None:
        await self.schedules.add(
            name,
            **{"saga_name": "report", "cron": "0 * * * *", "time_field": "planned", **more},
        )

    async def work(self) -> None:
        """Drive all that is due, and what becomes due by that."""
        while await self.orchestrator.run_due():
            continue


async def runs(store: SagaStore, name: str = "hourly") -> list[datetime]:
    """Return the planned times of the runs, which the store has once each by their ids."""
    found: list[datetime] = []
    cursor = None
    while True:
        page = await store.find(Query(saga_name="report", tag=f"schedule:{name}", cursor=cursor))
        for record in page.records:
            data = decode_json(record.data, what="data")
            found.append(datetime.fromisoformat(data["planned"]))
        cursor = page.cursor
        if cursor is None:
            return sorted(found)
