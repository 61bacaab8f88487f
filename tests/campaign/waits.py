"""What a step waits for, which events have come for it, and what it must be given of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from saga_core.records import Signal
from saga_core.status import SignalKind
from tests.campaign.cast import EVENTS
from tests.campaign.plan import Outcome, WaitPlan

__all__ = ["Came", "Wait", "answers"]


@dataclass(frozen=True, slots=True)
class Came:
    """A typed event in the inbox that no step has used."""

    event_id: str
    name: str
    correlation_id: str | None
    event: Any
    text: str
    place: int
    """How many signals came before."""
    at: timedelta

    @classmethod
    def of(cls, signal: Signal, *, place: int, at: timedelta) -> Came | None:
        """Read it from a signal; None for one of another kind."""
        if signal.kind is not SignalKind.TYPED_EVENT:
            return None
        parts = json.loads(signal.payload)
        event = EVENTS[parts["type"]].model_validate_json(parts["event"])
        name, correlation_id = parts["type"], parts["correlation_id"]
        return cls(signal.event_id, name, correlation_id, event, parts["event"], place, at)


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait of the current attempt."""

    plan: WaitPlan
    began: timedelta
    is_sleep: bool

    @classmethod
    def of(cls, plan: WaitPlan, outcome: Outcome | None, began: timedelta) -> Wait:
        return cls(plan, began, outcome is Outcome.SLEEP)

    @property
    def ends(self) -> timedelta | None:
        """When it is over by itself."""
        lasts = self.plan.sleep if self.is_sleep else self.plan.timeout
        return None if lasts is None else self.began + lasts

    def fits(self, came: Came, *, late: timedelta) -> bool:
        """Tell whether an event ends it, for one whose clock is `late`."""
        if self.is_sleep or came.name not in self.plan.events:
            return False
        if self.plan.correlation_id not in (None, came.correlation_id):
            return False
        return self.ends is None or came.at - late <= self.ends


def answers(waits: Sequence[Wait], inbox: Sequence[Came], *, late: timedelta) -> list[Came | None]:
    """Return the first event that fits, for each wait in turn."""
    given: list[Came | None] = []
    for wait in waits:
        fitting = (came for came in inbox if came not in given and wait.fits(came, late=late))
        given.append(next(fitting, None))
    return given
