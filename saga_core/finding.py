"""What an operator may ask for, and the pages he gets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypedDict
from uuid import UUID

from saga_core.errors import ActiveSagaAlreadyExistsError, PayloadError, QueryError
from saga_core.names import check_label
from saga_core.records import Query, SagaRecord
from saga_core.snapshot import SagaSnapshot
from saga_core.status import ACTIVE, SagaStatus
from saga_core.store import SagaStore

__all__ = [
    "Conditions",
    "SagaPage",
    "all_pages",
    "check_turn",
    "find_page",
    "holder_of",
    "kept_from",
    "query_of",
]

LARGEST_PAGE = 1000

LONGEST_OVERDUE = timedelta(days=36_500)
"""Some stores count back from now, and no calendar begins before the year 1."""


class Conditions(TypedDict, total=False):
    """What sagas are found by. Those that are given must all hold; none given means all sagas."""

    status: SagaStatus | str | Collection[SagaStatus | str] | None
    """As the store holds it; of several, any. A suspended saga that is being retried is found as
    SUSPENDED, though its snapshot says RUNNING."""
    name: str | None
    version: str | None
    aggregation_id: str | None
    tag: str | None
    error_code: str | None
    """The type name of the last error, such as "ValueError"."""
    created_after: datetime | None
    """Later than this time, which has a zone."""
    created_before: datetime | None
    """Earlier than this time, which has a zone."""
    overdue_by: timedelta | None
    """Due, or with an expired lease, for at least this long; zero for whatever is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaPage:
    """Some of the sagas that were asked for, by creation, oldest first (ties by id)."""

    sagas: tuple[SagaSnapshot, ...]
    """Their `outputs` are left empty, and `initial_data` is None where it cannot be read:
    `get_saga` has both, or says why not."""
    cursor: str | None
    """For the next page, opaque; None on the last."""


def query_of(
    *,
    status: SagaStatus | str | Collection[SagaStatus | str] | None = None,
    name: str | None = None,
    version: str | None = None,
    aggregation_id: str | None = None,
    tag: str | None = None,
    error_code: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    overdue_by: timedelta | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Query:
    """Return what a store is asked. Raises `QueryError` for what makes no sense."""
    for value, what in (
        (name, "name"),
        (version, "version"),
        (aggregation_id, "aggregation_id"),
        (tag, "tag"),
        (error_code, "error_code"),
    ):
        try:
            check_label(value, what)
        except PayloadError as error:
            raise QueryError(str(error)) from None
    _check_time(created_after, "created_after")
    _check_time(created_before, "created_before")
    _check_duration(overdue_by)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LARGEST_PAGE:
        raise QueryError(f"limit must be a whole number from 1 to {LARGEST_PAGE}, got {limit!r}")
    if cursor is not None and not isinstance(cursor, str):
        raise QueryError(f"cursor must be what the page before gave, got {type(cursor).__name__}")
    return Query(
        statuses=_statuses(status),
        saga_name=name,
        definition_version=version,
        aggregation_id=aggregation_id,
        tag=tag,
        error_code=error_code,
        created_after=created_after,
        created_before=created_before,
        overdue_by=overdue_by,
        limit=limit,
        cursor=cursor,
    )


async def find_page(store: SagaStore, query: Query) -> SagaPage:
    """Return the page. Raises `QueryError` for a cursor that no page gave."""
    try:
        page = await store.find(query)
    except PayloadError as error:
        raise QueryError(str(error)) from error
    return SagaPage(sagas=tuple(map(_snapshot, page.records)), cursor=page.cursor)


async def all_pages(store: SagaStore, query: Query) -> AsyncGenerator[SagaSnapshot, None]:
    """Yield the sagas one by one, one page in memory at a time."""
    while True:
        page = await find_page(store, query)
        for saga in page.sagas:
            yield saga
        if page.cursor is None:
            return
        query = replace(query, cursor=page.cursor)


def _snapshot(record: SagaRecord) -> SagaSnapshot:
    try:
        return SagaSnapshot.of(record)
    except PayloadError:
        # One saga that cannot be read must not hide the others on its page.
        return SagaSnapshot.of(replace(record, data="null"))


def _statuses(status: object) -> tuple[SagaStatus, ...]:
    if status is None:
        return ()
    if isinstance(status, str):  # a SagaStatus is one, too
        return (_status(status),)
    if not isinstance(status, Collection):
        raise QueryError(f"status must be a SagaStatus or several, got {status!r}")
    if not status:
        raise QueryError("status is empty, so nothing could match: leave it out for any status")
    return tuple(dict.fromkeys(map(_status, status)))


def _status(value: object) -> SagaStatus:
    try:
        return SagaStatus(value)  # type: ignore[arg-type]
    except ValueError:
        raise QueryError(f"{value!r} is no status; these are: {', '.join(SagaStatus)}") from None


def _check_time(value: object, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, datetime):
        raise QueryError(f"{what} must be a datetime, got {value!r}")
    if value.utcoffset() is None:
        raise QueryError(f"{what} needs a time zone, such as datetime.now(UTC); got {value!r}")


def _check_duration(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, timedelta) or not timedelta(0) <= value <= LONGEST_OVERDUE:
        raise QueryError(
            f"overdue_by must be a timedelta from zero to {LONGEST_OVERDUE.days} days, "
            f"got {value!r}"
        )


async def holder_of(store: SagaStore, aggregation_id: str | None) -> UUID | None:
    """Return the active saga that holds an aggregate, if one does."""
    async for record in _unfinished(store, aggregation_id):
        if record.state.active:
            return record.saga_id
    return None


async def kept_from(store: SagaStore, record: SagaRecord) -> tuple[UUID | None, UUID | None]:
    """Return who holds the aggregate that a saga needs to go on, and who is first in its queue.

    The store is asked only for a saga that is queued, or that is FAILED and has let go of one.
    """
    if record.state.is_queued:
        return await _queue_before(store, record)
    if record.state.status is SagaStatus.FAILED and record.aggregation_id is not None:
        return await holder_of(store, record.aggregation_id), None
    return None, None


async def _queue_before(store: SagaStore, queued: SagaRecord) -> tuple[UUID | None, UUID | None]:
    holder: UUID | None = None
    first: UUID | None = None
    async for record in _unfinished(store, queued.aggregation_id):
        if record.state.active:
            holder = record.saga_id
        elif first is None and record.state.is_queued:
            first = record.saga_id
        if holder is not None and first is not None:
            break
    return holder, first


async def check_turn(store: SagaStore, record: SagaRecord) -> None:
    """Raise `ActiveSagaAlreadyExistsError` for a queued saga that others are before.

    The store checks that itself in a commit that takes the aggregate, but one that ends the saga
    takes nothing.
    """
    if not record.state.is_queued:
        return
    holder, first = await _queue_before(store, record)
    before = first if holder is None else holder
    if before not in (None, record.saga_id):
        raise ActiveSagaAlreadyExistsError(
            f"aggregate '{record.aggregation_id}': saga {before} is before saga {record.saga_id}",
            saga_id=before,
        )


async def _unfinished(
    store: SagaStore, aggregation_id: str | None
) -> AsyncGenerator[SagaRecord, None]:
    query = Query(aggregation_id=aggregation_id, statuses=ACTIVE)
    while True:
        page = await store.find(query)
        for record in page.records:
            yield record
        if page.cursor is None:
            return
        query = replace(query, cursor=page.cursor)
