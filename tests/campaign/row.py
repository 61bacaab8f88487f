"""The saga's row as the contract wants it after each call, and every answer that differs.

Knows `saga_core.store` and nothing of the engine: versions, fences, leases, the inbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga_core.errors import StaleVersionError
from saga_core.records import (
    Committed,
    Due,
    HistoryEntry,
    Lease,
    LeaseAction,
    NewEntry,
    NewSaga,
    SagaRecord,
    SagaState,
    Signal,
    Transition,
)
from tests.campaign.ledger import Call
from tests.campaign.stage import LEASE
from tests.campaign.waits import Came

__all__ = ["Row"]

ENTRY_FIELDS = tuple(each.name for each in fields(NewEntry))


class Row:
    """Follows the calls of a world one by one. `version` is 0 until the saga was written."""

    def __init__(self) -> None:
        self.now = timedelta(0)
        """Time that has passed for the saga, as far as the world let it."""
        self.version = 0
        self.fence = 0
        self.holder: str | None = None
        self.due: timedelta | None = None
        """The end of the lease, or when it is looked at again."""
        self.state: SagaState | None = None
        self.has_ended = False
        """Whether it ever stood still, even if it was revived since."""
        self.seen = 0
        self.reclaims = 0
        self.signals: list[Signal] = []
        self.consumed: set[str] = set()
        self.came_at: dict[str, timedelta] = {}
        """When each signal was put into the inbox."""
        self.entries: list[tuple[int, NewEntry]] = []
        """What the history must hold, each with its version."""
        self.told: dict[tuple[str, int], int] = {}
        """The version that each worker was last told it holds, by fence: when a lease ends, another
        task of the same process may claim the saga while the first still drives it."""
        self.heard: dict[tuple[str, int], int] = {}
        """How many signals each worker was then told of."""
        self.lost: set[tuple[str, int]] = set()
        """Workers with the fence under which they know that they hold the saga no more."""
        self._clocks: dict[tuple[str, int], timedelta] = {}
        """What each worker takes for the time, by fence: it is told only when it reads the saga."""
        self._loaded: dict[tuple[str, int], timedelta] = {}
        """When each worker first loaded each version."""
        self._fences: dict[int, int] = {}
        """The fence at each version."""
        self._commits: dict[UUID, tuple[int, int]] = {}
        self._claims: dict[tuple[str, UUID], int] = {}
        self._free: set[tuple[str, int]] = set()
        """Which workers saw nobody hold the saga when they read a version of it."""

    @property
    def is_held(self) -> bool:
        return self.holder is not None and self.due is not None and self.due > self.now

    @property
    def unheard(self) -> list[Signal]:
        """The signals that no driver has looked at."""
        return self.signals[self.seen :]

    def clock_of(self, worker: str, fence: int, version: int = -1) -> timedelta:
        """Return the earliest time that a worker may take for now who drives, or read a version."""
        known = (self._clocks.get((worker, fence)), self._loaded.get((worker, version)))
        return min((time for time in known if time is not None), default=self.now)

    def came(self) -> list[Came]:
        """Return the typed events that lie in the inbox."""
        found = (
            Came.of(signal, place=place, at=self.came_at[signal.event_id])
            for place, signal in enumerate(self.signals)
            if signal.event_id not in self.consumed
        )
        return [came for came in found if came is not None]

    def fits_history(self, history: tuple[HistoryEntry, ...]) -> Iterator[str]:
        """Compare what a store gives as the history with what was committed."""
        if [entry.seq for entry in history] != list(range(1, len(history) + 1)):
            yield "the history's numbers have gaps or repeats"
        found = [(entry.version, _as_new(entry)) for entry in history]
        for wanted in self.entries:
            if found.count(wanted) < self.entries.count(wanted):
                yield f"lost from the history: {wanted[1].kind} of version {wanted[0]}"
        for entry in found:
            if found.count(entry) > self.entries.count(entry):
                yield f"in the history, but never committed: {entry[1].kind} of version {entry[0]}"
        if not found or sorted(found, key=str) != sorted(self.entries, key=str):
            return
        if found != self.entries:
            yield "the history is not in the order of the commits"

    def fits_record(self, record: SagaRecord) -> Iterator[str]:
        """Compare a record with what the row must hold."""
        for name, found, wanted in (
            ("version", record.version, self.version),
            ("fence", record.fence, self.fence),
            ("worker", record.worker, self.holder),
            ("state", record.state, self.state),
            ("signals", record.signals, len(self.signals)),
            ("seen", record.seen, self.seen),
            ("reclaims", record.reclaims, self.reclaims),
            ("due_at is None", record.due_at is None, self.due is None),
            (
                "outputs",
                [(each.version, _as_new(each)) for each in record.outputs],
                [each for each in self.entries if each[1].output is not None],
            ),
        ):
            if found != wanted:
                yield f"the store gives {name} {found!r}, written was {wanted!r}"

    # --- calls ----------------------------------------------------------------------------------

    def apply(self, call: Call) -> Iterator[str]:
        """Follow a call, and yield each way in which its answer breaks the contract."""
        rule = getattr(self, f"_{call.method}", None)
        if rule is not None:
            yield from rule(call)
        self._fences[self.version] = self.fence

    def _create(self, call: Call) -> Iterator[str]:
        if call.error is not None:
            yield f"create was refused: {call.error}"
            return
        new: NewSaga = call.request
        first = self.version == 0
        if call.answer.created is not first:
            yield f"create answered created={call.answer.created}"
        if first:
            self.version = 1
            self.state = new.state
            self.has_ended = not new.state.active
            self._append(new.history)
            self._give(new.lease)
            if new.lease is None:
                self.due = self._at(new.due, call.at)
        yield from self.fits_record(call.answer.record)
        # Another start of this process only hears that the saga is there already.
        record = call.answer.record
        mine = record.version == 1 and record.state.token == new.state.token
        if call.heard and mine and record.worker == call.worker:
            self._clocks.setdefault((call.worker, self.fence), self.now)
            self._tell(call.worker)

    def _load(self, call: Call) -> Iterator[str]:
        if call.error is None:
            if not self.is_held:
                self._free.add((call.worker, self.version))
            self._loaded.setdefault((call.worker, self.version), self.now)
            yield from self.fits_record(call.answer)
        elif self.version:
            yield f"load was refused: {call.error}"

    def _commit(self, call: Call) -> Iterator[str]:
        change: Transition = call.request
        known = self._commits.get(change.commit_id)
        if call.error is not None:
            yield from self._refused(call, change, known)
            return
        answer: Committed = call.answer
        if known is not None:
            now = (answer.version, answer.fence, answer.held)
            if now != (*known, known[0] == self.version):
                yield f"a repeated commit got another answer: {now}, the first was {known}"
        else:
            if change.expected_version != self.version:
                yield (
                    f"a stale commit was applied: it expected version {change.expected_version}, "
                    f"the row was at {self.version}"
                )
            yield from self._take(call.worker, change, call.at)
            wanted = Committed(
                version=self.version, fence=self.fence, signals=len(self.signals), held=True
            )
            if answer != wanted:
                yield f"a commit was answered with {answer} instead of {wanted}"
            self._commits[change.commit_id] = (answer.version, answer.fence)
        if call.heard:
            if answer.held and self.holder == call.worker:
                self._tell(call.worker)
            else:
                self._lose(call.worker, self._fences.get(change.expected_version, 0))

    def _recorded(self, call: Call) -> Iterator[str]:
        known = self._commits.get(call.request)
        if call.error is not None:
            yield f"nobody could say whether a commit is on record: {call.error}"
            return
        answer: Committed | None = call.answer
        if (None if answer is None else (answer.version, answer.fence)) != known:
            yield f"a commit is said to be recorded as {answer}, it was {known}"
        if call.heard and answer is not None:
            if answer.held and self.holder == call.worker:
                self._tell(call.worker)
            else:
                self._lose(call.worker, answer.fence)

    def _refused(
        self, call: Call, change: Transition, known: tuple[int, int] | None
    ) -> Iterator[str]:
        if call.heard and not _is_asked(change):
            self._lose(call.worker, self._fences.get(change.expected_version, 0))
        if not isinstance(call.error, StaleVersionError):
            yield f"commit was refused: {type(call.error).__name__}: {call.error}"
        elif known is not None:
            yield "a commit that was applied was refused as stale when it was repeated"
        elif change.expected_version == self.version:
            yield "a commit was refused as stale, although nobody had changed the saga"

    def _take(self, worker: str, change: Transition, at: datetime) -> Iterator[str]:
        # A late renewal changes no version: whoever has seen the lease over may still commit.
        free = (worker, change.expected_version) in self._free
        if self.is_held and self.holder != worker and not free:
            yield f"{worker} committed while {self.holder} held the saga"
        self.version += 1
        self.reclaims = 0
        self.state = change.state
        self.has_ended = self.has_ended or not change.state.active
        for signal in change.signals_in:
            self._keep(signal)
        for event_id in change.consumed:
            if event_id in self.consumed:
                yield f"signal {event_id} was used up twice"
        self.consumed |= set(change.consumed)
        self.seen = change.seen + len(change.signals_in)
        self._append(change.history)
        if isinstance(change.lease, Lease):
            read = self.clock_of(worker, self.fence, change.expected_version)
            self._give(change.lease)
            self._clocks[worker, self.fence] = read
        elif change.lease is LeaseAction.RELEASE:
            self.holder = None
            self.due = self._at(change.due, at)
            if change.state.active and len(self.signals) > self.seen:
                self.due = self.now

    def _claim_due(self, call: Call) -> Iterator[str]:
        if call.error is not None:
            yield f"claim_due was refused: {call.error}"
            return
        due = self.due is not None and self.due <= self.now
        again = self._claims.get((call.worker, call.request)) == self.version
        again = again and self.holder == call.worker
        if not call.answer.records:
            if due or again:
                yield "claim_due did not find the saga although it was due"
            return
        reclaimed = self.holder is not None
        if not again:
            if self.due is None:
                yield f"{call.worker} claimed a saga that is never due ({self.state})"
            elif not due:
                what = "lease of another had ended" if reclaimed else "saga was due"
                yield f"{call.worker} claimed before the {what}"
            self.version += 1
            self.fence += 1
            self.reclaims += reclaimed
            self.holder = call.worker
            self.due = self.now + LEASE
            self._claims[call.worker, call.request] = self.version
            if call.answer.records[0].reclaimed is not reclaimed:
                yield f"a claim was answered with reclaimed={not reclaimed}"
        yield from self.fits_record(call.answer.records[0])
        if call.heard:
            self._clocks.setdefault((call.worker, self.fence), self.now)
            self._tell(call.worker)

    def _renew(self, call: Call) -> Iterator[str]:
        ours = [held for held in call.request if self._is_ours(call.worker, held.fence)]
        if call.error is not None:
            yield f"renew was refused: {call.error}"
            return
        wanted = {held.saga_id: len(self.signals) for held in ours}
        if dict(call.answer) != wanted:
            yield f"renew answered {dict(call.answer)} to {call.worker} instead of {wanted}"
        if ours:
            self.due = self.now + LEASE

    def _release(self, call: Call) -> Iterator[str]:
        if call.error is not None:
            yield f"release was refused: {call.error}"
            return
        held, delay = call.request
        if any(self._is_ours(call.worker, each.fence) for each in held):
            self.holder = None
            self.due = self.now + delay
            self._lose(call.worker, self.fence)

    def _signal(self, call: Call) -> Iterator[str]:
        if call.error is not None:
            if self.version:
                yield f"signal was refused: {call.error}"
            return
        signal: Signal = call.request
        assert self.state is not None
        known = any(each.event_id == signal.event_id for each in self.signals)
        wanted = (self.state.active, self.state.active and known, self.holder is not None)
        found = (call.answer.accepted, call.answer.duplicate, call.answer.held)
        # To an ended saga a known signal is a duplicate and not accepted: either answer is true.
        if found != wanted and (self.state.active or not known):
            yield f"a signal got the receipt {found} instead of {wanted}"
        if not self.state.active or known:
            return
        self._keep(signal)
        if self.holder is None and (self.due is not None or self.state.waiting_for is not None):
            self.due = self.now

    def _inbox(self, call: Call) -> Iterator[str]:
        if call.error is not None:
            yield f"inbox was refused: {call.error}"
        else:
            yield from self.fits_inbox(call.answer, after=call.request)

    def fits_inbox(self, found: Any, *, after: int = 0) -> Iterator[str]:
        """Compare what a store gives as the inbox with what was sent."""
        wanted = [(each.event_id, each.event_id in self.consumed) for each in self.signals]
        given = [(each.event_id, each.consumed) for each in found]
        if given != wanted[after:]:
            yield f"the inbox after {after} holds {given} instead of {wanted[after:]}"

    def _history(self, call: Call) -> Iterator[str]:
        after, limit = call.request
        if call.error is not None:
            yield f"history was refused: {call.error}"
        elif len(call.answer) != len(self.entries[after : after + limit]):
            yield f"the history after {after} has {len(call.answer)} entries"

    # --- pieces ---------------------------------------------------------------------------------

    def _keep(self, signal: Signal) -> None:
        self.signals.append(signal)
        self.came_at[signal.event_id] = self.now

    def _append(self, history: tuple[NewEntry, ...]) -> None:
        self.entries += [(self.version, entry) for entry in history]

    def _give(self, lease: Lease | None) -> None:
        if lease is None:
            return
        self.fence += lease.worker != self.holder
        self.holder = lease.worker
        self.due = self.now + lease.duration

    def _at(self, due: Due | None, clock: datetime) -> timedelta | None:
        """Return when a saga is due; a time of day is mapped by what the clock showed."""
        return None if due is None else self.now + (due.moment(clock) - clock)

    def _tell(self, worker: str) -> None:
        self.told[worker, self.fence] = self.version
        self.heard[worker, self.fence] = len(self.signals)

    def _lose(self, worker: str, fence: int) -> None:
        if self._is_ours(worker, fence):
            return  # another task of the same process holds it
        self.told.pop((worker, fence), None)
        self.lost.add((worker, fence))

    def _is_ours(self, worker: str, fence: int) -> bool:
        return self.holder == worker and self.fence == fence


def _is_asked(change: Transition) -> bool:
    """Tell whether a person asked for a commit: of its refusal a driver beside learns nothing."""
    return not change.consumed and any(entry.actor is not None for entry in change.history)


def _as_new(entry: HistoryEntry) -> NewEntry:
    return NewEntry(**{name: getattr(entry, name) for name in ENTRY_FIELDS})
