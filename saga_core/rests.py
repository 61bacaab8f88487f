"""The rests of a saga that is being driven: what its step waits for, and what has come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from saga_core.failure import delay_of
from saga_core.happening import Decision
from saga_core.records import Due, SagaRecord, StoredSignal
from saga_core.resting import Rest, Resting, answers, is_wait, kept_retry, waits_of
from saga_core.retry import RetryPolicy
from saga_core.status import EntryKind, SagaStatus, SignalKind

__all__ = ["Rests"]

TOLERANCE = timedelta(milliseconds=5)
"""By how much the times that a store gives to the parts of one commit may differ."""


class Rests:
    """Follows the waits of the current attempt and the events that are kept for them.

    Events are given out when the step is entered, and used up by the commit with which the saga
    leaves the step. Until then a retry, and whoever takes the saga over, gets the same ones.
    """

    def __init__(
        self,
        record: SagaRecord,
        signals: Iterable[StoredSignal],
        clock: Callable[[], datetime],
    ) -> None:
        """`clock` tells the store's time, as far as it is known."""
        self.record = record
        self.clock = clock
        self._state = record.state
        self._waits: tuple[Resting, ...] | None = None
        self._kept: list[StoredSignal] = []
        self._given: list[StoredSignal] = []
        self._heard: set[str] = set()
        self.models: dict[str, type[BaseModel]] = {}
        """The models that steps have asked for under our eyes, by event name."""
        self.entered: tuple[str | None, ...] = ()
        """The ids of the events with which the step is entered, by wait, None for a sleep."""
        self.repeats = False
        """Whether the step was entered from its beginning although waits of it are over."""
        self.over: tuple[Any, ...] = ()
        """What the waits that are over have brought the step: an event each, None for a sleep."""
        self.keep(signals)

    def keep(self, signals: Iterable[StoredSignal]) -> None:
        """Hear what is new in the inbox, in its order."""
        for signal in signals:
            is_event = signal.kind is SignalKind.TYPED_EVENT and not signal.consumed
            if is_event and signal.event_id not in self._heard:
                self._kept.append(signal)
            self._heard.add(signal.event_id)
        self._kept.sort(key=lambda signal: signal.seq)

    @property
    def news(self) -> int:
        """How many of the events that are kept nobody had heard of when the saga was read."""
        return sum(signal.seq > self.record.seen for signal in self._kept)

    @property
    def kept(self) -> Sequence[StoredSignal]:
        """The events that have come and that no step has used up, in their order."""
        return self._kept

    @property
    def waits(self) -> tuple[Resting, ...]:
        """The waits of this attempt, oldest first; none in a step that rests for none of them."""
        return self.chain(self._state.waiting_for)

    @property
    def latest(self) -> Any:
        """What the last wait that is over has brought."""
        return self.over[-1] if self.over else None

    @property
    def woken(self) -> bool:
        """Whether the last wait that is over was a sleep."""
        return bool(self.over) and self.over[-1] is None

    @property
    def due(self) -> Due | None:
        """When the rest ends by time, for a commit that lets the saga go on resting."""
        ends = self.waits[-1].ends if self.waits else None
        return None if ends is None else Due(at=ends)

    def is_over(self) -> bool:
        """Tell whether the current wait has ended by its time."""
        ends = self.waits[-1].ends
        return ends is not None and ends <= self.clock() + TOLERANCE

    def retry_at(self, policy: RetryPolicy) -> datetime | None:
        """Return when the next attempt begins, if only an event has woken the saga before that.

        What the policy's jitter has taken off is not on record, so it may be that much later.
        """
        record, state = self.record, self._state
        if record.signals == record.seen or state is not record.state:
            return None
        delay = delay_of(policy, state.attempt, jitter=0.0)[0] if state.attempt else None
        resting = state.status in (SagaStatus.SUSPENDED, SagaStatus.COMPENSATING)
        if not delay or not resting or state.waiting_for is not None:
            return None
        ends = kept_retry(record) or record.updated_at + delay
        return ends if ends > self.clock() + TOLERANCE else None

    def answers(
        self, models: Mapping[str, type[BaseModel]], waits: Sequence[Resting] | None = None
    ) -> list[StoredSignal | None]:
        """Return the events that end the waits of this attempt, those that have come."""
        return answers(self.waits if waits is None else waits, self._kept, models)

    def would_be_answered(self, rest: Rest, models: Mapping[str, type[BaseModel]]) -> bool:
        """Tell whether the event that a new wait asks for is there already."""
        waits = (*self._earlier(rest), Resting(rest, self.clock()))
        return answers(waits, self._kept, models)[-1] is not None

    def knows(self, event_id: str) -> bool:
        """Tell whether a signal with this id has been heard, used or not."""
        return event_id in self._heard

    def enter(self, given: Iterable[StoredSignal | None] = (), over: Iterable[Any] = ()) -> None:
        """Note with which events the step is entered; from its beginning, with none."""
        events = list(given)
        self._given = [signal for signal in events if signal is not None]
        self.entered = tuple(None if signal is None else signal.event_id for signal in events)
        self.over = tuple(over)

    @property
    def given(self) -> tuple[StoredSignal, ...]:
        """The events with which the step was entered."""
        return tuple(self._given)

    def chain(self, waiting_for: str | None) -> tuple[Resting, ...]:
        """Return the waits of a step that is `waiting_for` this, oldest first."""
        if not is_wait(waiting_for):
            return ()
        if self._waits is None:
            self._waits = waits_of(self.record)
        return self._waits

    def applied(self, decision: Decision, consumed: Collection[str]) -> None:
        """Follow a commit of ours, and forget the events that it has used up."""
        if consumed:
            self._kept = [signal for signal in self._kept if signal.event_id not in consumed]
        for entry in decision.history:
            if entry.kind is EntryKind.WAITING:
                rest = Rest.decode(entry.output or "")
                self._waits = (*self._earlier(rest), Resting(rest, self.clock()))
        self._state = decision.state
        self._given = []
        self.entered = ()
        self.over = ()
        self.repeats = False

    def _earlier(self, rest: Rest) -> tuple[Resting, ...]:
        return self.waits[: rest.number]
