"""One true sentence for every status and situation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from saga_core.explaining import explain
from saga_core.happening import WORKER_LOST
from saga_core.records import HistoryEntry, NewSaga, SagaRecord, SagaState
from saga_core.registry import Registry
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.timing import Moment
from tests.behaviour.cast import Story, definition

ID = UUID(int=7)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SOON = NOW + MINUTE
AGO = NOW - timedelta(seconds=2)
DONE = HistoryEntry(
    kind=EntryKind.COMPLETED, step_id="step_0", input="1", output="2", seq=1, version=2, at=NOW
)
NONSENSE = replace(DONE, kind=EntryKind.DEADLINE, step_id=None)
ERROR = {"last_error": "ValueError: no\n  at all", "error_code": "ValueError"}
BACK = {"direction": Direction.ROLLBACK}
SUSPECT = {"last_error": "workers were lost", "error_code": WORKER_LOST}
SOON_SAID = "2026-01-01 00:01:00.000 UTC (in 0:01:00)"
AGO_SAID = "2025-12-31 23:59:58.000 UTC (2 s ago)"
GONE = "'story' version '1' is not registered here"
SAGA = definition(Story().step(), Story().step())


@dataclass(frozen=True)
class Case:
    said: str
    status: SagaStatus
    state: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    registered: str | None = "1"


RUNNING, SUSPENDED = SagaStatus.RUNNING, SagaStatus.SUSPENDED
COMPENSATING, STUCK = SagaStatus.COMPENSATING, SagaStatus.STUCK
HELD = {"worker": "me:1", "due_at": SOON}
LOST = {"worker": "me:1", "due_at": AGO}
DUE = {"due_at": AGO}
LATER = {"due_at": SOON}
ENDED = {"active": False, "step_id": None}
LAST = "last changed at 2026-01-01 00:00:00.000 UTC"

PAUSE = HistoryEntry(
    kind=EntryKind.PAUSED,
    step_id="step_1",
    output='{"status":"RUNNING","waiting_for":null}',
    actor="ann",
    reason="no bank",
    seq=2,
    version=3,
    at=NOW,
)
PAUSED = {"outputs": (PAUSE,)}
PAUSED_SAID = "since 2026-01-01 00:00:00.000 UTC by 'ann' because of 'no bank'"
RESUMES = "resume goes on with it, cancel or abort ends it"


def deadline(after: timedelta) -> dict[str, Any]:
    """Return a record's outputs: nothing done, and a deadline counted from its creation."""
    fact = Moment(after=after).entry(EntryKind.DEADLINE)
    return {"outputs": (fact.as_entry(seq=1, version=1, at=NOW),)}


CASES = {
    "paused": Case(
        f"is SUSPENDED and paused at attempt 1 of step 'step_1' {PAUSED_SAID}; {RESUMES}",
        SUSPENDED, {"waiting_for": "resume"}, PAUSED,
    ),
    "paused in a retry of the rollback": Case(
        f"is COMPENSATING and paused at attempt 2 of undoing step 'step_1' {PAUSED_SAID}, with the "
        f"last error 'ValueError: no at all'; {RESUMES}",
        COMPENSATING, {"waiting_for": "resume", "attempt": 1, **ERROR, **BACK}, PAUSED,
    ),
    "paused, and something was sent": Case(
        f"is SUSPENDED and paused at attempt 1 of step 'step_1' {PAUSED_SAID}, and due to hear "
        f"what was sent to it; {RESUMES}",
        SUSPENDED, {"waiting_for": "resume"}, {**PAUSED, **DUE},
    ),
    "paused, and looked at": Case(
        f"is SUSPENDED and paused at attempt 1 of step 'step_1' {PAUSED_SAID}, and worker me:1 "
        f"looks what was sent to it; {RESUMES}",
        SUSPENDED, {"waiting_for": "resume"}, {**PAUSED, **HELD},
    ),
    "held": Case(
        f"is RUNNING: worker me:1 drives it, at attempt 1 of step 'step_1', and holds its lease "
        f"until {SOON_SAID}",
        RUNNING, {}, HELD,
    ),
    "held in a retry": Case(
        f"is SUSPENDED: worker me:1 drives it, at attempt 2 of step 'step_1', and holds its lease "
        f"until {SOON_SAID}",
        SUSPENDED, {"attempt": 1, **ERROR}, HELD,
    ),
    "held in the rollback": Case(
        f"is COMPENSATING: worker me:1 drives it, at attempt 1 of undoing step 'step_1', and holds "
        f"its lease until {SOON_SAID}",
        COMPENSATING, BACK, HELD,
    ),
    "held on trial": Case(
        f"is RUNNING: worker me:1 drives it, at attempt 1 of step 'step_1', and holds its lease "
        f"until {SOON_SAID}; workers were lost with it before, so it is a suspect, driven apart "
        "from other suspects",
        RUNNING, SUSPECT, {**HELD, "reclaims": 1},
    ),
    "lease ended": Case(
        f"is RUNNING at attempt 1 of step 'step_1': the lease of worker me:1 ended at {AGO_SAID} "
        "and nobody has taken the saga over; it waits for a worker to claim it",
        RUNNING, {}, LOST,
    ),
    "lease ended in the rollback": Case(
        f"is COMPENSATING at attempt 3 of undoing step 'step_1': the lease of worker me:1 ended at "
        f"{AGO_SAID} and nobody has taken the saga over; it waits for a worker to claim it",
        COMPENSATING, {**BACK, "attempt": 2}, LOST,
    ),
    "lease ended again and again": Case(
        f"is SUSPENDED at attempt 1 of step 'step_1': the lease of worker me:1 ended at {AGO_SAID} "
        "and nobody has taken the saga over; it was taken over 2 times since its last commit, so "
        "it is a suspect, driven apart from other suspects; it waits for a worker to claim it",
        SUSPENDED, {}, {**LOST, "reclaims": 2},
    ),
    "lease ended and nobody knows it": Case(
        f"is RUNNING at attempt 1 of step 'step_1': the lease of worker me:1 ended at {AGO_SAID} "
        f"and nobody has taken the saga over; nobody here can drive it, because {GONE} (no version "
        "is)",
        RUNNING, {}, LOST, None,
    ),
    "due": Case(
        f"is RUNNING and due since {AGO_SAID} for attempt 1 of step 'step_1'; it waits for a "
        "worker to claim it",
        RUNNING, {}, DUE,
    ),
    "due this moment": Case(
        "is RUNNING and due since 2026-01-01 00:00:00.000 UTC (now) for attempt 1 of step "
        "'step_1'; it waits for a worker to claim it",
        RUNNING, {}, {"due_at": NOW},
    ),
    "retry due": Case(
        f"is SUSPENDED and due since {AGO_SAID} for attempt 2 of step 'step_1', because attempt 1 "
        "failed with 'ValueError: no at all'; it waits for a worker to claim it",
        SUSPENDED, {"attempt": 1, **ERROR}, DUE,
    ),
    "rollback due": Case(
        f"is COMPENSATING and due since {AGO_SAID} for attempt 2 of undoing step 'step_1', after 1 "
        "failed attempt; it waits for a worker to claim it",
        COMPENSATING, {"attempt": 1, **ERROR, **BACK}, DUE,
    ),
    "due and another version is registered": Case(
        f"is RUNNING and due since {AGO_SAID} for attempt 1 of step 'step_1'; nobody here can "
        f"drive it, because {GONE} (only version '2' is)",
        RUNNING, {}, DUE, "2",
    ),
    "due and the definition has changed": Case(
        f"is RUNNING and due since {AGO_SAID} for attempt 1 of step 'step_1'; nobody here can "
        "drive it, because the definition of 'story' version '1' that is registered here differs "
        "from the one it was started with: step 'step_1' was added after 'step_0'",
        RUNNING, {}, {**DUE, "fingerprint": SAGA.fingerprint.partition(",")[0]},
    ),
    "retry later": Case(
        f"is SUSPENDED and waits until {SOON_SAID} for attempt 3 of step 'step_1', because attempt "
        "2 failed with 'ValueError: no at all'",
        SUSPENDED, {"attempt": 2, **ERROR}, LATER,
    ),
    "retry later of an unknown version": Case(
        f"is SUSPENDED and waits until {SOON_SAID} for attempt 2 of step 'step_1', because attempt "
        f"1 failed with 'ValueError: no at all'; {GONE} (no version is)",
        SUSPENDED, {"attempt": 1, **ERROR}, LATER, None,
    ),
    "rollback waits": Case(
        f"is COMPENSATING and its rollback waits until {SOON_SAID} for attempt 3 of undoing step "
        "'step_1', after 2 failed attempts",
        COMPENSATING, {"attempt": 2, **ERROR, **BACK}, LATER,
    ),
    "delayed": Case(
        f"is RUNNING and waits until {SOON_SAID} for attempt 1 of step 'step_1'", RUNNING, {}, LATER
    ),
    "suspect put back": Case(
        f"is RUNNING and waits until {SOON_SAID} for attempt 1 of step 'step_1'; it was taken over "
        "3 times since its last commit, so it is a suspect, driven apart from other suspects",
        RUNNING, {}, {**LATER, "reclaims": 3},
    ),
    "error of lost workers is no error of an attempt": Case(
        f"is RUNNING and due since {AGO_SAID} for attempt 2 of step 'step_1'; workers were lost "
        "with it before, so it is a suspect, driven apart from other suspects; it waits for a "
        "worker to claim it",
        RUNNING, {"attempt": 1, **SUSPECT}, DUE,
    ),
    "waits for a thing": Case(
        "is SUSPENDED and waits for key, at attempt 1 of step 'step_1'",
        SUSPENDED, {"waiting_for": "key"},
    ),
    "waits for an event": Case(
        "is SUSPENDED and waits for an event Paid or Declined with the correlation_id 'a b', at "
        "attempt 1 of step 'step_1'",
        SUSPENDED, {"waiting_for": "event:Paid|Declined with correlation_id a b"},
    ),
    "sleeps": Case(
        f"is COMPENSATING and its rollback waits for the end of its sleep, until {SOON_SAID} at "
        "the latest, at attempt 1 of undoing step 'step_1'",
        COMPENSATING, {"waiting_for": "sleep", **BACK}, LATER,
    ),
    "waits for a thing until": Case(
        f"is SUSPENDED and waits for an event Paid, until {SOON_SAID} at the latest, at attempt "
        "1 of step 'step_1'",
        SUSPENDED, {"waiting_for": "event:Paid"}, LATER,
    ),
    "nothing wakes it": Case(
        "is RUNNING and waits at attempt 1 of step 'step_1' without anything that would wake it, "
        "which no store should have accepted; only a command moves it",
        RUNNING,
    ),
    "stuck": Case(
        f"is STUCK at step 'step_1', with the last error 'ValueError: no at all', {LAST}; it needs "
        "a person: retry_step, skip_step, compensate_step or abort ends that",
        STUCK, ERROR,
    ),
    "stuck with nothing done": Case(
        f"is STUCK at step 'step_0', with the last error 'ValueError: no at all', {LAST}; it needs "
        "a person: retry_step, skip_step or abort ends that",
        STUCK, {"step_id": "step_0", **ERROR}, {"outputs": ()},
    ),
    "stuck in the rollback": Case(
        f"is STUCK at undoing step 'step_1', with the last error 'ValueError: no at all', {LAST}; "
        "it needs a person: retry_step, skip_compensation, compensate_step or abort ends that",
        STUCK, {**ERROR, **BACK},
    ),
    "stuck and convicted": Case(
        f"is STUCK at step 'step_1', with the last error 'workers were lost', {LAST}; it needs a "
        "person: retry_step, skip_step, compensate_step or abort ends that",
        STUCK, SUSPECT,
    ),
    "stuck and unreadable": Case(
        f"is STUCK at step 'step_1', {LAST}; its initial_data cannot be read, so it needs a person "
        "to abort it, or to mend it in the store",
        STUCK, {}, {"data": "{"},
    ),
    "stuck elsewhere": Case(
        f"is STUCK at step 'step_1', {LAST}; it needs a person: retry_step, skip_step, "
        f"compensate_step or abort ends that, but not from here, because {GONE} (no version is)",
        STUCK, {}, {}, None,
    ),
    "stuck with something to hear": Case(
        f"is STUCK at step 'step_1', {LAST}, and due to hear what was sent to it; it needs a "
        "person: retry_step, skip_step, compensate_step or abort ends that",
        STUCK, {}, DUE,
    ),
    "stuck and held": Case(
        f"is STUCK: worker me:1 drives it, at attempt 1 of step 'step_1', and holds its lease "
        f"until {SOON_SAID}",
        STUCK, {}, HELD,
    ),
    "completed": Case(
        f"ended as COMPLETED, {LAST}: all its steps are done", SagaStatus.COMPLETED, ENDED
    ),
    "compensated": Case(
        f"ended as COMPENSATED, {LAST}: every completed step that can be undone has been undone, "
        "with the last error 'ValueError: no at all'",
        SagaStatus.COMPENSATED, {**ENDED, **ERROR, **BACK},
    ),
    "compensated on request": Case(
        f"ended as COMPENSATED, {LAST}: every completed step that can be undone has been undone",
        SagaStatus.COMPENSATED, {**ENDED, **BACK},
    ),
    "failed": Case(
        f"ended as FAILED, {LAST} while step 'step_1' was current, with the last error "
        "'ValueError: no at all'; retry_step goes on with it, compensate_step rolls back what was "
        "done",
        SagaStatus.FAILED, {"active": False, **ERROR},
    ),
    "failed with nothing done": Case(
        f"ended as FAILED, {LAST} while step 'step_1' was current; retry_step goes on with it",
        SagaStatus.FAILED, {"active": False}, {"outputs": ()},
    ),
    "aborted in the rollback": Case(
        f"ended as FAILED, {LAST} while undoing step 'step_1' was current, with the last error "
        "'aborted'; compensate_step rolls back what was done",
        SagaStatus.FAILED, {"active": False, "last_error": "aborted", **BACK},
    ),
    "failed elsewhere": Case(
        f"ended as FAILED, {LAST} while step 'step_1' was current; retry_step goes on with it, "
        f"compensate_step rolls back what was done, but not from here, because {GONE} (no version "
        "is)",
        SagaStatus.FAILED, {"active": False}, {}, None,
    ),
    "not begun": Case(
        f"has not begun: it is to begin at {SOON_SAID}",
        SUSPENDED, {"waiting_for": "start"}, LATER,
    ),
    "not begun elsewhere": Case(
        f"has not begun: it is to begin at {SOON_SAID}; {GONE} (no version is)",
        SUSPENDED, {"waiting_for": "start"}, LATER, None,
    ),
    "with a deadline": Case(
        f"is SUSPENDED and waits until {SOON_SAID}, when its deadline comes before attempt 1 of "
        f"step 'step_1'; its deadline is at {SOON_SAID}",
        SUSPENDED, {}, {**LATER, **deadline(MINUTE)},
    ),
    "held with a deadline": Case(
        f"is RUNNING: worker me:1 drives it, at attempt 1 of step 'step_1', and holds its lease "
        f"until {SOON_SAID}; its deadline is at {SOON_SAID}",
        RUNNING, {}, {**HELD, **deadline(MINUTE)},
    ),
    "past its deadline": Case(
        f"is SUSPENDED and due since {AGO_SAID} for attempt 1 of step 'step_1'; it waits for a "
        f"worker to claim it; its deadline passed at {AGO_SAID}, so no more forward work is done",
        SUSPENDED, {}, {**DUE, **deadline(AGO - NOW)},
    ),
    "held back past its deadline": Case(
        f"is SUSPENDED and paused at attempt 1 of step 'step_1'; {RESUMES}; its deadline passed at "
        f"{AGO_SAID} and stops it once it goes on",
        SUSPENDED, {"waiting_for": "resume"}, deadline(AGO - NOW),
    ),
    "stuck before its deadline": Case(
        f"is STUCK at step 'step_1', {LAST}; it needs a person: retry_step, skip_step or abort "
        f"ends that; its deadline is at {SOON_SAID}",
        STUCK, {}, deadline(MINUTE),
    ),
    "stuck past its deadline": Case(
        f"is STUCK at step 'step_1', {LAST}; it needs a person: retry_step, skip_step or abort "
        f"ends that; its deadline passed at {AGO_SAID}, which retry_step and skip_step make void",
        STUCK, {}, deadline(AGO - NOW),
    ),
    "rolling back past its deadline": Case(
        f"is COMPENSATING and its rollback waits until {SOON_SAID} for attempt 1 of undoing step "
        "'step_1'",
        COMPENSATING, BACK, {**LATER, **deadline(AGO - NOW)},
    ),
    "with a deadline that cannot be read": Case(
        f"is SUSPENDED and waits until {SOON_SAID} for attempt 1 of step 'step_1'; when it is to "
        "be done cannot be read",
        SUSPENDED, {}, {**LATER, "outputs": (NONSENSE,)},
    ),
    "failed and unreadable": Case(
        f"ended as FAILED, {LAST} while step 'step_1' was current; its initial_data cannot be "
        "read, so it stays so",
        SagaStatus.FAILED, {"active": False}, {"data": "{"},
    ),
}  # fmt: skip


def record_of(case: Case) -> SagaRecord:
    state = SagaState(**{"status": case.status, "step_id": "step_1", **case.state})
    new = NewSaga(
        saga_id=ID,
        saga_name="story",
        definition_version="1",
        fingerprint=SAGA.fingerprint,
        data="{}",
        state=state,
    )
    before = replace(new.as_record(now=NOW, due_at=None), outputs=(DONE,))
    return replace(before, **case.record)


@pytest.mark.parametrize("name", CASES)
def test_situation_is_told_in_one_sentence(name: str) -> None:
    case = CASES[name]
    registry = Registry()
    if case.registered is not None:
        registry.add("story", SAGA, version=case.registered, max_crashes=3)
    assert explain(record_of(case), registry) == f"Saga {ID} {case.said}."


def entry(kind: EntryKind, output: str) -> HistoryEntry:
    return HistoryEntry(
        kind=kind, step_id="step_0", input="1", output=output, seq=1, version=2, at=NOW
    )


@pytest.mark.parametrize(
    ("kind", "done"), [(EntryKind.COMPLETED, True), (EntryKind.WAITING, False)]
)
@pytest.mark.parametrize(
    ("status", "waiting_for"), [(STUCK, None), (SUSPENDED, "resume")], ids=["stuck", "paused"]
)
def test_pivot_is_done_only_once_it_has_put_something_out(
    kind: EntryKind, done: bool, status: SagaStatus, waiting_for: str | None
) -> None:
    pivotal = definition(Story().step(), Story().step(), pivot=0)
    registry = Registry()
    registry.add("story", pivotal, version="1", max_crashes=3)
    record = replace(
        record_of(Case("", status, {"step_id": "step_0", "waiting_for": waiting_for})),
        outputs=(entry(kind, '{"for":"event","number":0}'),),
        fingerprint=pivotal.fingerprint,
    )
    said = explain(record, registry)
    assert ("its pivot 'step_0' is done, so there is no way back" in said) is done
    if status is SUSPENDED:
        assert ("cancel or abort ends it" in said) is not done


def test_every_status_is_in_the_table() -> None:
    assert {case.status for case in CASES.values()} == set(SagaStatus)


def test_long_error_is_cut() -> None:
    case = Case("", STUCK, {"last_error": "x" * 4000})
    said = explain(record_of(case), Registry())
    assert "xxx..." in said
    assert len(said) < 800
