"""Events that are sent to a rehearsed saga when it comes to wait for them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from saga_core.awaiting import event_name
from saga_core.records import SagaRecord
from saga_core.resting import EVENT, Rest, wait_of

__all__ = ["Script", "awaited"]


class Script:
    """The events that are left. Each is given out once, when a saga waits for one of its type."""

    def __init__(self, events: Sequence[BaseModel]) -> None:
        self._left = list(events)

    def take(self, record: SagaRecord) -> BaseModel | None:
        """Return the first event that the saga waits for, if there is one left."""
        wait = awaited(record)
        if wait is None:
            return None
        for number, event in enumerate(self._left):
            if event_name(type(event)) in wait.events:
                return self._left.pop(number)
        return None


def awaited(record: SagaRecord) -> Rest | None:
    """Return what the saga waits for, if that is an event."""
    if not (record.state.waiting_for or "").startswith(EVENT):
        return None
    wait = wait_of(record)
    return None if wait is None else wait.rest
