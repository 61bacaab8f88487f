"""The end that a saga has come to, kept in its history until the hook before it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from saga_core.codec import PayloadLimits, decode_json, encode_json
from saga_core.errors import PayloadError
from saga_core.records import NewEntry, SagaRecord, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = ["PendingEnd", "newest_end", "pending_end"]


@dataclass(frozen=True, slots=True)
class PendingEnd:
    """How a saga ends once its hook is done. The text of an `ENDING` entry's output."""

    hook: str
    """The hook that runs before, also the entry's step id."""
    state: SagaState
    """What is recorded then."""
    outer: PendingEnd | None = None
    """The end whose hook the saga got stuck in, if that is what it is about to be STUCK at."""
    again: bool = False
    """Whether the entry only tells once more what is pending; no hook begins with it."""

    def entry(self) -> NewEntry:
        """Return the entry that keeps it."""
        return NewEntry(
            kind=EntryKind.ENDING,
            step_id=self.hook,
            output=encode_json(self._parts(), what="end", limits=_WHOLE),
            reason=f"about to be {self.state.status}",
        )

    def _parts(self) -> dict[str, Any]:
        state = self.state
        parts: dict[str, Any] = {
            "hook": self.hook,
            "status": state.status.value,
            "direction": state.direction.value,
            "active": state.active,
            "step_index": state.step_index,
            "generation": state.generation,
            "attempt": state.attempt,
            "token": None if state.token is None else str(state.token),
        }
        for name in _TEXTS:
            parts[name] = getattr(state, name)
        if self.outer is not None:
            parts["outer"] = self.outer._parts()
        if self.again:
            parts["again"] = True
        return {name: value for name, value in parts.items() if value is not None}

    @classmethod
    def decode(cls, text: str) -> PendingEnd:
        """Read what `entry` has written. Raises `PayloadError`."""
        parts = decode_json(text, what="end")
        try:
            return cls._of(parts)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PayloadError(f"a saga's end in the store cannot be read: {error}") from None

    @classmethod
    def _of(cls, parts: dict[str, Any]) -> PendingEnd:
        token = parts.get("token")
        state = SagaState(
            status=SagaStatus(parts["status"]),
            direction=Direction(parts["direction"]),
            active=parts["active"],
            step_index=parts["step_index"],
            generation=parts["generation"],
            attempt=parts["attempt"],
            token=None if token is None else UUID(token),
            **{name: parts.get(name) for name in _TEXTS},
        )
        outer = parts.get("outer")
        return cls(
            hook=parts["hook"],
            state=state,
            outer=None if outer is None else cls._of(outer),
            again=parts.get("again", False),
        )

    def told_again(self) -> PendingEnd:
        """Return it as it is written once what came between is over."""
        return replace(self, again=True)


def newest_end(entries: Iterable[NewEntry]) -> PendingEnd | None:
    """Return what the last entry of an end tells, if there is one. Raises `PayloadError`."""
    newest = None
    for entry in entries:
        if entry.kind is EntryKind.ENDING:
            newest = entry
    return None if newest is None else PendingEnd.decode(newest.output or "")


def pending_end(record: SagaRecord) -> PendingEnd | None:
    """Return the end that a saga has come to and not recorded yet; None if there is none.

    What `find` gives has no outputs, so there is nothing to read. Raises `PayloadError`.
    """
    return newest_end(record.outputs) if record.state.is_ending else None


_TEXTS = ("step_id", "step_input", "waiting_for", "last_error", "error_code")
_WHOLE = PayloadLimits(max_bytes=1 << 40, warn_bytes=1 << 40)
"""Each payload in it keeps to the limits, which were looked at before."""
