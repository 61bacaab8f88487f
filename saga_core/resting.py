"""What a saga rests for, as an entry of its history keeps it, and what ends the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from saga_core.awaiting import AwaitEvent, Sleep, event_name
from saga_core.codec import PayloadCodec, PayloadLimits, decode_json, encode_json
from saga_core.errors import PayloadError, TypeValidationError
from saga_core.events import TypedEvent
from saga_core.names import check_label
from saga_core.records import Due, SagaRecord, StoredSignal
from saga_core.status import EntryKind

__all__ = [
    "EVENT",
    "SLEEP",
    "Rest",
    "Resting",
    "answers",
    "is_wait",
    "kept_retry",
    "wait_of",
    "waits_of",
]

logger = logging.getLogger("saga_core")

SLEEP = "sleep"
EVENT = "event:"


@dataclass(frozen=True, slots=True)
class Rest:
    """What a step waits for. The text of a `WAITING` entry's output."""

    events: tuple[str, ...] = ()
    """The names of the types, one of which ends the wait; none for a sleep."""
    correlation_id: str | None = None
    timeout: timedelta | None = None
    """How long the wait or the sleep lasts at most, from its entry's time."""
    until: datetime | None = None
    """When a sleep ends, if it was given a time."""
    on_timeout: str = "fail"
    """`fail`, `retry` or `output`."""
    output: str | None = None
    """The output with which the saga goes on after a wait that ended by time, JSON."""
    number: int = 0
    """How many waits of the same attempt came before."""

    @classmethod
    def asked(
        cls,
        wish: AwaitEvent | Sleep,
        *,
        number: int,
        output: PayloadCodec | None,
        limits: PayloadLimits,
    ) -> Rest:
        """Make one of what a step has returned. Without `output` the step is being undone.

        Raises `PayloadError` and `TypeValidationError` for what cannot be kept.
        """
        if isinstance(wish, Sleep):
            return cls(timeout=wish.duration, until=wish.until, number=number)
        check_label(wish.correlation_id, "correlation_id")
        words = ("fail", "retry")
        is_word = isinstance(wish.on_timeout, str) and wish.on_timeout in words
        text = None
        if not is_word:
            if output is None:
                raise TypeValidationError(
                    "AwaitEvent's on_timeout must be 'fail' or 'retry' in a compensation, which "
                    f"has no output; got a {type(wish.on_timeout).__name__}"
                )
            text = output.encode(wish.on_timeout, what="AwaitEvent's on_timeout", limits=limits)
        return cls(
            events=tuple(map(event_name, wish.models)),
            correlation_id=wish.correlation_id,
            timeout=wish.timeout,
            on_timeout=wish.on_timeout if is_word else "output",
            output=text,
            number=number,
        )

    @property
    def waiting_for(self) -> str:
        """Return what `SagaState.waiting_for` says of it."""
        if not self.events:
            return SLEEP
        which = EVENT + "|".join(self.events)
        if self.correlation_id is None:
            return which
        return f"{which} with correlation_id {self.correlation_id}"

    def is_asked_by(self, wish: AwaitEvent | Sleep) -> bool:
        """Tell whether a step that asks for this has asked for it: how long it takes aside."""
        if isinstance(wish, Sleep):
            return not self.events
        names = tuple(map(event_name, wish.models))
        return (self.events, self.correlation_id) == (names, wish.correlation_id)

    @property
    def due(self) -> Due | None:
        """Return when it ends by time, for the commit that begins it."""
        if self.timeout is None and self.until is None:
            return None
        return Due(delay=self.timeout, at=self.until)

    def ends(self, began: datetime) -> datetime | None:
        """Return when it ends by time, if it began then."""
        if self.until is not None:
            return self.until
        return None if self.timeout is None else began + self.timeout

    def encode(self) -> str:
        """Return the text that `decode` reads."""
        parts: dict[str, Any] = {"for": "event" if self.events else "time", "number": self.number}
        if self.events:
            parts |= {
                "events": list(self.events),
                "correlation_id": self.correlation_id,
                "on_timeout": self.on_timeout,
                "output": self.output,
            }
        if self.timeout is not None:
            parts["timeout_seconds"] = self.timeout.total_seconds()
        if self.until is not None:
            parts["until"] = self.until.isoformat()
        return encode_json(parts, what="wait")

    @classmethod
    def decode(cls, text: str) -> Rest:
        """Read what `encode` has made. Raises `PayloadError`."""
        parts = decode_json(text, what="wait")
        try:
            seconds, until = parts.get("timeout_seconds"), parts.get("until")
            return cls(
                events=tuple(parts.get("events", ())),
                correlation_id=parts.get("correlation_id"),
                timeout=None if seconds is None else timedelta(seconds=seconds),
                until=None if until is None else datetime.fromisoformat(until),
                on_timeout=parts.get("on_timeout", "fail"),
                output=parts.get("output"),
                number=parts["number"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PayloadError(f"a wait in the store cannot be read: {error}") from None

    def fits(self, event: TypedEvent) -> bool:
        """Tell whether an event is one of those that are awaited."""
        correlated = self.correlation_id in (None, event.correlation_id)
        return event.name in self.events and correlated


@dataclass(frozen=True, slots=True)
class Resting:
    """A wait with the time at which it began, by the store's clock."""

    rest: Rest
    began: datetime

    @property
    def ends(self) -> datetime | None:
        """When it is over by time; None if never."""
        return self.rest.ends(self.began)


def is_wait(waiting_for: str | None) -> bool:
    """Tell whether `SagaState.waiting_for` says that a step waits for an event or a time."""
    return waiting_for is not None and (waiting_for == SLEEP or waiting_for.startswith(EVENT))


def waits_of(record: SagaRecord) -> tuple[Resting, ...]:
    """Return the waits of the current step's attempt, oldest first, whatever it rests for now.

    The last is the one that it is in, if `is_wait` says that it is in one. Raises `PayloadError`.
    """
    found: list[Resting] = []
    for entry in reversed(record.outputs):
        if entry.kind is EntryKind.WAITING and entry.step_id == record.state.step_id:
            found.append(Resting(Rest.decode(entry.output or ""), entry.at))
            if found[-1].rest.number == 0:
                break
    return tuple(reversed(found))


def wait_of(record: SagaRecord) -> Resting | None:
    """Return the newest wait of the current step, with its time; None if it never waited."""
    waits = waits_of(record)
    return waits[-1] if waits else None


def kept_retry(record: SagaRecord) -> datetime | None:
    """Return when the next attempt begins, if an event or a pause has come between."""
    for entry in reversed(record.outputs):
        here = (entry.step_id, entry.attempt) == (record.state.step_id, record.state.attempt)
        if entry.kind in (EntryKind.COMMAND_IGNORED, EntryKind.RESUMED) and here:
            fact = decode_json(entry.output or "", what="retry")
            if fact["token"] != str(record.state.token):
                return None  # a person has had the attempts counted anew since
            return min(
                datetime.fromisoformat(fact["retry_at"]),
                # Whoever ages a saga moves the row's times.
                record.updated_at + (datetime.fromisoformat(fact["retry_at"]) - entry.at),
            )
    return None


def answers(
    waits: Sequence[Resting], kept: Sequence[StoredSignal], models: Mapping[str, type[BaseModel]]
) -> list[StoredSignal | None]:
    """Return for each wait the event that ends it, the first that fits and came in time.

    An event is given to one wait only. One that is known to be no valid instance of its type is
    passed over.
    """
    events = [(signal, TypedEvent.decode(signal.payload)) for signal in kept]
    given: list[StoredSignal | None] = []
    for wait in waits:
        found = None
        for signal, event in events:
            if not wait.rest.fits(event) or any(each is signal for each in given):
                continue
            if wait.ends is not None and signal.at > wait.ends:
                continue
            if _is_valid(event, signal, models):
                found = signal
                break
        given.append(found)
    return given


def _is_valid(
    event: TypedEvent, signal: StoredSignal, models: Mapping[str, type[BaseModel]]
) -> bool:
    model = models.get(event.name)
    if model is None:
        return True
    try:
        event.read(model)
    except PayloadError as error:
        logger.warning("event %s is passed over: %s", signal.event_id, error)
        return False
    return True
