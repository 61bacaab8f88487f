"""The contract as plain dictionaries: what each call may answer, and what it leaves behind.

Written from `saga_core.store` alone. A call of the model takes what the store answered, says
whether the contract allows it (`AssertionError` if not) and takes over what the contract leaves
open, such as which of several due sagas a claim took. A refusal is an answer too.

Times are durations from now: time moves for one saga at a time, when it is aged, and all durations
are hours, so the seconds that a run takes do not matter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaError,
    SagaNotFoundError,
    SagaStateError,
    StaleVersionError,
)
from saga_core.records import (
    Claims,
    Committed,
    Created,
    Held,
    NewSaga,
    Receipt,
    Registered,
    SagaExport,
    SagaRecord,
    SagaState,
    Signal,
    Transition,
)
from saga_core.status import Direction
from saga_testing.conformance.modelled import NOW, TOLERANCE, Saga, about, born, committed

__all__ = ["Model"]


class Model:
    """All sagas of one namespace."""

    def __init__(self) -> None:
        self.sagas: dict[UUID, Saga] = {}
        self.now: datetime | None = None
        """The store's clock as it was seen last."""

    def copy(self) -> Model:
        """Return one that can be played on without changing this."""
        other = Model()
        other.now = self.now
        for saga_id, saga in self.sagas.items():
            other.sagas[saga_id] = replace(saga, inbox=list(saga.inbox))
        return other

    # --- the saga log ---------------------------------------------------------------------------

    def create(self, new: NewSaga, answer: Created | SagaError) -> None:
        known = self.sagas.get(new.saga_id)
        if (
            known is not None
            and born(new, self.now).is_stranded
            and isinstance(answer, SagaStateError)
        ):
            return  # of a known id and a saga that is refused whatever its id, either may win
        refusals = [] if known is not None else self._refusals_of_new(new, self.sagas)
        if _refused(answer, refusals):
            return
        if known is None:
            self.sagas[new.saga_id] = born(new, self.now)
        assert isinstance(answer, Created)
        assert answer.created is (known is None), f"created={answer.created}"
        self.same_record(answer.record)

    def commit(self, sent: Transition, answer: Committed | SagaError) -> None:
        saga = self.sagas.get(sent.saga_id)
        if saga is None:
            assert isinstance(answer, SagaNotFoundError), f"{answer!r} of an unknown saga"
            return
        known = saga.commits.get(sent.commit_id)
        if known is None:
            if saga.version != sent.expected_version:
                assert isinstance(answer, StaleVersionError), (
                    f"{answer!r} to version {sent.expected_version} of {saga.version}"
                )
                return
            after = committed(saga, sent, self.now)
            if _refused(answer, self._refusals_of_commit(saga, after, sent)):
                return
            self.sagas[sent.saga_id] = saga = after
            for new in sent.spawn:
                self.sagas.setdefault(new.saga_id, born(new, self.now))
            known = saga.commits[sent.commit_id]
        version, fence = known
        held = saga.version == version
        wanted = Committed(version=version, fence=fence, signals=len(saga.inbox), held=held)
        assert answer == wanted, f"{answer!r} instead of {wanted!r}"

    def _refusals_of_commit(self, before: Saga, after: Saga, sent: Transition) -> list[SagaError]:
        found: list[SagaError] = []
        if any(before.knows(signal.event_id) for signal in sent.signals_in):
            found.append(SagaStateError("a known event id"))
        if after.is_stranded:
            found.append(SagaStateError("stranded"))
        found += _taken(after.new, after.state, self.sagas)
        sagas = {**self.sagas, sent.saga_id: after}
        for new in sent.spawn:
            if new.saga_id not in sagas:
                found += self._refusals_of_new(new, sagas)
                sagas[new.saga_id] = born(new, self.now)
        return found

    def _refusals_of_new(self, new: NewSaga, sagas: Mapping[UUID, Saga]) -> list[SagaError]:
        found = _taken(new, new.state, sagas)
        return [*found, SagaStateError("stranded")] if born(new, self.now).is_stranded else found

    # --- the work queue -------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        claim_id: UUID,
        limit: int,
        lease: timedelta,
        only: Collection[Registered],
        favour: Direction,
        answer: Claims,
    ) -> None:
        taken = [record.saga_id for record in answer.records]
        assert len(taken) == len(set(taken)), "a saga twice in one claim"
        mine = {
            saga_id
            for saga_id, saga in self.sagas.items()
            if saga.worker == worker and saga.claim_id == claim_id
        }
        if mine:
            assert set(taken) == mine, f"a repeated claim gave {taken} instead of {mine}"
        else:
            self._take(taken, worker, claim_id, limit, lease, only, favour)
            self._check_next_due(limit, only, answer)
        for record in answer.records:
            assert record.reclaimed is self.sagas[record.saga_id].reclaimed, record
            self.same_record(record)

    def _take(
        self,
        taken: Collection[UUID],
        worker: str,
        claim_id: UUID,
        limit: int,
        lease: timedelta,
        only: Collection[Registered],
        favour: Direction,
    ) -> None:
        lanes = {lane: self._due(lane, only) for lane in Direction}
        mine, other = len(lanes[favour]), len(lanes[Direction(1 - favour)])
        first = min(mine, max((limit + 1) // 2, limit - other))
        shares = {favour: first, Direction(1 - favour): min(other, limit - first)}
        unknown = set(taken) - {saga_id for lane in lanes.values() for saga_id in lane}
        assert not unknown, f"{unknown} were claimed and not due"
        for lane, due in lanes.items():
            chosen = [due[saga_id] for saga_id in taken if saga_id in due]
            left = [at for saga_id, at in due.items() if saga_id not in taken]
            assert len(chosen) == shares[lane], f"{len(chosen)} of {lane!r}, not {shares[lane]}"
            if chosen and left:
                assert max(chosen) < min(left) + TOLERANCE, f"not the oldest of {lane!r}"
        for saga_id in taken:
            saga = self.sagas[saga_id]
            saga.reclaimed = saga.worker is not None
            saga.reclaims += saga.reclaimed
            saga.version += 1
            saga.fence += 1
            saga.worker, saga.claim_id, saga.due = worker, claim_id, lease

    def _due(self, lane: Direction, only: Collection[Registered]) -> dict[UUID, timedelta]:
        return {
            saga_id: saga.due
            for saga_id, saga in self.sagas.items()
            if saga.due is not None
            and saga.is_due
            and saga.kind in only
            and saga.state.direction is lane
        }

    def _check_next_due(self, limit: int, only: Collection[Registered], answer: Claims) -> None:
        left = any(self._due(lane, only) for lane in Direction)
        later = [saga.due for saga in self.sagas.values() if saga.due and saga.due > NOW]
        if left:
            assert answer.next_due == NOW, f"work is left, and next_due is {answer.next_due}"
        elif later:
            assert answer.next_due is not None, "next_due is None, and something falls due"
            assert answer.next_due < min(later) + TOLERANCE, f"too late: {answer.next_due}"

    def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta, answer: Mapping[UUID, int | None]
    ) -> None:
        mine = self._held(worker, held)
        wanted = {saga_id: len(self.sagas[saga_id].inbox) for saga_id in mine}
        for saga_id in mine:
            if saga_id in answer and answer[saga_id] is None:  # put off: another call had its row
                del wanted[saga_id]
            else:
                self.sagas[saga_id].due = lease
        renewed = {saga_id: signals for saga_id, signals in answer.items() if signals is not None}
        assert renewed == wanted, f"{dict(answer)} were renewed instead of {wanted}"
        assert answer.keys() <= set(mine), f"{dict(answer)} are not all held"

    def release(self, worker: str, held: Sequence[Held], delay: timedelta) -> None:
        for saga_id in self._held(worker, held):
            saga = self.sagas[saga_id]
            saga.worker, saga.claim_id, saga.reclaimed, saga.due = None, None, False, delay

    def _held(self, worker: str, held: Sequence[Held]) -> list[UUID]:
        known = [(one, self.sagas.get(one.saga_id)) for one in held]
        return [
            one.saga_id
            for one, saga in known
            if saga is not None and (saga.worker, saga.fence) == (worker, one.fence)
        ]

    # --- the inbox, and what ended --------------------------------------------------------------

    def signal(self, saga_id: UUID, sent: Signal, answer: Receipt | SagaError) -> None:
        saga = self.sagas.get(saga_id)
        if saga is None:
            assert isinstance(answer, SagaNotFoundError), f"{answer!r} of an unknown saga"
            return
        duplicate = saga.knows(sent.event_id)
        accepted = duplicate or saga.state.active
        wanted = Receipt(accepted=accepted, duplicate=duplicate, held=saga.worker is not None)
        assert answer == wanted, f"{answer!r} instead of {wanted!r}"
        if duplicate or not accepted:
            return
        saga.inbox.append((sent, False))
        waits = saga.due is not None or saga.state.waiting_for is not None
        if saga.worker is None and waits:
            saga.due = NOW

    def purge(
        self,
        finished_for: timedelta,
        limit: int,
        answer: int,
        left: set[UUID],
        saga_name: str | None = None,
    ) -> None:
        """`left` is what the store has now: which of the ended ones go is its choice."""
        ended = {
            saga_id
            for saga_id, saga in self.sagas.items()
            if not saga.state.active and saga.updated <= -finished_for
            if saga_name in (None, saga.new.saga_name)
        }
        gone = self.sagas.keys() - left
        assert gone <= ended, f"{gone - ended} had not ended so long ago"
        wanted = min(len(ended), limit)
        assert answer == len(gone) == wanted, f"{answer} purged, {len(gone)} gone, not {wanted}"
        for saga_id in gone:
            del self.sagas[saga_id]

    # --- what is read ---------------------------------------------------------------------------

    def same_record(self, found: SagaRecord, *, listed: bool = False) -> None:
        """Compare a saga as it was read; a list leaves the outputs out."""
        saga = self.sagas[found.saga_id]
        self.now = found.now
        outputs = [entry.output for _, _, entry in saga.history if entry.output is not None]
        pairs = {
            "version": (found.version, saga.version),
            "fence": (found.fence, saga.fence),
            "worker": (found.worker, saga.worker),
            "signals": (found.signals, len(saga.inbox)),
            "seen": (found.seen, saga.seen),
            "reclaims": (found.reclaims, saga.reclaims),
            "tags": (sorted(found.tags), sorted(saga.tags)),
            "state": (found.state, saga.state),
            "data": (found.data, saga.new.data),
            "trace_id": (found.trace_id, saga.new.trace_id),
            "aggregation_id": (found.aggregation_id, saga.new.aggregation_id),
            "outputs": ([one.output for one in found.outputs], [] if listed else outputs),
        }
        wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        assert not wrong, f"found and wanted of {found.saga_id}: {wrong}"
        times = {
            "due_at": (None if found.due_at is None else found.due_at - found.now, saga.due),
            "created_at": (found.created_at - found.now, saga.created),
            "updated_at": (found.updated_at - found.now, saga.updated),
        }
        wrong_times = {name: pair for name, pair in times.items() if not about(*pair)}
        assert not wrong_times, f"found and wanted of {found.saga_id}, from now: {wrong_times}"

    def same_export(self, found: SagaExport) -> None:
        """Compare all of a saga."""
        self.same_record(found.record)
        saga = self.sagas[found.record.saga_id]
        history = [
            (entry.seq, entry.version, commit_id, entry.kind, entry.step_id, entry.output)
            for entry, commit_id in zip(found.history, found.commit_ids, strict=True)
        ]
        wanted = [
            (seq, version, commit_id, entry.kind, entry.step_id, entry.output)
            for seq, (version, commit_id, entry) in enumerate(saga.history, start=1)
        ]
        assert history == wanted, f"history {history} instead of {wanted}"
        inbox = [(one.seq, one.event_id, one.payload, one.consumed) for one in found.inbox]
        sent = [
            (seq, one.event_id, one.payload, consumed)
            for seq, (one, consumed) in enumerate(saga.inbox, start=1)
        ]
        assert inbox == sent, f"inbox {inbox} instead of {sent}"


def _taken(new: NewSaga, state: SagaState, sagas: Mapping[UUID, Saga]) -> list[SagaError]:
    """Return the refusal of a saga whose aggregate another active one holds."""
    key = new.aggregation_id
    return [
        ActiveSagaAlreadyExistsError("the aggregate is taken", saga_id=saga_id)
        for saga_id, other in sagas.items()
        if (key is not None and state.active and saga_id != new.saga_id)
        and other.state.active
        and other.new.aggregation_id == key
    ]


def _refused(answer: object, refusals: Sequence[SagaError]) -> bool:
    """Tell whether the call was refused, which must be for one of these reasons, if any."""
    if not refusals:
        assert not isinstance(answer, SagaError), f"refused without a reason: {answer!r}"
        return False
    allowed = [(type(one), one.saga_id) for one in refusals]
    taken = isinstance(answer, ActiveSagaAlreadyExistsError)
    given = (type(answer), getattr(answer, "saga_id", None) if taken else None)
    assert given in allowed, f"{answer!r} instead of {refusals!r}"
    return True
