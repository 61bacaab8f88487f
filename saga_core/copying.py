"""`copy_sagas`: move sagas, those in flight included, from one store to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from saga_core.comparing import difference, is_ahead, is_released
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    PayloadError,
    SagaError,
    SagaNotFoundError,
    SagaStateError,
    SchemaError,
)
from saga_core.finding import holder_of
from saga_core.plugins import check_contract
from saga_core.records import Query, SagaExport, SagaRecord
from saga_core.status import ACTIVE, ENDED
from saga_core.store import SagaStore

__all__ = ["CopyConflictError", "CopyProgress", "CopyReport", "copy_sagas"]

PAGE = 100
"""Sagas read from the source's list at once; each is then moved by itself."""
NAMED = 100
"""Conflicts that a report names; it counts all."""

CopyProgress = Callable[[int, int], None]
"""Gets how many sagas are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What `copy_sagas` did with the sagas it found, each counted once except as held."""

    copied: int = 0
    """Written to the target, read back and found equal. In a dry run: would be written."""
    already_there: int = 0
    """At the target, and equal."""
    moved_on: int = 0
    """At the target, and driven further or sent more there since they were copied."""
    gone: int = 0
    """Purged from the source before their turn came."""
    conflicts: int = 0
    """Not at the target as they are at the source; `reasons` says why."""
    held: int = 0
    """Of those copied, how many came with a lease that has not ended (`allow_held`)."""
    reasons: tuple[tuple[UUID, str], ...] = ()
    """The first 100 conflicts: which saga, and why."""

    @property
    def total(self) -> int:
        """How many sagas were looked at."""
        return self.copied + self.already_there + self.moved_on + self.gone + self.conflicts


class CopyConflictError(SagaError):
    """Some sagas are not at the target as they are at the source; all others are.

    `report` counts everything and names the first 100, `saga_id` is the first. Nothing at the
    target was overwritten. A saga that another one keeps out is copied by the next run once that
    one has ended; for one that has changed at the source since, copy into an empty namespace.
    """

    def __init__(self, report: CopyReport) -> None:
        first, why = report.reasons[0]
        more = f" (and {report.conflicts - 1} more sagas)" if report.conflicts > 1 else ""
        super().__init__(f"saga {first} was not copied: {why}{more}", saga_id=first)
        self.report = report


async def copy_sagas(
    source: SagaStore,
    target: SagaStore,
    *,
    progress: CopyProgress | None = None,
    ended_only: bool = False,
    allow_held: bool = False,
    dry_run: bool = False,
) -> CopyReport:
    """Copy every saga of the source's namespace into the target's, and compare each copy.

    Sagas go over one by one, the oldest first, each whole: state, outputs, history, commit ids,
    inbox, times and lease. Nothing at the source changes and nothing at the target is
    overwritten, so a run that broke off is simply repeated: what is there is compared and
    skipped. Memory is bounded by one saga and a page of the list.

    Stop workers and starters first; a saga must never be driven in two stores. Raises
    `SagaStateError` before anything is written if sagas are being driven at the source; with
    `allow_held` they come over with their leases and are driven at the target once these end.
    `ended_only` leaves sagas in flight out and may run while the source is in use, so that the
    run with all stopped has little left to do. `dry_run` compares and counts, and writes nothing.

    Raises `CopyConflictError` at the end if some sagas could not be copied or are different at
    the target, and at once `StoreUnavailableError` and whatever else a store raises, with
    `saga_id` set; then call again.
    """
    check_contract(source, what="the source")
    check_contract(target, what="the target")
    if source is target:
        raise SagaStateError("source and target are the same store: there is nothing to copy")
    if not ended_only and not allow_held:
        await _refuse_held(source)
    copying = _Copying(source, target, allow_held=allow_held, dry_run=dry_run)
    query = Query(statuses=ENDED if ended_only else (), limit=PAGE)
    total = await source.count(query)
    done = 0
    if progress is not None:
        progress(done, total)
    cursor: str | None = None
    while True:
        page = await source.find(_at(query, cursor))
        for saga_id in (*(record.saga_id for record in page.records), *page.unreadable):
            await copying.copy(saga_id)
            done += 1
            if progress is not None:
                progress(done, max(done, total))
        cursor = page.cursor
        if cursor is None:
            break
    report = copying.report()
    if report.conflicts:
        raise CopyConflictError(report)
    return report


class _Copying:
    """Moves sagas one at a time and counts what became of them."""

    def __init__(
        self, source: SagaStore, target: SagaStore, *, allow_held: bool, dry_run: bool
    ) -> None:
        self._source = source
        self._target = target
        self._allow_held = allow_held
        self._dry_run = dry_run
        self._copied = self._already_there = self._moved_on = self._gone = self._held = 0
        self._conflicts = 0
        self._reasons: list[tuple[UUID, str]] = []

    def report(self) -> CopyReport:
        return CopyReport(
            copied=self._copied,
            already_there=self._already_there,
            moved_on=self._moved_on,
            gone=self._gone,
            conflicts=self._conflicts,
            held=self._held,
            reasons=tuple(self._reasons),
        )

    async def copy(self, saga_id: UUID) -> None:
        try:
            original = await self._source.export(saga_id)
        except SagaNotFoundError:
            self._gone += 1
            return
        except SchemaError as error:
            self._refused(saga_id, f"it cannot be read at the source: {error}")
            return
        try:
            await self._place(original)
        except _ConflictError as conflict:
            self._refused(saga_id, str(conflict))
        except SagaError as error:
            error.saga_id = saga_id
            raise

    def _refused(self, saga_id: UUID, why: str) -> None:
        self._conflicts += 1
        if len(self._reasons) < NAMED:
            self._reasons.append((saga_id, why))

    async def _place(self, original: SagaExport) -> None:
        record = original.record
        there = await self._find_copy(record.saga_id)
        if there is not None:
            self._compare(original, there)
            return
        if record.is_held and not self._allow_held:
            raise _ConflictError(f"it {_driven(record)} at the source")
        if self._dry_run:
            await self._refuse_taken(record)
        else:
            await self._restore(original)
            await self._verify(original)
        self._copied += 1
        self._held += record.is_held

    def _compare(self, original: SagaExport, there: SagaExport) -> None:
        field = difference(there, original)
        if field is None or is_released(original, there):
            self._already_there += 1
        elif is_ahead(there, original):
            self._moved_on += 1
        else:
            raise _ConflictError(
                f"the one at the target differs in {field}: it has changed at the source since it "
                "was copied, or is another saga"
            )

    async def _find_copy(self, saga_id: UUID) -> SagaExport | None:
        try:
            return await self._target.export(saga_id)
        except SagaNotFoundError:
            return None

    async def _restore(self, original: SagaExport) -> None:
        try:
            await self._target.restore(original)
        except ActiveSagaAlreadyExistsError as error:
            raise _ConflictError(_taken(original.record, error.saga_id)) from error
        except SagaStateError as error:
            # Unless another run has just written it.
            if await self._find_copy(original.record.saga_id) is None:
                raise _ConflictError(f"the target refuses it: {error}") from error
        except PayloadError as error:
            raise _ConflictError(f"the target refuses it: {error}") from error

    async def _verify(self, original: SagaExport) -> None:
        copy = await self._find_copy(original.record.saga_id)
        if copy is None:
            raise _ConflictError("the target took it and does not have it")
        field = difference(copy, original)
        # A worker at the target may have been quicker than this look at the copy.
        if field is not None and not is_ahead(copy, original):
            raise _ConflictError(f"its copy at the target differs in {field}")

    async def _refuse_taken(self, record: SagaRecord) -> None:
        if record.state.active and record.aggregation_id is not None:
            holder = await holder_of(self._target, record.aggregation_id)
            if holder is not None:
                raise _ConflictError(_taken(record, holder))


class _ConflictError(Exception):
    """This saga cannot be copied; the others can."""


async def _refuse_held(source: SagaStore) -> None:
    """Raise `SagaStateError` if sagas are being driven, saying how many, and until when."""
    held = 0
    first: SagaRecord | None = None
    until: datetime | None = None
    cursor: str | None = None
    query = Query(statuses=ACTIVE, limit=PAGE)
    while True:
        page = await source.find(_at(query, cursor))
        for record in page.records:
            if record.is_held and record.due_at is not None:
                held += 1
                first = first or record
                until = max(until or record.due_at, record.due_at)
        cursor = page.cursor
        if cursor is None:
            break
    if first is not None and until is not None:
        raise SagaStateError(
            f"{held} sagas are being driven at the source, the first is {first.saga_id}, which "
            f"{_driven(first)}. Stop workers and starters and try again; the last lease ends at "
            f"{until:%H:%M:%S} UTC. Or copy only what has ended (ended_only, --ended-only) or, if "
            "the workers are certainly dead, the leases as well (allow_held, --allow-held).",
            saga_id=first.saga_id,
        )


def _at(query: Query, cursor: str | None) -> Query:
    return replace(query, cursor=cursor)


def _driven(record: SagaRecord) -> str:
    return f"is being driven by {record.worker}"


def _taken(record: SagaRecord, holder: UUID | None) -> str:
    return (
        f"saga {holder} at the target is active with its aggregation_id "
        f"{record.aggregation_id!r}; copy again when that one has ended"
    )
