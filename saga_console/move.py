"""What `saga copy` does: open two stores, copy the sagas, say what became of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saga_core.copying import CopyConflictError, CopyReport, copy_sagas
from saga_core.errors import StoreUrlError
from saga_core.plugins import StoreTarget, open_store, resolve_store

__all__ = ["Move", "run_move"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """From where to where, and how. URLs and options may hold passwords and are never printed."""

    source: str = field(repr=False)
    target: str = field(repr=False)
    source_options: dict[str, Any] = field(repr=False)
    target_options: dict[str, Any] = field(repr=False)
    create_schema: bool = False
    dry_run: bool = False
    ended_only: bool = False
    allow_held: bool = False


async def run_move(move: Move, *, out: Console, bar: Console) -> bool:
    """Copy and print the report; return False if some sagas could not be copied.

    Raises `StoreUrlError` if source and target are one store or the options contradict each
    other, and whatever opening the stores and `copy_sagas` raise.
    """
    if move.dry_run and move.create_schema:
        raise StoreUrlError("--dry-run writes nothing, so it cannot go with --create-schema")
    if _place(resolve_store(move.source, **move.source_options)) == _place(
        resolve_store(move.target, **move.target_options)
    ):
        raise StoreUrlError(
            "source and target are the same store and namespace: there is nothing to copy; "
            "--to-namespace copies into another namespace"
        )
    async with (
        open_store(move.source, create_schema=False, **move.source_options) as source,
        open_store(move.target, create_schema=move.create_schema, **move.target_options) as target,
    ):
        columns = (
            TextColumn("copying"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        report, good = CopyReport(), True
        with Progress(*columns, console=bar, transient=True) as progress:
            task = progress.add_task("copying", total=None)
            try:
                report = await copy_sagas(
                    source,
                    target,
                    progress=lambda done, total: progress.update(task, completed=done, total=total),
                    ended_only=move.ended_only,
                    allow_held=move.allow_held,
                    dry_run=move.dry_run,
                )
            except CopyConflictError as conflict:
                report, good = conflict.report, False
    for saga_id, why in report.reasons:
        bar.print(f"[red]not copied:[/] {saga_id}: {escape(why)}", soft_wrap=True)
    unnamed = report.conflicts - len(report.reasons)
    if unnamed:
        bar.print(f"[red]not copied:[/] {unnamed} more", soft_wrap=True)
    out.print(_summary(report, dry_run=move.dry_run), soft_wrap=True)
    return good


def _place(target: StoreTarget) -> tuple[str, Any]:
    scheme, _, rest = target.url.partition(":///")
    if scheme == "sqlite" and rest and not rest.startswith(":"):
        return os.path.realpath(rest), target.options
    return target.url, target.options


def _summary(report: CopyReport, *, dry_run: bool) -> str:
    copied = f"{report.copied} {'would be copied' if dry_run else 'copied and verified'}"
    if report.held:
        copied += f" ({report.held} with a lease that has not ended)"
    parts = [copied, f"{report.already_there} already there"]
    if report.moved_on:
        parts.append(f"{report.moved_on} driven on at the target")
    if report.gone:
        parts.append(f"{report.gone} purged meanwhile")
    parts.append(f"{report.conflicts} not copied")
    return f"{report.total} sagas: {', '.join(parts)}"
