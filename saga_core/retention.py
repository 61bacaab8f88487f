"""Delete what ended long ago, a little at a time, beside everything else that the store does."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from saga_core.errors import SagaDefinitionError, SagaError
from saga_core.outage import Outage
from saga_core.store import SagaStore
from saga_core.writing import to_the_end

__all__ = ["Retention", "check_retain"]

logger = logging.getLogger("saga_core")

BATCH = 50
"""Sagas deleted by one call: some milliseconds of a server's time."""

SHARE = 0.1
"""The share of the time in which such calls are under way, while there is anything to delete."""

SHORTEST, LONGEST = 1.0, 300.0
"""Seconds between looks while there is nothing: a twentieth of what is retained, within these."""


def check_retain(retain: object, store: SagaStore) -> timedelta | None:
    """Return for how long ended sagas are kept; None for ever. Raises `SagaDefinitionError`."""
    if retain is None:
        return None
    if not isinstance(retain, timedelta) or retain <= timedelta(0):
        raise SagaDefinitionError(
            f"retain must be a timedelta above zero, or None to keep all sagas, got {retain!r}"
        )
    if not getattr(store, "allows_retention", True):
        raise SagaDefinitionError(
            "retain would delete rows of a table of yours: say so to the store as well, "
            "SqlSagaStore(..., allow_retention=True)"
        )
    return retain


class Retention:
    """Keeps one store's namespace free of sagas that ended longer ago than `retain`."""

    def __init__(self, store: SagaStore, retain: timedelta, outage: Outage) -> None:
        self._store = store
        self._retain = retain
        self._outage = outage
        self._pause = min(max(retain.total_seconds() / 20, SHORTEST), LONGEST)

    async def run(self) -> None:
        """Delete for ever, until cancelled; a batch that was begun is deleted whole or not at all.

        Several workers may do this on one store: each deletes what the others have not.
        """
        while True:
            try:
                deleted = await self.round()
            except SagaError as error:
                self._outage.unanswered("deleting what ended long ago", error)
            else:
                if deleted:
                    logger.info("deleted %d sagas that ended %s ago", deleted, self._retain)
            await asyncio.sleep(self._pause)

    async def round(self) -> int:
        """Delete batch after batch until nothing is left; return how many sagas are gone."""
        loop = asyncio.get_running_loop()
        deleted = 0
        while True:
            begun = loop.time()
            purging = self._store.purge(finished_for=self._retain, limit=BATCH)
            gone = await to_the_end(purging)
            deleted += gone
            if gone < BATCH:
                return deleted
            await asyncio.sleep((loop.time() - begun) * (1 / SHARE - 1))
