"""What records say of themselves, for stores that compute in Python."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from saga_core.records import Due, Lease, LeaseAction, SagaRecord, SagaState
from saga_core.status import SagaStatus
from saga_testing.conformance.sagas import ME, OTHER, commit_of, event, leased, new_saga, parked

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def held() -> SagaRecord:
    return leased().as_record(now=NOW, due_at=NOW + HOUR)


def test_due_means_the_earlier_of_the_two_that_are_set() -> None:
    assert Due(delay=HOUR).moment(NOW) == NOW + HOUR
    assert Due(at=LATER).moment(NOW) == LATER
    assert Due(delay=HOUR, at=LATER).moment(NOW) == LATER
    assert Due(delay=timedelta(0), at=LATER).moment(NOW) == NOW


def test_only_what_has_ended_or_waits_for_a_person_may_rest() -> None:
    record = replace(new_saga().as_record(now=NOW, due_at=None))

    def stranded(
        status: SagaStatus, *, active: bool = True, waiting_for: str | None = None
    ) -> bool:
        state = SagaState(status=status, active=active, waiting_for=waiting_for)
        return replace(record, state=state).is_stranded

    assert stranded(SagaStatus.RUNNING)
    assert stranded(SagaStatus.COMPENSATING)
    assert not stranded(SagaStatus.STUCK)
    assert not stranded(SagaStatus.COMPLETED, active=False)
    assert not stranded(SagaStatus.SUSPENDED, waiting_for="event:paid")
    assert not replace(record, due_at=NOW).is_stranded


def test_transition_keeps_what_it_does_not_name() -> None:
    before = replace(held(), reclaims=2, reclaimed=True, signals=3, seen=1, tags=("a",))
    after = commit_of(before, seen=2, signals_in=(event(),)).as_record(before, now=LATER)

    assert (after.version, after.reclaims, after.signals, after.seen) == (2, 0, 4, 3)
    assert (after.worker, after.fence, after.due_at, after.tags) == (ME, 1, before.due_at, ("a",))
    assert (after.created_at, after.updated_at, after.now) == (NOW, LATER, LATER)


def test_transition_raises_the_fence_only_for_another_holder() -> None:
    for worker, fence in ((ME, 1), (OTHER, 2)):
        after = commit_of(held(), lease=Lease(worker, MINUTE)).as_record(held(), now=LATER)
        assert (after.worker, after.fence, after.due_at) == (worker, fence, LATER + MINUTE)


def test_release_is_due_at_once_if_a_signal_was_not_seen() -> None:
    unseen = replace(held(), signals=1)

    assert parked(held(), HOUR).as_record(held(), now=LATER).due_at == LATER + HOUR
    assert parked(unseen, HOUR).as_record(unseen, now=LATER).due_at == LATER
    ended = commit_of(
        unseen,
        state=SagaState(status=SagaStatus.COMPLETED, active=False),
        lease=LeaseAction.RELEASE,
    )
    assert ended.as_record(unseen, now=LATER).due_at is None
