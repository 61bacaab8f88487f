"""A saga's own times: when it is to begin, and by when its forward work must be done.

Both are given at its start and kept in its history. They are counted from its creation by the
store's clock, so that every driver comes to the same moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from saga_core.awaiting import FIRST, LAST
from saga_core.codec import decode_json, encode_json
from saga_core.errors import PayloadError, SagaDefinitionError
from saga_core.records import Due, NewEntry, SagaRecord, SagaState
from saga_core.retry import FOREVER
from saga_core.status import EntryKind, SagaStatus

__all__ = [
    "AT_START",
    "DEADLINE_VOID",
    "Moment",
    "Timing",
    "check_beginning",
    "check_deadline",
    "check_deadline_length",
    "deadline_applies",
    "input_begun_with",
    "is_in_begun_hook",
    "is_unbegun",
]

AT_START = "start"
"""What a saga that has not begun is `waiting_for`."""

DEADLINE_VOID = "null"
"""The output of a DEADLINE entry that takes the deadline away."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the store's clock: itself, or so long after another."""

    at: datetime | None = None
    after: timedelta = timedelta(0)
    """Used without `at`."""

    def counted_from(self, other: datetime) -> datetime:
        return other + self.after if self.at is None else self.at

    def due(self, limit: Moment | None = None) -> Due:
        """Return it as when a new saga falls due, or an absolute `limit` if that is earlier."""
        if self.at is None:
            return Due(delay=self.after, at=None if limit is None else limit.at)
        if limit is None or limit.at is None:
            return Due(at=self.at)
        return Due(at=min(self.at, limit.at))

    def due_after(self, beginning: Moment | None) -> Due:
        """Return it as when a new saga falls due, as a deadline that counts from `beginning`."""
        if self.at is not None:
            return Due(at=self.at)
        if beginning is None:
            return Due(delay=self.after)
        if beginning.at is None:
            return Due(delay=beginning.after + self.after)
        return Due(at=beginning.at + self.after)

    def entry(self, kind: EntryKind) -> NewEntry:
        """Return it as a fact that a saga is created with."""
        if self.at is None:
            fact: dict[str, Any] = {"seconds": self.after.total_seconds()}
        else:
            fact = {"at": self.at.isoformat()}
        return NewEntry(kind=kind, output=encode_json(fact, what=kind.value))

    @classmethod
    def decode(cls, text: str, kind: EntryKind) -> Self:
        """Read what `entry` has written. Raises `PayloadError`."""
        fact = decode_json(text, what=kind.value)
        try:
            if "at" in fact:
                return cls(at=datetime.fromisoformat(fact["at"]).astimezone(UTC))
            return cls(after=timedelta(seconds=fact["seconds"]))
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise PayloadError(f"the saga's {kind.value} entry cannot be read: {text}") from error


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one saga, by the store's clock."""

    begins_at: datetime | None = None
    """When it is to begin, if its start was put off."""
    deadline_at: datetime | None = None
    """When its forward work is stopped, if it has a deadline that is not void."""

    @classmethod
    def of(cls, record: SagaRecord) -> Timing:
        """Read them from a record. Raises `PayloadError`.

        What `find` gives has no outputs, so there is nothing to read.
        """
        beginning: Moment | None = None
        deadline: Moment | None = None
        for entry in record.outputs:
            if entry.step_id is not None:
                continue  # these are facts of a saga, not of a step
            text = entry.output or DEADLINE_VOID
            if entry.kind is EntryKind.SCHEDULED:
                beginning = Moment.decode(text, entry.kind)
            elif entry.kind is EntryKind.DEADLINE:
                deadline = None if text == DEADLINE_VOID else Moment.decode(text, entry.kind)
        created = record.created_at
        begins_at = None if beginning is None else beginning.counted_from(created)
        if deadline is None:
            return cls(begins_at)
        return cls(begins_at, deadline.counted_from(max(created, begins_at or created)))

    def following(self, history: Iterable[NewEntry]) -> Timing:
        """Return them after a commit: a deadline is set once, and may be made void."""
        for entry in history:
            if entry.kind is EntryKind.DEADLINE:
                return replace(self, deadline_at=None)
        return self


def input_begun_with(state: SagaState) -> str | None:
    """Return what the current step was given in its attempts; None if it surely has had none.

    What was never begun leaves nothing to be undone, also if a person skips it.
    """
    return None if is_unbegun(state) else state.step_input


def is_unbegun(state: SagaState) -> bool:
    """Tell whether nothing of a saga has run, its hook included: it is queued, or put off."""
    return state.is_queued or state.waiting_for == AT_START


def is_in_begun_hook(state: SagaState) -> bool:
    """Tell whether a saga is in a hook, and not only to begin with one."""
    return state.in_hook and not is_unbegun(state)


def deadline_applies(state: SagaState) -> bool:
    """Tell whether a deadline stops a saga in this state: in forward work that nobody holds back.

    Not in a rollback, not in a hook that has begun, and not while a person is asked for.
    """
    forward = state.status in (SagaStatus.RUNNING, SagaStatus.SUSPENDED)
    return forward and not state.is_paused and not is_in_begun_hook(state)


def check_beginning(start_at: object, delay: object) -> Moment | None:
    """Return when a saga is to begin; None for at once. Raises `SagaDefinitionError`."""
    if start_at is not None and delay is not None:
        raise SagaDefinitionError("give start_at or delay, not both")
    if start_at is not None:
        if not isinstance(start_at, datetime):
            raise SagaDefinitionError(
                f"start_at must be an aware datetime, got {type(start_at).__name__}; use delay "
                "for a timedelta"
            )
        return Moment(at=_checked_time(start_at, "start_at"))
    if delay is None:
        return None
    if not isinstance(delay, timedelta) or not timedelta(0) <= delay <= FOREVER:
        raise SagaDefinitionError(
            f"delay must be a timedelta from zero to {FOREVER.days} days, got {delay!r}"
        )
    return Moment(after=delay) if delay else None


def check_deadline(deadline: object) -> Moment | None:
    """Return a saga's deadline. Raises `SagaDefinitionError`."""
    if isinstance(deadline, datetime):
        return Moment(at=_checked_time(deadline, "deadline"))
    length = check_deadline_length(deadline, "or an aware datetime, ")
    return None if length is None else Moment(after=length)


def check_deadline_length(deadline: object, also: str = "") -> timedelta | None:
    """Return a deadline as a length of time. Raises `SagaDefinitionError`."""
    if deadline is None:
        return None
    if not isinstance(deadline, timedelta) or not timedelta(0) < deadline <= FOREVER:
        raise SagaDefinitionError(
            f"deadline must be a timedelta above zero, of at most {FOREVER.days} days, "
            f"{also}got {deadline!r}"
        )
    return deadline


def _checked_time(value: datetime, what: str) -> datetime:
    if value.utcoffset() is None:
        raise SagaDefinitionError(
            f"{what} has no time zone: {value!r}. Give it one, such as datetime.now(UTC) has"
        )
    if not FIRST <= value < LAST:
        raise SagaDefinitionError(
            f"{what} must lie between {FIRST.year} and {LAST.year}, got {value.isoformat()}"
        )
    return value.astimezone(UTC)
