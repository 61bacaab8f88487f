"""`saga schedules`: what a store's schedules are, and when each is due next."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saga_core import open_store
from saga_cron import ScheduleInfo, list_schedules

__all__ = ["show_schedules"]

WIDEST = 500
"""Characters of a line that goes to no terminal."""


async def show_schedules(console: Console, url: str, options: dict[str, Any]) -> None:
    """Print the schedules of a store, one a line. Needs no definition and changes nothing.

    A store that is not there, or has another schema, is a `SchemaError`.
    """
    async with open_store(url, create_schema=False, **options) as store:
        found = await list_schedules(store)
    if not found:
        console.print("no schedules")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("schedule", "starts", "cron", "zone", "missed", "next", "saga id"):
        table.add_column(column, overflow="fold")
    for info in found:
        plan = info.schedule
        cells = (plan.name, plan.saga_name, plan.cron, plan.timezone, plan.missed)
        table.add_row(*map(escape, cells), _next(info), str(info.saga_id))
    if not console.is_terminal:
        # What reads a pipe wants a line for each, whatever width somebody's terminal had.
        console = Console(file=console.file, width=WIDEST, highlight=False)
    console.print(table)
    for info in found:
        if info.last_error is not None:
            told = f"{info.schedule.name}: {info.last_error}"
            console.print(f"[yellow]![/] {escape(told)}", soft_wrap=True)


def _next(info: ScheduleInfo) -> str:
    if info.is_paused:
        return "paused"
    if info.next_at is None:
        return str(info.status)
    return info.next_at.isoformat(sep=" ", timespec="seconds")
