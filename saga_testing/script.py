"""What comes to a rehearsed saga from outside, when it comes to wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import BaseModel

from saga_core.awaiting import event_name
from saga_core.branches import standing
from saga_core.errors import SagaDefinitionError
from saga_core.records import SagaRecord
from saga_core.resting import EVENT, Rest, wait_of

if TYPE_CHECKING:
    from saga_testing.environment import SagaEnv

__all__ = ["Script", "ScriptPart", "awaited"]

ScriptPart = BaseModel | Callable[["SagaEnv"], Awaitable[object]]
"""An event, or what is to be done while the saga rests; False says that it is too early for it."""


class Script:
    """The parts that are left.

    An event is given out once, when a saga waits for one of its type. A function's turn comes, once
    what stands before it is done, whenever the saga rests, until it returns something else than
    False.
    """

    def __init__(self, parts: Sequence[ScriptPart]) -> None:
        """Raises `SagaDefinitionError` for what is neither."""
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise SagaDefinitionError(
                f"events= takes a list of events and functions, got {parts!r}"
            )
        for part in parts:
            if not isinstance(part, BaseModel) and (isinstance(part, type) or not callable(part)):
                raise SagaDefinitionError(
                    f"events= takes instances of event models, and functions, got {part!r}"
                )
        self._left = list(parts)

    async def play(self, env: SagaEnv) -> bool:
        """Let the first part do its work if that is a function; True if it has."""
        if not self._left or isinstance(self._left[0], BaseModel):
            return False
        if await self._left[0](env) is False:
            return False
        self._left.pop(0)
        return True

    def take(self, record: SagaRecord) -> BaseModel | None:
        """Return the first event that the saga waits for, if there is one left."""
        names = {name for wait in awaited(record) for name in wait.events}
        for number, event in enumerate(self._left):
            if isinstance(event, BaseModel) and event_name(type(event)) in names:
                del self._left[number]
                return event
        return None


def awaited(record: SagaRecord) -> list[Rest]:
    """Return the events that the saga waits for: one at most, unless it is parallel."""
    branches = [branch.state for branch in standing(record).values() if branch.rests]
    waits = []
    for state in branches or [record.state]:
        if (state.waiting_for or "").startswith(EVENT):
            wait = wait_of(replace(record, state=state))
            waits += [] if wait is None else [wait.rest]
    return waits
