"""When a saga is to begin and to be done, told from what is on record."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import saga_core
from saga_core import Direction, EntryKind, SagaStatus
from saga_core.codec import PayloadLimits
from saga_core.decide import decide
from saga_core.errors import PayloadError
from saga_core.happening import (
    DeadlinePassed,
    Decision,
    Failure,
    Mapped,
    Operator,
    Recorded,
    RetryRequested,
    SkipRequested,
    StartAhead,
    StartDue,
    Started,
    Unmappable,
)
from saga_core.live import LiveSaga
from saga_core.parts import Due
from saga_core.records import NewEntry, NewSaga, SagaRecord, SagaState
from saga_core.registry import Registration
from saga_core.timing import DEADLINE_VOID, Moment, Timing, deadline_applies
from tests.behaviour.cast import HOUR, NAME, Story, definition

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MADE = definition(Story().step(), Story().step())
VOID = NewEntry(kind=EntryKind.DEADLINE, output=DEADLINE_VOID)
LATE = DeadlinePassed(Failure("SagaDeadlineError: late", "SagaDeadlineError"), uuid4())
RUNNING = SagaState(status=SagaStatus.RUNNING, step_id="step_0", step_input="{}", token=uuid4())
SUSPENDED = replace(RUNNING, status=SagaStatus.SUSPENDED)
BACK = {"direction": Direction.ROLLBACK, "status": SagaStatus.COMPENSATING}
BY = Operator("ann", "because")


def begins(after: timedelta) -> NewEntry:
    return Moment(after=after).entry(EntryKind.SCHEDULED)


def deadline(after: timedelta) -> NewEntry:
    return Moment(after=after).entry(EntryKind.DEADLINE)


def record_with(*facts: NewEntry, state: SagaState = RUNNING) -> SagaRecord:
    new = NewSaga(
        saga_id=uuid4(),
        saga_name=NAME,
        definition_version="1",
        fingerprint="f",
        data="{}",
        state=state,
        history=facts,
    )
    return new.as_record(now=NOW, due_at=None)


def live_with(*facts: NewEntry, state: SagaState = RUNNING, age: timedelta = HOUR) -> LiveSaga:
    record = replace(record_with(*facts, state=state), now=NOW + age)
    return LiveSaga(record, Registration(NAME, "1", MADE, 3), PayloadLimits())


@pytest.mark.parametrize(
    "moment",
    [
        Moment(after=timedelta(microseconds=1)),
        Moment(after=timedelta(days=36500, microseconds=1)),
        Moment(at=NOW + timedelta(microseconds=1)),
        Moment(at=NOW.astimezone(timezone(timedelta(hours=-7)))),
    ],
)
def test_moment_on_record_is_the_one_that_was_given(moment: Moment) -> None:
    entry = moment.entry(EntryKind.DEADLINE)
    assert entry.step_id is None
    assert Moment.decode(entry.output or "", EntryKind.DEADLINE) == moment


@pytest.mark.parametrize(
    ("beginning", "limit", "due"),
    [
        (Moment(after=HOUR), None, Due(delay=HOUR)),
        (Moment(after=HOUR), Moment(after=HOUR), Due(delay=HOUR)),
        (Moment(after=HOUR), Moment(at=NOW), Due(delay=HOUR, at=NOW)),
        (Moment(at=NOW), Moment(after=HOUR), Due(at=NOW)),
        (Moment(at=NOW), Moment(at=NOW + HOUR), Due(at=NOW)),
        (Moment(at=NOW), Moment(at=NOW - HOUR), Due(at=NOW - HOUR)),
    ],
)
def test_new_saga_is_due_at_its_beginning_or_at_an_earlier_deadline(
    beginning: Moment, limit: Moment | None, due: Due
) -> None:
    assert beginning.due(limit) == due


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"at":7}', '{"at":"now"}', '{"seconds":"x"}'])
def test_moment_that_cannot_be_read_is_a_payload_error(text: str) -> None:
    record = record_with(NewEntry(kind=EntryKind.DEADLINE, output=text))
    with pytest.raises(PayloadError, match="deadline entry cannot be read"):
        Timing.of(record)
    unreadable = LiveSaga(record, Registration(NAME, "1", MADE, 3), PayloadLimits())
    with pytest.raises(PayloadError):
        unreadable.read()


def test_times_are_counted_from_the_creation() -> None:
    assert Timing.of(record_with()) == Timing()
    assert Timing.of(record_with(begins(HOUR))) == Timing(NOW + HOUR)
    assert Timing.of(record_with(deadline(HOUR))) == Timing(None, NOW + HOUR)
    assert Timing.of(record_with(begins(HOUR), deadline(HOUR))) == Timing(
        NOW + HOUR, NOW + 2 * HOUR
    )


def test_deadline_of_a_saga_to_begin_in_the_past_counts_from_its_creation() -> None:
    past = Moment(at=NOW - HOUR).entry(EntryKind.SCHEDULED)
    assert Timing.of(record_with(past, deadline(HOUR))) == Timing(NOW - HOUR, NOW + HOUR)


def test_deadline_that_was_made_void_is_none() -> None:
    assert Timing.of(record_with(deadline(HOUR), VOID)) == Timing()
    live = live_with(deadline(HOUR), VOID)
    assert (live.is_overdue, live.time_left()) == (False, None)


@pytest.mark.parametrize(
    ("state", "applies"),
    [
        (RUNNING, True),
        (SUSPENDED, True),
        (replace(SUSPENDED, waiting_for="event:Paid"), True),
        (replace(SUSPENDED, waiting_for="resume"), False),
        (replace(RUNNING, **BACK), False),
        (replace(RUNNING, status=SagaStatus.STUCK), False),
        (replace(RUNNING, status=SagaStatus.COMPLETED), False),
        (replace(RUNNING, status=SagaStatus.FAILED), False),
    ],
)
def test_deadline_is_for_forward_work_that_nobody_holds_back(
    state: SagaState, applies: bool
) -> None:
    assert deadline_applies(state) is applies
    live = live_with(deadline(HOUR), state=state, age=HOUR)
    assert (live.time_left() is not None) is applies
    assert live.is_overdue


@pytest.mark.parametrize(
    ("state", "due", "wanted"),
    [
        (SUSPENDED, Due(delay=HOUR), Due(delay=HOUR, at=NOW + 5 * HOUR)),
        (SUSPENDED, Due(at=NOW + HOUR), Due(at=NOW + HOUR)),
        (SUSPENDED, Due(at=NOW + 9 * HOUR), Due(at=NOW + 5 * HOUR)),
        (replace(SUSPENDED, waiting_for="event:Paid"), None, Due(at=NOW + 5 * HOUR)),
        (replace(SUSPENDED, waiting_for="resume"), None, None),
        (replace(RUNNING, **BACK), Due(delay=9 * HOUR), Due(delay=9 * HOUR)),
        (replace(RUNNING, status=SagaStatus.STUCK), None, None),
    ],
)
def test_wait_ends_at_the_deadline_if_that_is_earlier(
    state: SagaState, due: Due | None, wanted: Due | None
) -> None:
    live = live_with(deadline(5 * HOUR))
    decision = Decision(state=state, history=(VOID,), drive=False, due=due)
    assert live.due_after(decision) == due
    told = NewEntry(kind=EntryKind.RETRYING)
    assert live.due_after(replace(decision, history=(told,))) == wanted


def test_saga_that_is_to_begin_later_has_done_nothing_until_that_is_on_record() -> None:
    ahead = replace(SUSPENDED, waiting_for="start")
    assert live_with(begins(2 * HOUR), state=ahead).begins_at == NOW + 2 * HOUR
    assert live_with(begins(2 * HOUR), state=RUNNING).begins_at is None, "begun by a person"
    begun = decide(MADE, ahead, {}, StartDue())
    assert (begun.state, begun.drive) == (replace(RUNNING, token=ahead.token), True)
    assert [entry.kind for entry in begun.history] == [EntryKind.BEGUN]


def test_delayed_start_waits_with_its_first_input() -> None:
    begun = decide(MADE, RUNNING, {}, Started(Mapped('{"n":1}'), uuid4(), Due(delay=HOUR)))
    assert (begun.state.status, begun.state.waiting_for) == (SagaStatus.SUSPENDED, "start")
    assert (begun.state.step_input, begun.drive, begun.due) == ('{"n":1}', False, Due(delay=HOUR))


def test_delayed_start_whose_first_map_fails_has_ended_at_once() -> None:
    broken = Unmappable(Failure("KeyError: 'x'", "KeyError", retryable=False))
    begun = decide(MADE, RUNNING, {}, Started(broken, uuid4(), Due(delay=HOUR)))
    assert (begun.state.status, begun.due) == (SagaStatus.COMPENSATED, None)


def test_saga_that_is_looked_at_too_early_rests_until_its_time() -> None:
    ahead = decide(MADE, SUSPENDED, {}, StartAhead(NOW + HOUR))
    assert (ahead.state.waiting_for, ahead.drive, ahead.due) == ("start", False, Due(at=NOW + HOUR))


def test_deadline_ends_forward_work_without_a_further_attempt() -> None:
    state = replace(SUSPENDED, step_id="step_1", step_index=1, attempt=2)
    decided = decide(MADE, state, {"step_0": Recorded("{}", "{}")}, LATE)
    assert (decided.state.status, decided.state.step_id) == (SagaStatus.COMPENSATING, "step_0")
    assert decided.state.error_code == "SagaDeadlineError"
    assert [(entry.kind, entry.attempt) for entry in decided.history] == [(EntryKind.FAILED, 2)]


def retry(overdue: bool) -> RetryRequested:
    return RetryRequested(BY, uuid4(), None, overdue)


def skip(overdue: bool) -> SkipRequested:
    return SkipRequested(BY, "{}", uuid4(), Mapped("{}"), overdue)


@pytest.mark.parametrize("ask", [retry, skip])
def test_person_who_goes_on_after_the_deadline_makes_it_void(ask: Any) -> None:
    late = decide(MADE, SUSPENDED, {}, ask(True)).history[-1]
    assert (late.kind, late.output) == (EntryKind.DEADLINE, DEADLINE_VOID)
    assert (late.actor, late.reason) == ("ann", "because")
    in_time = decide(MADE, SUSPENDED, {}, ask(False)).history
    assert EntryKind.DEADLINE not in [entry.kind for entry in in_time]


def test_core_asks_no_clock_of_the_machine_but_the_monotonic_one() -> None:
    clock = re.compile(r"\btime\.time|\.(?:now|utcnow|today)\(")
    asking = [
        f"{path.name}: {line.strip()}"
        for path in Path(saga_core.__file__).parent.glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if clock.search(line) and "such as datetime.now(UTC)" not in line  # what an error says
    ]
    # In the id of a saga, which decides nothing.
    assert asking == ["names.py: milliseconds = time.time_ns() // 1_000_000"]


def test_retry_of_a_rollback_has_no_deadline_to_make_void() -> None:
    stuck = replace(RUNNING, direction=Direction.ROLLBACK, status=SagaStatus.STUCK)
    decided = decide(MADE, stuck, {"step_0": Recorded("{}", "{}")}, retry(overdue=True))
    assert [entry.kind for entry in decided.history] == [EntryKind.RETRY_REQUESTED]
