"""Where a page of sagas ends, as opaque text: `Page.cursor` and `Query.cursor`.

For stores that list by creation and id. A cursor is a place, not a number of rows, so it stays
good while sagas come and go.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

from saga_core.errors import PayloadError
from saga_core.records import SagaRecord

__all__ = ["cursor_at", "cursor_of", "read_cursor"]


def cursor_of(last: SagaRecord) -> str:
    """Return the cursor of a page that ends with this saga."""
    return cursor_at(last.created_at, last.saga_id)


def cursor_at(created_at: datetime, saga_id: UUID) -> str:
    """Return the cursor of a page that ends with a saga of this id, created at that time."""
    return json.dumps([created_at.isoformat(), str(saga_id)])


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Return when the last saga of the page was created (UTC), and its id.

    Raises `PayloadError` for all that `cursor_of` cannot have written: a cursor comes from outside.
    """
    try:
        created_at, saga_id = json.loads(cursor)
        moment, place = datetime.fromisoformat(created_at), UUID(saga_id)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return moment.astimezone(UTC), place
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PayloadError("the cursor is not one that an earlier page gave") from None
