"""One command for many sagas: each takes or refuses it by itself, and is told apart."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Unpack, get_args
from uuid import UUID

from saga_core.engine import SagaEngine
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    QueryError,
    SagaDefinitionError,
    SagaError,
    SagaNotFoundError,
    SagaStateError,
)
from saga_core.finding import Conditions, all_pages, query_of
from saga_core.happening import Operator
from saga_core.orders import Order, give, order_of, rehearse, retry_order
from saga_core.records import Query
from saga_core.snapshot import SagaSnapshot
from saga_core.status import SagaStatus, SignalKind

__all__ = [
    "BulkCommand",
    "BulkItem",
    "BulkOutcome",
    "BulkReport",
    "bulk_order",
    "bulk_query",
    "run_bulk",
]

logger = logging.getLogger("saga_core")

BulkCommand = Literal["retry_step", "cancel", "abort", "pause", "resume"]
"""What can be asked of many sagas at once: what means the same for each of them."""

PAGE = 500

_REFUSALS = (
    SagaStateError,
    SagaDefinitionError,
    SagaNotFoundError,
    ActiveSagaAlreadyExistsError,
)


class BulkOutcome(StrEnum):
    """What became of one saga in a bulk command."""

    DONE = "done"
    """The command took effect; in a dry run, it would."""
    SENT = "sent"
    """Its driver was told, and obeys in its next commit; in a dry run, it would be told."""
    REFUSED = "refused"
    """The command does not fit the saga, which is unchanged."""
    FAILED = "failed"
    """It is not known to have taken effect: ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkItem:
    """One saga of a bulk command."""

    saga_id: UUID
    saga_name: str
    status: SagaStatus
    """How it stood when it was found."""
    outcome: BulkOutcome
    why: str | None = None
    """The reason of a refusal or failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """What a bulk command did; in a dry run, what it would have done."""

    command: str
    dry_run: bool
    items: tuple[BulkItem, ...]
    """Oldest saga first."""
    broken_off: str | None = None
    """Why there may be more sagas than `items`, if the store could not be asked for them."""

    @property
    def ok(self) -> bool:
        """Whether every saga was found and took the command."""
        good = (BulkOutcome.DONE, BulkOutcome.SENT)
        return self.broken_off is None and all(item.outcome in good for item in self.items)

    def of(self, outcome: BulkOutcome) -> tuple[BulkItem, ...]:
        """Return the sagas with this outcome."""
        return tuple(item for item in self.items if item.outcome is outcome)

    def __str__(self) -> str:
        """Sum it up in a line, and name the reasons, most frequent first."""
        counts = [f"{len(self.of(each))} {each}" for each in BulkOutcome if self.of(each)]
        ran = f"{self.command} (dry run)" if self.dry_run else self.command
        lines = [f"{ran}: {len(self.items)} sagas{': ' if counts else ''}{', '.join(counts)}"]
        reasons = Counter(
            (item.outcome, item.why.replace(f"saga {item.saga_id}", "the saga"))
            for item in self.items
            if item.why is not None
        )
        lines += [f"- {times} {what}: {why}" for (what, why), times in reasons.most_common()]
        if self.broken_off is not None:
            lines.append(f"broken off: {self.broken_off}")
        return "\n".join(lines)


def bulk_query(limit: int | None, **conditions: Unpack[Conditions]) -> Query:
    """Return which sagas are meant. Raises `QueryError`."""
    # A cursor says where to go on, not what is meant.
    if all(value is None for what, value in conditions.items() if what != "cursor"):
        raise QueryError(
            "a bulk command without a condition would touch every saga: give it one, such as "
            "name= or status="
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise QueryError(f"limit must be a whole number of at least 1, or None, got {limit!r}")
    return query_of(limit=PAGE if limit is None else min(PAGE, limit), **conditions)


def bulk_order(command: str, by: Operator) -> Order:
    """Return what is asked of each saga. Raises `QueryError` for a command that is none."""
    if command not in get_args(BulkCommand):
        raise QueryError(
            f"{command!r} is no bulk command; these are: {', '.join(get_args(BulkCommand))}"
        )
    if command == "retry_step":
        return retry_order(by)
    kind = SignalKind(command)
    return order_of(kind, by, readable=kind is not SignalKind.ABORT)


async def run_bulk(
    engine: SagaEngine,
    order: Order,
    command: str,
    query: Query,
    limit: int | None,
    dry_run: bool,
    progress: Callable[[BulkItem], None] | None,
) -> BulkReport:
    """Give the order to one saga after the other, or only rehearse it.

    Raises `QueryError` for a `dry_run` that is neither True nor False, and a `progress` that
    cannot be called. One that raises hears nothing more.
    """
    if not isinstance(dry_run, bool):
        # A setting that was forgotten must not be taken for a wish.
        raise QueryError(f"dry_run must be True or False, got {dry_run!r}")
    if progress is not None and not callable(progress):
        raise QueryError(f"progress must be a function or None, got {progress!r}")
    items: list[BulkItem] = []
    broken_off = None
    async with aclosing(all_pages(engine.store, query)) as sagas:
        while limit is None or len(items) < limit:
            try:
                saga = await anext(sagas, None)
            except SagaError as error:
                broken_off = str(error)
                break
            if saga is None:
                break
            item = await _item(engine, order, saga, dry_run)
            items.append(item)
            if progress is not None and not _hears(progress, item):
                progress = None
    return BulkReport(command=command, dry_run=dry_run, items=tuple(items), broken_off=broken_off)


def _hears(progress: Callable[[BulkItem], None], item: BulkItem) -> bool:
    try:
        progress(item)
    except Exception:
        # What was done to the sagas so far would be in no report.
        logger.exception("the progress of a bulk command raised, and is told nothing more")
        return False
    return True


async def _item(engine: SagaEngine, order: Order, saga: SagaSnapshot, dry_run: bool) -> BulkItem:
    outcome, why = BulkOutcome.DONE, None
    try:
        act = rehearse if dry_run else give
        if await act(engine, saga.saga_id, order):
            outcome = BulkOutcome.SENT
    except _REFUSALS as error:
        outcome, why = BulkOutcome.REFUSED, str(error)
    except SagaError as error:
        outcome, why = BulkOutcome.FAILED, str(error)
    except Exception as error:
        # One saga must not keep the command from the others.
        logger.exception("a bulk command failed for saga %s", saga.saga_id)
        outcome, why = BulkOutcome.FAILED, f"{type(error).__name__}: {error}"
    return BulkItem(
        saga_id=saga.saga_id,
        saga_name=saga.saga_name,
        status=saga.status,
        outcome=outcome,
        why=why,
    )
