"""What crosses the boundary between the engine and a store: frozen records.

Payloads (`data`, `step_input`, `input`, `output`, `payload`) are JSON text that a store keeps and
returns to the letter and never parses. A store applies a record blindly; every rule of the saga
was settled by `saga_core.decide` before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from saga_core.parts import (
    DUE_NOW,
    KEY,
    RESUME,
    Due,
    HistoryEntry,
    Lease,
    LeaseAction,
    NewEntry,
    SagaState,
    Signal,
    StoredSignal,
)
from saga_core.status import EntryKind, SagaStatus

__all__ = [
    "DUE_NOW",
    "Claims",
    "Committed",
    "Created",
    "Due",
    "Held",
    "HistoryEntry",
    "KEY",
    "Lease",
    "LeaseAction",
    "NewEntry",
    "NewSaga",
    "Page",
    "Query",
    "RESUME",
    "Receipt",
    "Registered",
    "SagaExport",
    "SagaRecord",
    "SagaState",
    "Signal",
    "StoredSignal",
    "Transition",
    "Wakeup",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSaga:
    """A saga to be written. Its first version is 1; its first fence is 1 with a lease, else 0."""

    saga_id: UUID
    """Made by the caller: the id of this write, so repeating it changes nothing."""
    saga_name: str
    definition_version: str
    fingerprint: str
    data: str
    state: SagaState
    aggregation_id: str | None = None
    trace_id: str | None = None
    tags: tuple[str, ...] = ()
    lease: Lease | None = None
    due: Due | None = None
    """Used only without a lease; None for a saga that has ended."""
    history: tuple[NewEntry, ...] = ()

    def as_record(self, *, now: datetime, due_at: datetime | None) -> SagaRecord:
        """Return the saga as a store holds it once written at `now`."""
        entries = (
            entry.as_entry(seq=number, version=1, at=now)
            for number, entry in enumerate(self.history, start=1)
            if entry.output is not None
        )
        return SagaRecord(
            saga_id=self.saga_id,
            saga_name=self.saga_name,
            definition_version=self.definition_version,
            fingerprint=self.fingerprint,
            data=self.data,
            state=self.state,
            aggregation_id=self.aggregation_id,
            trace_id=self.trace_id,
            tags=self.tags,
            version=1,
            fence=0 if self.lease is None else 1,
            worker=None if self.lease is None else self.lease.worker,
            due_at=due_at,
            signals=0,
            seen=0,
            reclaims=0,
            reclaimed=False,
            outputs=tuple(entries),
            created_at=now,
            updated_at=now,
            now=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of a saga, applied whole or not at all."""

    saga_id: UUID
    expected_version: int
    commit_id: UUID
    """Made by the caller; stored with the history, so repeating the commit changes nothing."""
    state: SagaState
    lease: LeaseAction | Lease
    due: Due | None = None
    """Used only with `RELEASE`; None for a saga that is not looked at again by itself."""
    seen: int
    """The highest signal the decision knew; more than that in the inbox makes the saga due."""
    history: tuple[NewEntry, ...]
    """At least one entry."""
    signals_in: tuple[Signal, ...] = ()
    """Signals accepted by this very commit. They count as seen."""
    consumed: tuple[str, ...] = ()
    """Event ids used up by this commit, those in `signals_in` included."""
    spawn: tuple[NewSaga, ...] = ()
    """Sagas created by this commit."""
    tags: tuple[str, ...] | None = None
    """Replaces the saga's tags; None leaves them."""

    def __post_init__(self) -> None:
        if not self.history:
            raise ValueError("a Transition needs at least one history entry")

    def as_record(self, before: SagaRecord, *, now: datetime) -> SagaRecord:
        """Return the saga as a store holds it once this is applied to `before` at `now`.

        All that `SagaLog.commit` says of the row, for a store that computes it in Python under a
        lock. The outputs stay those of `before`.
        """
        arrived = len(self.signals_in)
        after = replace(
            before,
            state=self.state,
            tags=before.tags if self.tags is None else self.tags,
            version=before.version + 1,
            reclaims=0,
            signals=before.signals + arrived,
            seen=self.seen + arrived,
            updated_at=now,
            now=now,
        )
        if self.lease is LeaseAction.KEEP:
            return after
        if isinstance(self.lease, Lease):
            taken_over = self.lease.worker != before.worker
            return replace(
                after,
                worker=self.lease.worker,
                fence=before.fence + taken_over,
                due_at=now + self.lease.duration,
                reclaimed=False,
            )
        due_at = None if self.due is None else self.due.moment(now)
        if not after.state.has_ended and after.signals > after.seen:
            due_at = now
        return replace(after, worker=None, due_at=due_at, reclaimed=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRecord:
    """A saga as the store held it at `now`."""

    saga_id: UUID
    saga_name: str
    definition_version: str
    fingerprint: str
    data: str
    state: SagaState
    aggregation_id: str | None
    trace_id: str | None
    tags: tuple[str, ...]
    version: int
    """Rises by one with every commit and every claim: the compare-and-set value."""
    fence: int
    """Rises when the holder changes; what a step shows to the outside world."""
    worker: str | None
    """Who holds the lease, expired or not; None when nobody does."""
    due_at: datetime | None
    """With a worker, the lease's end; without, when the saga is looked at again."""
    signals: int
    """How many signals the inbox has ever had."""
    seen: int
    reclaims: int
    """Claims from an expired lease since the last commit (or creation)."""
    reclaimed: bool
    """In an answer of `claim_due`: whether this claim took an expired lease. Else False."""
    outputs: tuple[HistoryEntry, ...]
    """The history entries that carry an output, oldest first."""
    created_at: datetime
    updated_at: datetime
    now: datetime
    """The store's time when this was read."""

    @property
    def step_outputs(self) -> Mapping[str, HistoryEntry]:
        """The entries that hold what steps have put out, the newest of each that counts, by id."""
        outputs: dict[str, HistoryEntry] = {}
        for entry in self.outputs:
            if entry.step_id is None:
                continue
            if entry.kind is EntryKind.VOIDED:
                outputs.pop(entry.step_id, None)
            elif entry.kind.is_step_output:
                outputs[entry.step_id] = entry
        return outputs

    @property
    def is_held(self) -> bool:
        """Whether somebody holds a lease that has not expired."""
        return self.worker is not None and self.due_at is not None and self.due_at > self.now

    @property
    def is_stranded(self) -> bool:
        """Whether nothing would ever look at the saga again. A store refuses to write such a one.

        Only a saga that has ended or waits for a person (`STUCK`) needs neither a `due_at` nor
        something that it is `waiting_for`.
        """
        rests = not self.state.active or self.state.status is SagaStatus.STUCK
        return not rests and self.due_at is None and self.state.waiting_for is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The answer to `create`."""

    record: SagaRecord
    created: bool
    """False when a saga with this id was there already; `record` is then as it stands now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The answer to `commit`, the same for a repeat except `signals` and `held`."""

    version: int
    fence: int
    signals: int
    """How many signals the inbox has now."""
    held: bool
    """Whether the row still stands at `version`: nobody has committed or claimed since."""


@dataclass(frozen=True, slots=True)
class Held:
    """A saga that a worker believes to hold."""

    saga_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Registered:
    """What a worker can drive. A claim takes a saga only if all three are equal."""

    saga_name: str
    definition_version: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The answer to `claim_due`."""

    records: tuple[SagaRecord, ...]
    next_due: timedelta | None
    """How long until some saga of the namespace falls due, lease ends included; None if none
    will. Zero when work was left over. A hint: it may be too early, never too late."""

    @classmethod
    def after(cls, pause: timedelta | None, *, taken: tuple[SagaRecord, ...], limit: int) -> Claims:
        """Return the answer of a store that looked up the next time and then claimed.

        `pause` is how long it was until some saga fell due, the taken ones left out, None if none
        would. The leases just taken end as well.
        """
        if len(taken) >= limit:
            return cls(records=taken, next_due=timedelta(0))
        pauses = [] if pause is None else [max(pause, timedelta(0))]
        pauses += [one.due_at - one.now for one in taken if one.due_at is not None]
        return cls(records=taken, next_due=min(pauses, default=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to `signal`."""

    accepted: bool
    """False only when the saga has ended: nothing was stored."""
    duplicate: bool
    """A signal with this `event_id` was there already; nothing changed."""
    held: bool
    """Whether a worker held the saga, and so will see the signal at its next commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which sagas to list. Conditions that are set must all hold."""

    statuses: tuple[SagaStatus, ...] = ()
    saga_name: str | None = None
    definition_version: str | None = None
    aggregation_id: str | None = None
    tag: str | None = None
    error_code: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    overdue_by: timedelta | None = None
    """Due, or with an expired lease, for at least this long."""
    limit: int = 100
    cursor: str | None = None
    """What the previous page gave; opaque."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Sagas by creation, oldest first (ties by id). Their `outputs` are left empty."""

    records: tuple[SagaRecord, ...]
    cursor: str | None
    """For the next page; None on the last."""
    unreadable: tuple[UUID, ...] = ()
    """Sagas that match, and whose rows something else than this library has written. A store that
    cannot find such rows, because its schema refuses them, leaves this empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaExport:
    """Everything a store knows of one saga, for another store."""

    record: SagaRecord
    history: tuple[HistoryEntry, ...]
    commit_ids: tuple[UUID | None, ...]
    """The commit that wrote each history entry, in the same order; None for creation."""
    inbox: tuple[StoredSignal, ...]


@dataclass(frozen=True, slots=True)
class Wakeup:
    """A hint that something fell due in the namespace: claim now instead of later."""

    namespace: str
