"""A pause remembers how the saga stood, and a resume gives that back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from saga_core import SagaStateError, SagaStatus
from saga_core.happening import Decision, Operator, Pause, PauseRequested, ResumeRequested
from saga_core.pausing import pause_requested, read_pause, resume_requested
from saga_core.records import DUE_NOW, Due, SagaState
from saga_core.status import Direction

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ANN = Operator("ann", "because")


def state(status: SagaStatus, waiting_for: str | None = None) -> SagaState:
    back = status is SagaStatus.COMPENSATING
    return SagaState(
        status=status,
        direction=Direction.ROLLBACK if back else Direction.FORWARD,
        step_id="charge",
        step_input="{}",
        token=uuid4(),
        attempt=2,
        waiting_for=waiting_for,
        last_error="E: no",
    )


def paused_and_resumed(before: SagaState, due: Due | None) -> Decision:
    decision = pause_requested(before, PauseRequested(ANN, due))
    assert decision.state.is_paused
    assert (decision.drive, decision.due) == (False, None)
    pause = read_pause(decision.history[0], NOON)
    resumed = resume_requested(decision.state, ResumeRequested(ANN, pause))
    assert (resumed.history[0].actor, resumed.history[0].reason) == ("ann", "because")
    return resumed


@pytest.mark.parametrize("status", [SagaStatus.RUNNING, SagaStatus.COMPENSATING])
def test_saga_that_had_work_goes_on_at_once(status: SagaStatus) -> None:
    before = state(status)
    resumed = paused_and_resumed(before, DUE_NOW)
    assert (resumed.state, resumed.drive, resumed.due) == (before, True, DUE_NOW)


@pytest.mark.parametrize("status", [SagaStatus.SUSPENDED, SagaStatus.COMPENSATING])
@pytest.mark.parametrize(
    ("due", "left"),
    [
        (Due(delay=HOUR), Due(at=NOON + HOUR)),
        (Due(at=NOON + HOUR), Due(at=NOON + HOUR)),
        (Due(delay=HOUR, at=NOON + 2 * HOUR), Due(at=NOON + HOUR)),
    ],
)
def test_retry_keeps_its_time(status: SagaStatus, due: Due, left: Due) -> None:
    before = state(status)
    resumed = paused_and_resumed(before, due)
    assert (resumed.state, resumed.drive, resumed.due) == (before, False, left)


@pytest.mark.parametrize("status", [SagaStatus.SUSPENDED, SagaStatus.COMPENSATING])
def test_wait_is_looked_at_again(status: SagaStatus) -> None:
    before = state(status, "event:Paid")
    resumed = paused_and_resumed(before, Due(at=NOON + HOUR))
    assert (resumed.state, resumed.drive, resumed.due) == (before, True, DUE_NOW)


def test_saga_that_has_not_begun_is_left_to_a_worker() -> None:
    before = state(SagaStatus.SUSPENDED, "start")
    resumed = paused_and_resumed(before, Due(at=NOON + HOUR))
    assert (resumed.state, resumed.drive, resumed.due) == (before, False, DUE_NOW)


@pytest.mark.parametrize("status", [s for s in SagaStatus if s.is_terminal or s == "STUCK"])
def test_what_rests_anyway_cannot_be_paused(status: SagaStatus) -> None:
    with pytest.raises(SagaStateError, match=f"pause: the saga is {status}; it needs to be RUN"):
        pause_requested(state(status), PauseRequested(ANN, None))


def test_paused_saga_cannot_be_paused_nor_another_resumed() -> None:
    running = state(SagaStatus.RUNNING)
    with pytest.raises(SagaStateError, match="resume: the saga is RUNNING"):
        resume_requested(running, ResumeRequested(ANN, Pause(SagaStatus.RUNNING, None, None)))
    paused = pause_requested(running, PauseRequested(ANN, None)).state
    with pytest.raises(SagaStateError, match="paused already"):
        pause_requested(paused, PauseRequested(ANN, None))
