"""Listing, counting, purging and moving sagas, by indexes and in bounded pieces."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

from saga_backends.redis.answers import entry_of, record_of, saga_id_of, signals_of
from saga_backends.redis.arguments import listed, optional, restore_arguments
from saga_backends.redis.calling import ScriptCalls
from saga_backends.redis.moments import instant, micros, moment
from saga_core.cursor import cursor_of, read_cursor
from saga_core.errors import SagaStateError, SchemaError
from saga_core.records import Page, Query, SagaExport, SagaRecord
from saga_core.store import checked_purge

__all__ = ["RedisCatalog"]

logger = logging.getLogger("saga_backends.redis")

LOOK = 500
"""How many sagas one script looks at: some 5 ms of the server's time."""
PURGE = 25
"""How many sagas one script deletes: some 2 ms of the server's time, more if they are long."""

_Place = tuple[str, str]


class RedisCatalog(ScriptCalls):
    """The `Catalog` half of the store."""

    async def find(self, query: Query) -> Page:
        """Return a page of the sagas that match; see `Catalog.find`.

        A query with several conditions walks along the smallest index, in as many bounded
        scripts as the page needs. What cannot be read is told in the page, and in the log.
        """
        records: list[SagaRecord] = []
        unreadable: list[tuple[int, UUID]] = []
        place = None if query.cursor is None else _place_of(query.cursor)
        wanted = query.limit + 1
        while len(records) < wanted:
            answer = await self._look(query, place, wanted - len(records), "rows")
            now = moment(answer[1])
            for at in range(5, len(answer), 2):
                try:
                    records.append(record_of(saga_id_of(answer[at]), answer[at + 1], now=now))
                except SchemaError as error:
                    logger.warning("%s: passed over in a list: %s", self._where, error)
                    if error.saga_id is not None:
                        unreadable.append((len(records), error.saga_id))
            if not answer[2]:
                break
            place = (answer[2], answer[3])
        page = tuple(records[: query.limit])
        more = len(records) > query.limit
        # Those behind the last of this page come with the next.
        told = tuple(saga_id for at, saga_id in unreadable if at < len(page) or not more)
        cursor = cursor_of(page[-1]) if more and page else None
        return Page(records=page, cursor=cursor, unreadable=told)

    async def count(self, query: Query) -> int:
        """Return how many match; see `Catalog.count`. One condition is counted by its index."""
        conditions = _conditions(query)
        timed = query.created_after is not None or query.created_before is not None
        if query.overdue_by is None and len(conditions) <= 1:
            facts = conditions[0] if conditions else ["created"]
            return await self._count(query, facts)
        if query.overdue_by is not None and not conditions and not timed:
            return await self._count(query, [])
        found = 0
        place: _Place | None = None
        while True:
            answer = await self._look(query, place, LOOK, "count")
            found += int(answer[4])
            if not answer[2]:
                return found
            place = (answer[2], answer[3])

    async def purge(
        self, *, finished_for: timedelta, limit: int, saga_name: str | None = None
    ) -> int:
        """Delete ended sagas, a bounded number per script; see `Catalog.purge`.

        If an answer is lost, what was deleted with it is not counted.
        """
        finished_for, limit = checked_purge(finished_for, limit, saga_name)
        purged = passed = 0
        left = limit
        while left > 0:
            size = min(left, PURGE)
            arguments = [micros(finished_for), size, optional(saga_name), passed]
            _, deleted, seen, kept = await self._run("purge", arguments)
            purged += int(deleted)
            passed += int(kept)
            left -= int(seen) - int(kept)
            if int(seen) < size:
                break
        return purged

    async def export(self, saga_id: UUID) -> SagaExport:
        """Return everything about one saga, by one script; see `Catalog.export`."""
        _, now, row, entries, signals, consumed = await self._run("export", [str(saga_id)], saga_id)
        history = [entry_of(seq, text) for seq, text in enumerate(entries, start=1)]
        outputs = tuple(entry for entry, _ in history if entry.output is not None)
        return SagaExport(
            record=record_of(saga_id, row, now=moment(now), outputs=outputs),
            history=tuple(entry for entry, _ in history),
            commit_ids=tuple(commit_id for _, commit_id in history),
            inbox=tuple(signals_of(signals, consumed, 0)),
        )

    async def restore(self, export: SagaExport) -> None:
        """Write an exported saga as it was, by one script; see `Catalog.restore`."""
        saga_id = export.record.saga_id
        answer = await self._run("restore", restore_arguments(export, self._write_id()), saga_id)
        if answer[0] == "exists":
            raise SagaStateError(
                f"saga {saga_id} exists already in namespace '{self.namespace}'", saga_id=saga_id
            )

    async def _count(self, query: Query, facts: list[str]) -> int:
        answer = await self._run("count", [*_times(query), *listed(facts)])
        return int(answer[1])

    async def _look(self, query: Query, place: _Place | None, want: int, how: str) -> list[Any]:
        conditions = _conditions(query)
        created, saga_id = place or (None, "")
        return await self._run(
            "find",
            [
                *(LOOK, want, optional(created), saga_id),
                *_times(query),
                len(conditions),
                *(part for facts in conditions for part in listed(facts)),
                how,
            ],
        )


def _times(query: Query) -> list[str]:
    after, before, overdue = query.created_after, query.created_before, query.overdue_by
    return [
        optional(None if after is None else instant(after)),
        optional(None if before is None else instant(before)),
        optional(None if overdue is None else micros(overdue)),
    ]


def _conditions(query: Query) -> list[list[str]]:
    """Return, for each condition, the facts of which a saga that matches has one."""
    conditions = []
    if query.statuses:
        conditions.append([f"status:{status.value}" for status in dict.fromkeys(query.statuses)])
    for fact, wanted in (
        ("name", query.saga_name),
        ("definition", query.definition_version),
        ("aggregate", query.aggregation_id),
        ("tag", query.tag),
        ("error", query.error_code),
    ):
        if wanted is not None:
            conditions.append([f"{fact}:{wanted}"])
    return conditions


def _place_of(cursor: str) -> _Place:
    created_at, saga_id = read_cursor(cursor)
    return str(instant(created_at)), str(saga_id)
