"""What is to be started when, and the links of the chain that does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = [
    "LINK_TAG",
    "LINK_VERSION",
    "Link",
    "Missed",
    "Schedule",
    "link_name",
    "next_id",
    "run_id",
    "run_tag",
    "unsettled_since",
]

Missed = Literal["skip", "run_once", "run_all"]

LINK_TAG = "schedule"
"""The tag of all links of all schedules."""

LINK_VERSION = "1"
"""Of the definition of links: another shape of `Link`, or other steps, need another one."""

_SPACE = UUID("5f0d0c1e-7a43-4c0b-9a57-0d7d7f6b8b51")


class Schedule(BaseModel):
    """A schedule as its links carry it: any worker can go on with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$")
    saga_name: str
    cron: str
    timezone: str = "UTC"
    missed: Missed = "run_once"
    max_missed: int = Field(default=100, ge=1, le=1000)
    """How many missed ticks `run_all` makes up for, the newest ones."""
    grace: timedelta = Field(default=timedelta(minutes=1), gt=timedelta(0), le=timedelta(days=1))
    """How late a tick may be begun without being missed."""
    initial_data: Any = None
    time_field: str | None = None
    """The key of `initial_data` under which a run finds its planned time."""

    def data_of(self, planned: datetime) -> Any:
        """Return what the run of a tick is started with, the same however often it is asked."""
        if self.time_field is None:
            return self.initial_data
        return {**(self.initial_data or {}), self.time_field: planned.astimezone(UTC).isoformat()}


class Link(BaseModel):
    """One look at a schedule: it starts what is due, and makes the next link."""

    model_config = ConfigDict(frozen=True)

    schedule: Schedule
    generation: int
    """Rises with each change of the schedule; the highest counts."""
    after: AwareDatetime | None = None
    """Ticks up to here are settled; None for the first link: up to its creation."""
    planned: AwareDatetime | None = None
    """The tick that it waits for; None for the first link."""
    since: AwareDatetime | None = None
    """For the first link after a change: a tick from then on was not settled before."""

    def first_id(self, namespace: str) -> UUID:
        """Return the id of the first link: the same for all who declare the same change."""
        return uuid5(_SPACE, f"{namespace} {self.generation} {self.schedule.model_dump_json()}")

    def rank(self) -> tuple[int, str]:
        """Return what decides between the chains of one schedule."""
        return self.generation, self.schedule.model_dump_json()

    def settled(self, created_at: datetime) -> datetime:
        """Return the time up to which all ticks are settled."""
        if self.after is not None:
            return self.after
        if self.since is None:
            return created_at
        return min(created_at, self.since - timedelta(microseconds=1))


def unsettled_since(link: Link, created_at: datetime) -> datetime:
    """Return the time from which on a link may have ticks to settle."""
    return link.planned or link.settled(created_at) + timedelta(microseconds=1)


def link_name(schedule: str) -> str:
    """Return the saga name of a schedule's links."""
    return f"schedule:{schedule}"


def run_tag(schedule: str) -> str:
    """Return the tag of the sagas that a schedule has started."""
    return f"schedule:{schedule}"


def run_id(namespace: str, schedule: str, planned: datetime) -> UUID:
    """Return the id of the saga that a tick starts: there is one, whoever starts it.

    With the namespace, since an id may be there once per table of a user's own.
    """
    return uuid5(_SPACE, f"{namespace} {schedule} {planned.astimezone(UTC).isoformat()}")


def next_id(link_id: UUID) -> UUID:
    """Return the id of the link that follows."""
    return uuid5(link_id, "next")
