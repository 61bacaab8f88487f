"""How a saga may go: what each entry of its history needs, and where it leaves the saga.

The rules are written down anew from what the library promises, not taken from its code: a new
kind of entry gets a method of its name in `forward`, `backward` or `asking`.
"""

from __future__ import annotations

from collections.abc import Iterator

from saga_core.records import NewEntry, SagaState
from saga_core.status import EntryKind
from tests.campaign.asking import Requests
from tests.campaign.backward import Backward
from tests.campaign.cast import FIRST
from tests.campaign.forward import Forward
from tests.campaign.ledger import Began
from tests.campaign.plan import Act
from tests.campaign.standing import Execution, slip_of

__all__ = ["Course"]


class Course(Forward, Backward, Requests):
    """Follows a saga from entry to entry, and judges what runs in between."""

    is_busy = False
    """Whether a step runs beside the one that begins."""

    def begins(self, began: Began) -> Iterator[str]:
        """Judge a step that its rightful driver entered."""
        what = began.what
        if self.rest is not None:
            yield f"{what} ran although the saga was {self.rest}"
            return
        if self.paused:
            yield f"{what} ran although the saga was paused"
            return
        if began.act is Act.DO and self.rolling:
            yield f"{what} ran forward after the rollback had begun"
            return
        if began.step != self.current or began.act is not self.next_act:
            yield f"{what} ran, but {self.next_act} {self.current} was next ({self.status})"
            return
        if began.context.attempt != self.failed + 1:
            yield f"{what} was told attempt {began.context.attempt} instead of {self.failed + 1}"
        if began.act is Act.DO:
            yield from self._timely(what)
            yield from self._given(began)
        else:
            yield from self._given_back(began)
        if self.waits:
            yield from self.enters_again(began)
            return
        if began.context.waits or began.context.events:
            yield f"{what} was told of waits that are over, although it has not waited"
        seen = began.context.event
        if (0 if seen is None else seen["n"]) != self.event:
            yield f"{what} was shown event {seen} instead of {self.event}"

    def ends(self, serial: int) -> None:
        """Follow an execution to its end."""

    def changes_hands(self) -> None:
        """Follow the saga to another driver."""

    def work_of(self, began: Began) -> tuple[object, ...]:
        """Return what must have one idempotency key, and no other work that one."""
        # A probe asks for what was done, by the key that it was done with.
        act = Act.DO if began.act is Act.PROBE else began.act
        thing = None if began.act is Act.DO else self.undoing
        run = self.run if thing is None else thing.run
        return (began.step, act, run, began.after, began.event)

    def token_of(self, began: Began, state: SagaState) -> object:
        """Return the token that a step must be shown."""
        return state.token

    def _timely(self, what: str) -> Iterator[str]:
        if self.ahead:
            yield f"{what} ran, but the saga has not begun"
        if self.limit is not None and self.earliest >= self.limit:
            yield f"{what} ran although the saga's deadline had passed"

    def _given(self, began: Began) -> Iterator[str]:
        if self.position in self.edited:
            if (began.after, began.event) != self.edited[self.position]:
                yield f"{began.what} was given {began.after} instead of what a person gave"
            return
        after = FIRST if began.step == 0 else self.done[began.step - 1][1]
        if began.after != after:
            yield f"{began.what} was given {began.after} instead of the output {after} before it"
        rooted = began.step == 0 or self.plan.steps[began.step].rooted
        event = self.event if rooted else 0
        if began.event != event:
            yield f"{began.what} was given event {began.event} instead of {event}"

    def _given_back(self, began: Began) -> Iterator[str]:
        thing = self.undoing
        assert thing is not None
        if began.out != thing.serial:
            yield f"{began.what} was given output {began.out} instead of {thing.serial}"
        if slip_of(thing.given) != (began.after, began.event):
            yield f"{began.what} was given another input than the one on record"

    def enters(self, entry: NewEntry, last: Execution | None) -> Iterator[str]:
        """Judge an entry and follow it. `last` is what its writer ran last."""
        ended = self.rest is not None and self.rest.is_terminal
        if ended and entry.kind not in _AFTER_THE_END:
            yield f"{entry.kind} was recorded after the saga was {self.rest}"
        step = None if self.current is None else f"step_{self.current}"
        if entry.step_id != step and entry.kind not in _ANYWHERE:
            yield f"{entry.kind} was recorded for {entry.step_id}, but {step} was next"
        yield from getattr(self, f"_{entry.kind.value}")(entry, last)
        if entry.kind is not EntryKind.SUSPECTED:
            self.suspicions = 0
            self.takeovers = 0


_AFTER_THE_END = (
    EntryKind.RETRY_REQUESTED,
    EntryKind.COMPENSATION_REQUESTED,
    EntryKind.REVIVED,
    EntryKind.COMMAND_IGNORED,
    EntryKind.DEADLINE,
    EntryKind.MAYBE_DONE,
    EntryKind.VOIDED,
    EntryKind.WENT_BACK,
)
_ANYWHERE = (
    EntryKind.SCHEDULED,
    EntryKind.DEADLINE,
    EntryKind.COMPENSATION_REQUESTED,
    EntryKind.REVIVED,
    EntryKind.ABORTED,
    EntryKind.COMMAND_IGNORED,
    EntryKind.VOIDED,
    EntryKind.WENT_BACK,
)
