"""Delete what ended long ago, a little at a time, beside everything else that the store does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta

from saga_core.errors import SagaDefinitionError, SagaError
from saga_core.fitting import checked_retain
from saga_core.outage import Outage
from saga_core.records import Query
from saga_core.registry import Registry
from saga_core.status import ACTIVE
from saga_core.store import SagaStore
from saga_core.writing import to_the_end

__all__ = ["Retention"]

logger = logging.getLogger("saga_core")

BATCH = 50
"""Sagas deleted by one call: some milliseconds of a server's time."""

SHARE = 0.1
"""The share of the time in which such calls are under way, while there is anything to delete."""

MARGIN = timedelta(hours=1)
"""By how much a child must have ended before the oldest saga that might be above it began: more
than passes until it is deleted, or a store's clock is set back by."""

SHORTEST, LONGEST = 1.0, 300.0
"""Seconds between looks while there is nothing: a twentieth of what is retained, within these."""


class Retention:
    """Keeps one store's namespace free of sagas that ended longer ago than they are kept."""

    def __init__(
        self, store: SagaStore, retain: timedelta | None, registry: Registry, outage: Outage
    ) -> None:
        """`retain` is for all sagas, what a definition says for those of its name.

        Raises `SagaDefinitionError` for what makes no sense, or must not be.
        """
        self._store = store
        self._retain = checked_retain(retain)
        self._registry = registry
        self._outage = outage
        self._plan()

    async def run(self) -> None:
        """Delete for ever, until cancelled; a batch that was begun is deleted whole or not at all.

        Several workers may do this on one store: each deletes what the others have not.
        """
        while True:
            try:
                await self.round()
            except SagaDefinitionError as error:  # by what was registered since
                logger.error("nothing is deleted: %s", error)
            except SagaError as error:
                self._outage.unanswered("deleting what ended long ago", error)
            kept = [retain for _, retain in self._wishes()]
            pause = min(kept).total_seconds() / 20 if kept else LONGEST
            await asyncio.sleep(min(max(pause, SHORTEST), LONGEST))

    async def round(self) -> int:
        """Delete batch after batch until nothing is left; return how many sagas are gone."""
        deleted = 0
        for name, retain in self._plan():
            gone = await self._delete(name, retain)
            deleted += gone
            if gone:
                whose = "" if name is None else f" of '{name}'"
                logger.info("deleted %d sagas%s that ended %s ago", gone, whose, retain)
        return deleted

    async def _delete(self, name: str | None, retain: timedelta) -> int:
        loop = asyncio.get_running_loop()
        deleted = 0
        ancestors = self._registry.ancestors(name)
        while True:
            begun = loop.time()
            apart = await self._apart(ancestors)
            if apart is None:
                return deleted
            ended = max(retain, apart)
            purging = self._store.purge(finished_for=ended, limit=BATCH, saga_name=name)
            gone = await to_the_end(purging)
            deleted += gone
            if gone < BATCH:
                return deleted
            await asyncio.sleep((loop.time() - begun) * (1 / SHARE - 1))

    async def _apart(self, ancestors: Collection[str]) -> timedelta | None:
        """Return how long ago a saga must have ended so that no ancestor in flight may need it.

        What had ended when the oldest of those began is no child of theirs, nor a child's child.
        None if nobody can say.
        """
        apart = timedelta()
        for name in ancestors:
            page = await self._store.find(Query(saga_name=name, statuses=ACTIVE, limit=1))
            if page.unreadable:
                what = f"saga {page.unreadable[0]} ('{name}')"
                logger.warning("children of %s are kept: it cannot be read", what)
                return None
            for record in page.records:
                apart = max(apart, record.now - record.created_at + MARGIN)
        return apart

    def _wishes(self) -> list[tuple[str | None, timedelta]]:
        """Return whose sagas are kept how long; None for all."""
        named: list[tuple[str | None, timedelta]] = list(self._registry.retained.items())
        return named if self._retain is None else [*named, (None, self._retain)]

    def _plan(self) -> list[tuple[str | None, timedelta]]:
        """Return the same, if it can be kept. Raises `SagaDefinitionError`."""
        wishes = self._wishes()
        if wishes and not getattr(self._store, "allows_retention", True):
            raise SagaDefinitionError(
                "retain would delete rows of a table of yours: say so to the store as well, "
                "SqlSagaStore(..., allow_retention=True)"
            )
        for name, retain in wishes:
            if self._retain is not None and self._retain < retain:
                raise SagaDefinitionError(
                    f"saga '{name}' is to be kept for {retain}, and the worker would delete it "
                    f"after {self._retain}: let the worker retain all sagas at least as long"
                )
        if self._retain is None or not self._registry.ancestors(None):
            return wishes
        # By name as far as names are known: one in flight then keeps only what it may have started.
        named = dict.fromkeys(self._registry.names, self._retain) | dict(self._registry.retained)
        return [*named.items(), (None, self._retain)]
