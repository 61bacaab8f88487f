"""The rules of waits: when one begins, what ends it, and which events are used up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from saga_core.records import NewEntry, Transition
from saga_core.status import EntryKind, SagaStatus
from tests.campaign.cast import DEFAULT
from tests.campaign.ledger import Began
from tests.campaign.plan import Outcome
from tests.campaign.standing import Execution, Standing
from tests.campaign.waits import Came, Wait, answers

__all__ = ["IN_VAIN", "Waiting"]

IN_VAIN = "WaitTimedOutError"


class Waiting(Standing):
    # --- entries --------------------------------------------------------------------------------

    def _waiting(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        yield from self.backed(entry, last, Outcome.WAIT, Outcome.SLEEP)
        yield from self.counted(entry, self.failed + 1)
        over = 0 if last is None else last.began.context.waits
        outcome = None if last is None else last.outcome
        wait = Wait.of(self.step.wait, outcome, self.latest)
        self.waits = [*self.waits[:over], wait]
        self.until = wait.ends
        if wait.is_sleep:
            self.waiting = True
            return
        heard = [came for came in self.inbox if came.place < self.heard]
        self.waiting = self.answer_among(heard, surely=True) is None
        self.unsure = self.waiting and self.answer_among(self.inbox) is not None

    def _woken(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        if not self.waits:
            yield f"{entry.step_id} was woken, but it did not wait"
        elif self.answer_among(self.inbox) is None:
            yield f"{entry.step_id} was woken, but what it waits for has not come"
        self.waiting = False
        self.until = None

    # --- how a wait ends ------------------------------------------------------------------------

    def comes_in_time(self) -> Iterator[str]:
        """Judge an event that `notify` brought to a step that waits for one."""
        ends = self.waits[-1].ends
        if self.status not in (SagaStatus.SUSPENDED, SagaStatus.COMPENSATING):
            yield f"an event was taken while the saga was {self.status}"
        if ends is not None and self.earliest > ends:
            yield f"an event was taken for a wait that was over at {ends}"
        self.waiting = False
        self.until = None

    def times_out(self, entry: NewEntry, *words: str) -> Iterator[str]:
        """Judge that a wait ended by its time."""
        if not self.waits or self.waits[-1].is_sleep:
            yield f"{entry.step_id} waited in vain, but it did not wait for an event"
            return
        ends = self.waits[-1].ends
        if ends is None or self.latest < ends:
            yield f"{entry.step_id} waited in vain at {self.latest}, its wait ends at {ends}"
        heard = [came for came in self.inbox if came.place < self.heard]
        if self.answer_among(heard, surely=True) is not None:
            yield f"{entry.step_id} waited in vain, but what it waits for has come"
        if self.step.wait.on_timeout not in words:
            yield f"{entry.kind} was recorded for a wait that ends in {self.step.wait.on_timeout}"

    def goes_on_in_vain(self, entry: NewEntry) -> Iterator[str]:
        """Judge that a saga goes on with the default output of a wait."""
        yield from self.times_out(entry, "output")
        if json.loads(entry.output or "{}").get("serial") != DEFAULT + self.position:
            yield "a wait that ended by its time has another output than its default"

    def enters_again(self, began: Began) -> Iterator[str]:
        """Judge what a step is shown that is entered after its waits."""
        wait, context = self.waits[-1], began.context
        wanted = [self._shown(answers(self.waits, self.inbox, late=late)) for late in self._lates]
        shown = (context.waits, context.woken, context.event, context.events)
        if wait.is_sleep and wait.ends is not None and self.latest < wait.ends:
            yield f"{began.what} was entered at {self.latest}, but sleeps until {wait.ends}"
        elif not wait.is_sleep and self.answer_among(self.inbox) is None:
            yield f"{began.what} was entered, but what it waits for has not come"
        elif shown not in wanted:
            yield f"{began.what} was shown {shown} of its waits instead of {wanted[0]}"

    def _shown(self, given: list[Came | None]) -> tuple[object, ...]:
        events = tuple(came.event for came in given if came is not None)
        last = given[-1]
        sleeps = self.waits[-1].is_sleep
        return len(self.waits), sleeps, None if last is None else last.event, events

    @property
    def _lates(self) -> list[timedelta]:
        return list(dict.fromkeys([timedelta(0), self.latest - self.earliest]))

    def answer_among(self, inbox: list[Came], *, surely: bool = False) -> Came | None:
        """Return what ends the current wait, or may end it for one whose clock is late.

        `surely` if it ends the wait by either clock: by a late one it may be an earlier wait's.
        """
        if not self.waits:
            return None
        ends = [answers(self.waits, inbox, late=late)[-1] for late in self._lates]
        return ends[-1] if not surely or None not in ends else None

    def is_early(self, began: Began) -> bool:
        """Tell whether a step is entered with an event that was there before it asked for one."""
        if not self.waits or not began.context.waits:
            return False
        came = self.answer_among(self.inbox)
        return came is not None and came.at < self.waits[-1].began

    # --- what is used up ------------------------------------------------------------------------

    def uses(self, change: Transition) -> Iterator[str]:
        """Judge, before its entries are followed, which events a commit uses up."""
        used = {came.event_id for came in self.inbox if came.event_id in change.consumed}
        may = [
            {came.event_id for came in answers(self.waits, self.inbox, late=late) if came}
            for late in self._lates
        ]
        ids = set().union(*may)
        if used - ids:
            yield f"events {sorted(used - ids)} were used up, but given to no step"
        ends = [each for each in change.history if each.kind in _ENDS]
        if ends and used not in may:
            yield f"{ends[0].step_id} was given events {sorted(ids - used)} and did not use them up"


_ENDS = (EntryKind.COMPLETED, EntryKind.COMPENSATED)
"""With these a step is done with what it was given."""
