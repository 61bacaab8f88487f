"""What can happen to a saga that has not begun."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

__all__ = ["StartAhead", "StartDue", "TurnCame", "TurnLost"]


@dataclass(frozen=True, slots=True)
class TurnCame:
    """A queued saga is looked at: it takes its aggregate if it may."""

    begins_at: datetime | None
    """When it is to begin, if that is still ahead."""


@dataclass(frozen=True, slots=True)
class TurnLost:
    """A queued saga may not take its aggregate yet."""

    holder: UUID | None
    """Who has it, or is before it in the queue."""


@dataclass(frozen=True, slots=True)
class StartAhead:
    """A saga was looked at before it is to begin, because something was sent to it."""

    begins_at: datetime


@dataclass(frozen=True, slots=True)
class StartDue:
    """The time of a saga that is to begin later has come."""
