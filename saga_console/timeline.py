"""Print what happened to a saga so that a person can follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saga_core.snapshot import SagaAdminSnapshot
from saga_core.status import EntryKind, SagaStatus

__all__ = ["Moment", "print_timeline", "print_verdict"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that the saga's own history cannot know, such as the death of a worker."""

    at: float
    """Seconds since the saga was started."""
    step_id: str
    what: str
    detail: str


# Symbol, symbol for terminals that have only ASCII, colour, words.
_LOOKS = {
    EntryKind.COMPLETED: ("✓", "+", "green", "done"),
    EntryKind.FAILED: ("✗", "x", "red", "failed"),
    EntryKind.RETRYING: ("↻", "~", "yellow", "failed, will be tried again"),
    EntryKind.SKIPPED: ("»", ">", "cyan", "skipped"),
    EntryKind.WAITING: ("…", "~", "cyan", "waits"),
    EntryKind.COMPENSATED: ("↩", "<", "cyan", "undone"),
    EntryKind.COMPENSATION_FAILED: ("✗", "x", "red", "could not be undone"),
    EntryKind.COMPENSATION_RETRYING: ("↻", "~", "yellow", "undoing failed, will be tried again"),
    EntryKind.COMPENSATION_SKIPPED: ("»", ">", "cyan", "left as it is"),
    EntryKind.MAYBE_DONE: ("?", "?", "yellow", "may have been done"),
    EntryKind.STUCK: ("■", "!", "red", "stuck"),
}
_OTHER = ("·", ".", "default", "")
_DEATH = ("☠", "#", "bold red")
_STATUS = {
    SagaStatus.COMPLETED: "bold green",
    SagaStatus.COMPENSATED: "bold cyan",
    SagaStatus.FAILED: "bold red",
    SagaStatus.STUCK: "bold red",
}


def print_timeline(
    console: Console, saga: SagaAdminSnapshot, moments: Sequence[Moment] = ()
) -> None:
    """Print the saga's history, with `moments` put in between, and its status."""
    plain = console.options.ascii_only
    rows: list[tuple[float, tuple[str, str, str, str]]] = []
    for item in saga.step_history:
        symbol, ascii_symbol, colour, words = _LOOKS.get(item.kind, _OTHER)
        mark = f"[{colour}]{ascii_symbol if plain else symbol}[/]"
        what = words or item.kind.value.replace("_", " ")
        if item.attempt > 1:
            what += f" (attempt {item.attempt})"
        seconds = (item.at - saga.created_at).total_seconds()
        rows.append((seconds, (mark, item.step_id or "", what, item.error or "")))
    for moment in moments:
        mark = f"[{_DEATH[2]}]{_DEATH[1] if plain else _DEATH[0]}[/]"
        rows.append((moment.at, (mark, moment.step_id, moment.what, moment.detail)))
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for seconds, (mark, step, what, detail) in sorted(rows, key=lambda row: row[0]):
        table.add_row(f"+{max(seconds, 0):.2f}s", mark, step, escape(what), escape(detail))
    console.print(table)
    console.print(f"  status [{_STATUS.get(saga.status, 'bold yellow')}]{saga.status}[/]")


def print_verdict(console: Console, text: str, *, kept: bool) -> None:
    """Print whether a promise was kept."""
    symbols = ("+", "x") if console.options.ascii_only else ("✓", "✗")
    symbol, colour = (symbols[0], "green") if kept else (symbols[1], "red")
    console.print(f"  [{colour}]{symbol} {escape(text)}[/]", soft_wrap=True)
