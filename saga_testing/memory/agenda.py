"""When which saga is due: a heap per lane, so that claims do not look at every saga."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID

from saga_core.status import Direction

__all__ = ["Agenda"]

_Item = tuple[datetime, int, UUID]


class Agenda:
    """The `due_at` of each saga of a namespace. Outdated heap items are dropped when met."""

    def __init__(self) -> None:
        self._current: dict[UUID, tuple[datetime, Direction, int]] = {}
        self._heaps: dict[Direction, list[_Item]] = {lane: [] for lane in Direction}
        self._serial = count()

    def put(self, saga_id: UUID, due_at: datetime | None, lane: Direction) -> None:
        """Note when the saga is due; None takes it off."""
        if due_at is None:
            self._current.pop(saga_id, None)
            return
        known = self._current.get(saga_id)
        if known is not None and known[:2] == (due_at, lane):
            return
        serial = next(self._serial)
        self._current[saga_id] = (due_at, lane, serial)
        heapq.heappush(self._heaps[lane], (due_at, serial, saga_id))

    def due(self, lane: Direction, now: datetime) -> Iterator[UUID]:
        """Yield the sagas that are due at `now`, oldest first."""
        heap = self._heaps[lane]
        taken: list[_Item] = []
        try:
            while heap and heap[0][0] <= now:
                item = heapq.heappop(heap)
                if self._is_current(item):
                    taken.append(item)
                    yield item[2]
        finally:
            for item in taken:
                heapq.heappush(heap, item)

    def next_after(self, now: datetime) -> timedelta | None:
        """Return how long it is until some saga falls due, or None if none will."""
        times = []
        for lane, heap in self._heaps.items():
            while heap and not self._is_current(heap[0]):
                heapq.heappop(heap)
            first = next((item for item in self._upcoming(lane, now)), None)
            if first is not None:
                times.append(first)
        return min(times) - now if times else None

    def _upcoming(self, lane: Direction, now: datetime) -> Iterator[datetime]:
        heap = self._heaps[lane]
        if heap and heap[0][0] > now:
            yield heap[0][0]
            return
        later = [due for due, owner, _ in self._current.values() if owner is lane and due > now]
        if later:
            yield min(later)

    def _is_current(self, item: _Item) -> bool:
        due_at, serial, saga_id = item
        known = self._current.get(saga_id)
        return known is not None and known[0] == due_at and known[2] == serial
