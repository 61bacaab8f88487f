"""What can happen to a saga, and what is decided of it: the words of `saga_core.decide`.

Values that are made by chance or by user code (tokens, jitter, the next step's input) come in as
part of what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from saga_core.givens import (
    WORKER_LOST,
    Begin,
    Failure,
    Mapped,
    NextInput,
    Operator,
    Recorded,
    Unmappable,
)
from saga_core.records import Due, NewEntry, NewSaga, SagaState
from saga_core.status import SagaStatus
from saga_core.unbegun import StartAhead, StartDue, TurnCame, TurnLost

__all__ = [
    "Aborted",
    "Begin",
    "BranchLeft",
    "BranchesBegin",
    "BranchesRest",
    "Compensated",
    "CompensationFailed",
    "CompensationRequested",
    "CompensationSkipRequested",
    "DeadlinePassed",
    "Decision",
    "EditRequested",
    "EventArrived",
    "Failure",
    "Happened",
    "InBranch",
    "Mapped",
    "MovedToVersion",
    "NextInput",
    "Operator",
    "Pause",
    "PauseRequested",
    "Probed",
    "Recorded",
    "ResumeRequested",
    "RetryRequested",
    "ReturnRequested",
    "SkipRequested",
    "StartAhead",
    "StartDue",
    "Started",
    "StepDone",
    "StepFailed",
    "Suspected",
    "TurnCame",
    "TurnLost",
    "Undecodable",
    "Unmappable",
    "Waits",
    "WaitsOn",
    "Woken",
    "WORKER_LOST",
    "WorkerLost",
]


@dataclass(frozen=True, slots=True)
class Started:
    next_input: NextInput
    token: UUID
    later: Due | None = None
    """When the first step may begin, if not at once."""
    queued: bool = False
    """It waits for its aggregate, behind those that were there before."""
    limit: Due | None = None
    """Its deadline, if it is queued."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The saga's deadline passed while its current step did not run."""

    failure: Failure
    token: UUID
    """For the rollback, if one begins."""


@dataclass(frozen=True, slots=True)
class StepDone:
    input: str | None
    output: str
    token: UUID
    """For the step that follows."""
    next_input: NextInput | None
    """None after the last step."""
    reason: str | None = None
    """Why the output is not what the step itself has put out, if so."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The step, or its compensation, asks to be entered again after an event or a time."""

    rest: str
    """What it waits for, as the history keeps it."""
    waiting_for: str
    due: Due | None
    answered: bool
    """The event was there before the wait."""
    given: tuple[str | None, ...] = ()
    """The ids of the events that its earlier waits were given, None for a sleep."""
    spawn: tuple[NewSaga, ...] = ()
    """Sagas that begin with the wait."""
    before: tuple[NewEntry, ...] = ()
    """What is told of them."""


@dataclass(frozen=True, slots=True)
class WaitsOn:
    """What has woken the saga does not end its rest."""

    due: Due | None
    retry_at: datetime | None = None
    """When the next attempt begins, if it rests until then."""
    events: int = 0
    """How many events have come that nobody had heard of before."""


@dataclass(frozen=True, slots=True)
class Woken:
    """What the saga waits for has come."""

    event: str | None = None
    """The event, if it is `notify` that brought it."""
    token: UUID | None = None
    """A new one, if the saga's has been used."""
    event_id: str | None = None
    """The event's, if it was meant for this very wait."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    failure: Failure
    token: UUID
    """For the rollback, if one begins."""
    jitter: float
    """Uniform in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Compensated:
    token: UUID


@dataclass(frozen=True, slots=True)
class CompensationFailed:
    failure: Failure
    jitter: float


@dataclass(frozen=True, slots=True)
class Probed:
    """A step that may have been done was asked for."""

    output: str | None
    """What it has put out; None if it was not done."""
    token: UUID
    """For the step that is undone next."""


@dataclass(frozen=True, slots=True)
class EventArrived:
    """`notify` was called with the saga's token."""

    event: str
    next_input: NextInput
    token: UUID


@dataclass(frozen=True, slots=True)
class RetryRequested:
    by: Operator
    token: UUID
    next_input: NextInput | None
    """The current step's input where it has none yet, because its map had failed."""
    overdue: bool = False
    """The saga's deadline has passed: it is void from now on."""
    step_id: str | None = None
    """Which step of a parallel saga; None for all that failed."""
    begins: tuple[Begin, ...] = ()
    """In a parallel saga, the inputs of those whose maps had failed."""


@dataclass(frozen=True, slots=True)
class SkipRequested:
    by: Operator
    output: str
    token: UUID
    next_input: NextInput | None
    overdue: bool = False
    """As in `RetryRequested`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """How a saga stood when it was paused."""

    status: SagaStatus
    waiting_for: str | None
    due: Due | None
    """When it would have been looked at, a delay counting from the pause."""
    again: bool = False
    """Whether the saga rested already: another command has changed how it goes on."""


@dataclass(frozen=True, slots=True)
class CompensationRequested:
    by: Operator
    token: UUID
    command: str = "compensate_step"
    """Or `cancel`, which also ends a saga that has done nothing yet; or `recall`, which does that
    for the saga's parent, and turns one back that is COMPLETED."""
    pause: Pause | None = None
    """As in `EditRequested`."""


@dataclass(frozen=True, slots=True)
class EditRequested:
    by: Operator
    step_id: str
    """The step that the input is for."""
    input: str
    token: UUID
    due: Due | None
    """When the saga would be looked at as it stands."""
    overdue: bool = False
    pause: Pause | None = None
    """How the saga stood before, if it is paused."""


@dataclass(frozen=True, slots=True)
class ReturnRequested:
    """A saga is to go on from a step that it has done already."""

    by: Operator
    step_id: str
    next_input: NextInput | None
    """None if it is not done."""
    token: UUID
    overdue: bool = False
    upcast: bool = False
    """Whether what it has done was done by another version of its definition."""


@dataclass(frozen=True, slots=True)
class PauseRequested:
    by: Operator
    due: Due | None


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    by: Operator
    pause: Pause | None
    """None if the saga is not paused."""


@dataclass(frozen=True, slots=True)
class CompensationSkipRequested:
    by: Operator
    step_id: str | None
    """The step that is not to be undone: by now the rollback may be at another."""
    token: UUID
    number: int = 0
    """Which of the times that it was done: a saga that went back has done it more than once."""


@dataclass(frozen=True, slots=True)
class Aborted:
    by: Operator
    pause: Pause | None = None
    """As in `EditRequested`."""


@dataclass(frozen=True, slots=True)
class Suspected:
    """Workers died while they drove this saga among others; it is about to be driven apart."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """Workers died, with this saga as the only suspect, as often as is allowed."""

    times: int


@dataclass(frozen=True, slots=True)
class MovedToVersion:
    """An upcaster has moved the saga to the definition that decides now."""

    step_id: str
    input: str | None
    """What the current step is given in this version."""
    entry: NewEntry


@dataclass(frozen=True, slots=True)
class Undecodable:
    """What the store holds cannot be read with the registered definition."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class BranchesBegin:
    """All that these steps of a parallel saga depend on is done."""

    begins: tuple[Begin, ...]


@dataclass(frozen=True, slots=True)
class BranchesRest:
    """A parallel saga was looked at, and there is nothing to do yet."""


@dataclass(frozen=True, slots=True)
class BranchLeft:
    """A step was cancelled, or will not be entered again, because another one failed for good."""


@dataclass(frozen=True, slots=True)
class InBranch:
    """Something happened in one step of a parallel saga."""

    step_id: str
    what: Happened
    busy: frozenset[str] = frozenset()
    """The steps whose code runs, and which cannot be left where they stand."""


Happened = (
    Started
    | TurnCame
    | TurnLost
    | StartAhead
    | StartDue
    | DeadlinePassed
    | StepDone
    | StepFailed
    | Compensated
    | CompensationFailed
    | Probed
    | EventArrived
    | RetryRequested
    | SkipRequested
    | CompensationRequested
    | EditRequested
    | ReturnRequested
    | PauseRequested
    | ResumeRequested
    | CompensationSkipRequested
    | Aborted
    | Suspected
    | WorkerLost
    | Undecodable
    | MovedToVersion
    | Waits
    | WaitsOn
    | Woken
    | BranchesBegin
    | BranchesRest
    | BranchLeft
    | InBranch
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write, and whether the driver goes on."""

    state: SagaState
    history: tuple[NewEntry, ...]
    drive: bool
    """There is work to do at once."""
    due: Due | None
    """When a driver is needed again. Now, if there is work at once; None if by itself never."""
    spawn: tuple[NewSaga, ...] = ()
    """Sagas that are created with it."""
    ends: bool = False
    """The saga comes to an end with it, or to a person: see `saga_core.ending`."""
