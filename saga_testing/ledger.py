"""The calls of a rehearsed saga's steps, in order, and what each has changed in the world."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from saga_testing.arguments import copy_of
from saga_testing.places import Action

__all__ = ["CallOutcome", "Ledger", "StepCallMade", "World"]

World = Callable[[], Any]
"""Returns what a test can see of the outside world: anything that can be copied and compared."""


class CallOutcome(StrEnum):
    """What a call of a step's method came to."""

    BEGUN = "begun"
    """It has not come back, or its driver was cancelled."""
    RETURNED = "returned"
    WAITS = "waits"
    """It has asked for an event or a sleep, and will be entered again."""
    RAISED = "raised"


@dataclass(frozen=True, slots=True)
class StepCallMade:
    """One call of a step's method. A fault before the method's code is no call."""

    action: Action
    step_id: str
    outcome: CallOutcome = CallOutcome.BEGUN
    changed: bool | None = None
    """Whether the world looked different afterwards; None if nobody looks, or cannot tell because
    another step of a parallel saga ran meanwhile."""

    def __str__(self) -> str:
        return f"{self.action} {self.step_id}: {self.outcome}"


class Ledger:
    """Notes the calls. Sagas of one environment run one after the other, so it is in order.

    Steps of a parallel saga may overlap; who of them has changed the world is not known then.
    """

    def __init__(self, world: World | None) -> None:
        self.calls: list[StepCallMade] = []
        self.views: list[tuple[Any, Any]] = []
        """The world before and after each call, as far as somebody looks at it."""
        self._world = world
        self._open: set[int] = set()
        self._overlapping: set[int] = set()
        self._lock = threading.Lock()
        """Plain `def` steps of a parallel saga note their calls in threads of their own."""
        self.blind: Exception | None = None
        """What the probe raised when it was to look beside a call."""

    def look(self) -> Any:
        """Return a copy of the world as it is; None without a probe."""
        return None if self._world is None else copy_of(self._world)

    def _glance(self) -> Any:
        """Look, and keep an error of the probe to itself: it is none of the step's."""
        try:
            return self.look()
        except Exception as error:
            self.blind = error
            return None

    def begin(self, action: Action, step_id: str) -> tuple[int, Any]:
        """Note a call; hand what is returned to `end`."""
        with self._lock:
            number = len(self.calls)
            self.calls.append(StepCallMade(action, step_id))
            self.views.append((None, None))
            self._open.add(number)
            if len(self._open) > 1:
                self._overlapping |= self._open
        before = self._glance()
        self.views[number] = (before, before)
        return number, before

    def end(self, begun: tuple[int, Any], outcome: CallOutcome) -> None:
        """Note what the call came to."""
        number, before = begun
        after = self._glance()
        with self._lock:
            self._open.discard(number)
            self.views[number] = (before, after)
            blind = self._world is None or number in self._overlapping
            changed = None if blind else bool(before != after)
            self.calls[number] = replace(self.calls[number], outcome=outcome, changed=changed)

    def span(self, first: Action, last: Action, step_id: str) -> tuple[Any, Any]:
        """Return the world before the first call of one method, and after the last of another."""
        begun = [n for n, call in enumerate(self.calls) if _is(call, first, step_id)]
        ended = [n for n, call in enumerate(self.calls) if _is(call, last, step_id)]
        return self.views[begun[0]][0], self.views[ended[-1]][1]

    def made(
        self, action: Action, step_id: str, outcome: CallOutcome | None = None
    ) -> list[StepCallMade]:
        """Return the calls of one method, of any outcome or of one."""
        return [
            call
            for call in self.calls
            if _is(call, action, step_id) and outcome in (None, call.outcome)
        ]


def _is(call: StepCallMade, action: Action, step_id: str) -> bool:
    return (call.action, call.step_id) == (action, step_id)
