"""Many rows to records: one that cannot be read is told, and hides no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from saga_core.cursor import cursor_at
from saga_core.errors import SchemaError
from saga_core.records import Page, SagaRecord

__all__ = ["page_of", "readable"]

logger = logging.getLogger("saga_backends.sql")


def readable(
    rows: Sequence[Any], read: Callable[[Any], SagaRecord], id_of: Callable[[Any], UUID]
) -> tuple[tuple[SagaRecord, ...], tuple[UUID, ...]]:
    """Return the records of the rows that `read` can read, and the ids of the others.

    These, which another program or a later version has written, are logged.
    """
    records: list[SagaRecord] = []
    unreadable: list[UUID] = []
    for row in rows:
        try:
            records.append(read(row))
        except SchemaError as error:
            logger.warning("passed over: %s", error)
            unreadable.append(id_of(row))
    return tuple(records), tuple(unreadable)


def page_of(
    rows: Sequence[Any],
    limit: int,
    read: Callable[[Any], SagaRecord],
    place: Callable[[Any], tuple[datetime, UUID]],
) -> Page:
    """Return the page of up to `limit` rows; one row more says that there is a further page.

    `place` says when a row's saga was created, and its id.
    """
    records, unreadable = readable(rows[:limit], read, lambda row: place(row)[1])
    cursor = cursor_at(*place(rows[limit - 1])) if len(rows) > limit else None
    return Page(records=records, cursor=cursor, unreadable=unreadable)
