"""One saga of the model, and what a creation and a commit make of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from saga_core.records import (
    Due,
    Lease,
    LeaseAction,
    NewEntry,
    NewSaga,
    Registered,
    SagaState,
    Signal,
    Transition,
)
from saga_core.status import SagaStatus

__all__ = ["NOW", "TOLERANCE", "Saga", "about", "born", "committed"]

NOW = timedelta(0)
TOLERANCE = timedelta(minutes=10)
"""Far more than a run takes, far less than the hour that times differ by."""


def about(found: timedelta | None, wanted: timedelta | None) -> bool:
    """Tell whether two durations are the same but for the time that a run takes."""
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) < TOLERANCE


@dataclass(slots=True)
class Saga:
    """One saga. `due`, `created` and `updated` are from now."""

    new: NewSaga
    state: SagaState
    tags: tuple[str, ...]
    worker: str | None
    fence: int
    due: timedelta | None
    version: int = 1
    seen: int = 0
    reclaims: int = 0
    reclaimed: bool = False
    claim_id: UUID | None = None
    created: timedelta = NOW
    updated: timedelta = NOW
    history: list[tuple[int, UUID | None, NewEntry]] = field(default_factory=list)
    inbox: list[tuple[Signal, bool]] = field(default_factory=list)
    commits: dict[UUID, tuple[int, int]] = field(default_factory=dict)

    @property
    def kind(self) -> Registered:
        return Registered(self.new.saga_name, self.new.definition_version, self.new.fingerprint)

    @property
    def is_due(self) -> bool:
        return self.due is not None and self.due <= NOW

    @property
    def is_stranded(self) -> bool:
        rests = not self.state.active or self.state.status is SagaStatus.STUCK
        return not rests and self.due is None and self.state.waiting_for is None

    def age(self, by: timedelta) -> None:
        self.created -= by
        self.updated -= by
        self.due = None if self.due is None else self.due - by

    def knows(self, event_id: str) -> bool:
        return any(signal.event_id == event_id for signal, _ in self.inbox)


def pause(due: Due | None, now: datetime | None) -> timedelta | None:
    """Return how long it is until then, by the store's clock as it was seen last."""
    if due is None or due.at is None or now is None:
        return None if due is None else due.delay
    return due.moment(now) - now


def born(new: NewSaga, now: datetime | None) -> Saga:
    lease, due = new.lease, pause(new.due, now)
    return Saga(
        new=new,
        state=new.state,
        tags=new.tags,
        worker=None if lease is None else lease.worker,
        fence=0 if lease is None else 1,
        due=due if lease is None else lease.duration,
        history=[(1, None, entry) for entry in new.history],
    )


def committed(saga: Saga, sent: Transition, now: datetime | None) -> Saga:
    """Return the saga after a commit that is not refused."""
    version = saga.version + 1
    inbox = [*saga.inbox, *((signal, False) for signal in sent.signals_in)]
    after = Saga(
        new=saga.new,
        state=sent.state,
        tags=saga.tags if sent.tags is None else sent.tags,
        worker=saga.worker,
        fence=saga.fence,
        due=saga.due,
        version=version,
        seen=sent.seen + len(sent.signals_in),
        reclaimed=saga.reclaimed,
        claim_id=saga.claim_id,
        created=saga.created,
        history=[*saga.history, *((version, sent.commit_id, entry) for entry in sent.history)],
        inbox=[(one, done or one.event_id in sent.consumed) for one, done in inbox],
    )
    if sent.lease is not LeaseAction.KEEP:
        after.claim_id, after.reclaimed = None, False
    if isinstance(sent.lease, Lease):
        after.fence += sent.lease.worker != saga.worker
        after.worker, after.due = sent.lease.worker, sent.lease.duration
    elif sent.lease is LeaseAction.RELEASE:
        after.worker, after.due = None, pause(sent.due, now)
        if after.state.active and len(after.inbox) > after.seen:
            after.due = NOW
    after.commits = {**saga.commits, sent.commit_id: (version, after.fence)}
    return after
