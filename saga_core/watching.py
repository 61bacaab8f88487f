"""Who waits in this process for a saga to be left by its driver."""

from __future__ import annotations

import asyncio
from uuid import UUID

__all__ = ["Watchers"]


class Watchers:
    """Events by saga, each set whenever a driver of ours leaves the saga."""

    def __init__(self) -> None:
        self._events: dict[UUID, set[asyncio.Event]] = {}

    def watch(self, saga_id: UUID) -> asyncio.Event:
        """Return an event that is set from now on, until `unwatch`."""
        event = asyncio.Event()
        self._events.setdefault(saga_id, set()).add(event)
        return event

    def unwatch(self, saga_id: UUID, event: asyncio.Event) -> None:
        """Forget an event."""
        watchers = self._events.get(saga_id)
        if watchers is not None:
            watchers.discard(event)
            if not watchers:
                del self._events[saga_id]

    def announce(self, saga_id: UUID) -> None:
        """Set the events of a saga."""
        for event in self._events.get(saga_id, ()):
            event.set()
