"""What a saga of the campaign is, and what befalls it: drawn by Hypothesis, replayed to the letter.

To bring a new feature under the checker, add what a plan may ask for here (an `Outcome`, a field
of `StepPlan`, a `Deal`), let `world` play it and `course` know what must follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from hypothesis import strategies as st

__all__ = ["Act", "Deal", "Move", "Outcome", "SagaPlan", "StepPlan", "WaitPlan", "sagas"]


class Act(StrEnum):
    """Which code of a step is executed."""

    DO = "step"
    UNDO = "compensation of step"
    PROBE = "probe of step"


class Outcome(StrEnum):
    """How one execution of a step, of its compensation or of its probe ends."""

    OK = "ok"
    FAIL = "fail"
    FATAL = "fatal"
    """An error that no retry policy retries."""
    GARBLED = "garbled"
    """The step happened, and what it puts out, or what is found of it, cannot be stored."""
    ABSENT = "absent"
    """The probe answers that the step was not done."""
    WAIT = "wait"
    """The step asks to be entered again with an event."""
    SLEEP = "sleep"
    """The step asks to be entered again later."""


class Deal(StrEnum):
    """What happens next. `pick` says to whom, among those there are."""

    GO = "go"
    """A waiting store call or step goes on; with nobody waiting, time passes and a worker looks."""
    LOSE_BEFORE = "lose before"
    """A store call is lost on its way to the store."""
    LOSE_AFTER = "lose after"
    """A store call is applied, and its answer lost."""
    CRASH = "crash"
    """The process of a waiting call or step dies; nothing of it is applied."""
    CRASH_APPLIED = "crash applied"
    """The process dies, and its last store call is applied all the same."""
    TIME = "time"
    """All leases end, and all waits are over."""
    LOOK = "look"
    """A worker looks for work."""
    OVERTAKE = "overtake"
    """The lease ends, and another worker looks for work."""
    RENEW = "renew"
    """A worker renews its leases."""
    FORSAKE = "forsake"
    """Somebody who waits for a call of the library is cancelled."""
    NOTIFY = "notify"
    SIGNAL = "signal"
    """Somebody sends a typed event, whether or not a step waits for it."""
    RETRY = "retry_step"
    SKIP = "skip_step"
    COMPENSATE = "compensate_step"
    SKIP_UNDO = "skip_compensation"
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    EDIT = "edit_input"
    BACK = "retry_from"
    ABORT = "abort"
    START = "start"
    """The same saga is started once more, with the same id."""


@dataclass(frozen=True, slots=True)
class Move:
    deal: Deal
    pick: int = 0


@dataclass(frozen=True, slots=True)
class WaitPlan:
    """What a step waits for, when it does."""

    events: tuple[str, ...] = ("Red",)
    """The names of the types."""
    correlation_id: str | None = None
    timeout: timedelta | None = None
    on_timeout: str = "fail"
    """`fail`, `retry`, or `output`, which in a compensation means the same as `fail`."""
    sleep: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Outcomes are by execution, whoever executes; after the last all is well."""

    do: tuple[Outcome, ...] = ()
    attempts: int = 1
    delayed: bool = False
    """Whether a retry waits for an hour, or not at all."""
    rooted: bool = True
    """Whether its map sees the whole context, or the output of the step before."""
    unmappable: bool = False
    """Whether its map raises."""
    undo: tuple[Outcome, ...] | None = ()
    """None for a step that cannot be undone."""
    undo_attempts: int = 1
    undo_delayed: bool = False
    pivot: bool = False
    """Whether there is no way back once it is done."""
    maybe: bool = False
    """Whether it is undone too when nobody knows whether it was done."""
    probe: tuple[Outcome, ...] | None = None
    """What it says when it is asked whether it was done; None for a step that is not asked."""
    wait: WaitPlan = WaitPlan()
    transaction: bool = False
    """Whether it works in the store's own transaction, on a store that lends them."""
    depends: tuple[int, ...] = ()
    """In a parallel saga, the steps before it on which it depends."""


@dataclass(frozen=True, slots=True)
class SagaPlan:
    steps: tuple[StepPlan, ...]
    moves: tuple[Move, ...] = field(default=())
    compensates: bool = True
    """`compensate_on_failure`."""
    parallel: bool = False
    hooks: tuple[Outcome, ...] | None = None
    """How the executions of the hooks of all ends end, after the last all is well; None for a saga
    without hooks."""
    cancels: bool = False
    """In a parallel saga, whether a step that fails for good cancels the others."""
    driven: bool = True
    """Whether its starter drives it, or leaves it to the workers."""
    begins: timedelta = timedelta(0)
    """How long after its creation it begins."""
    deadline: timedelta | None = None
    """How long it may take from then on. No multiple of the time that passes at once."""


_DEADLINES = st.sampled_from([0.5, 4.5, 10.5, 20.5]).map(lambda hours: timedelta(hours=hours))
_TROUBLE = st.sampled_from(
    [Outcome.WAIT] * 8
    + [Outcome.SLEEP] * 3
    + [Outcome.OK] * 4
    + [Outcome.FAIL] * 12
    + [Outcome.FATAL] * 3
    + [Outcome.GARBLED]
)
_HOURS = st.sampled_from([timedelta(hours=1), timedelta(hours=3)])
_WAITS = st.builds(
    WaitPlan,
    events=st.sampled_from([("Red",), ("Blue",), ("Red", "Blue")]),
    correlation_id=st.sampled_from([None, None, "x"]),
    timeout=st.one_of(st.none(), _HOURS),
    on_timeout=st.sampled_from(["fail", "retry", "retry", "output", "output"]),
    sleep=_HOURS,
)
_DO = st.one_of(*[st.just(())] * 3, st.lists(_TROUBLE, max_size=3).map(tuple))
_UNDO = st.one_of(
    st.just(None),
    st.just(()),
    st.lists(
        st.sampled_from(
            [Outcome.FAIL] * 5 + [Outcome.WAIT] * 2 + [Outcome.SLEEP, Outcome.OK, Outcome.FATAL]
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
_STEPS = st.builds(
    StepPlan,
    do=_DO,
    attempts=st.sampled_from([1, 2, 2, 3, 4]),
    delayed=st.booleans(),
    rooted=st.booleans(),
    unmappable=st.sampled_from([False] * 50 + [True]),
    undo=_UNDO,
    undo_attempts=st.sampled_from([1, 2, 3, 4]),
    undo_delayed=st.booleans(),
    maybe=st.sampled_from([False, False, True]),
    probe=st.one_of(
        st.just(None),
        st.lists(
            st.sampled_from(
                [Outcome.OK] * 3 + [Outcome.ABSENT] * 3 + [Outcome.FAIL] * 3 + [Outcome.GARBLED]
            ),
            max_size=2,
        ).map(tuple),
    ),
    wait=_WAITS,
)
_WEIGHTS = {
    Deal.GO: 36,
    Deal.LOSE_BEFORE: 3,
    Deal.LOSE_AFTER: 4,
    Deal.CRASH: 3,
    Deal.CRASH_APPLIED: 3,
    Deal.TIME: 2,
    Deal.LOOK: 2,
    Deal.OVERTAKE: 5,
    Deal.RENEW: 3,
    Deal.FORSAKE: 1,
    Deal.NOTIFY: 3,
    Deal.SIGNAL: 5,
    Deal.RETRY: 2,
    Deal.SKIP: 2,
    Deal.COMPENSATE: 1,
    Deal.SKIP_UNDO: 1,
    Deal.CANCEL: 1,
    Deal.PAUSE: 2,
    Deal.RESUME: 2,
    Deal.EDIT: 2,
    Deal.BACK: 2,
    Deal.ABORT: 1,
    Deal.START: 1,
}
_MOVES = st.builds(
    Move,
    deal=st.sampled_from([deal for deal, weight in _WEIGHTS.items() for _ in range(weight)]),
    pick=st.integers(0, 7),
)


def _steps(
    steps: list[StepPlan], doomed: bool, pivot: int | None, graph: list[set[int]] | None
) -> tuple[StepPlan, ...]:
    """Return the steps, the last of them failing for good if there is to be a long rollback."""
    if doomed:
        steps = [*steps[:-1], replace(steps[-1], do=(Outcome.FATAL,))]
    placed = tuple(_at(number, step, pivot) for number, step in enumerate(steps))
    if graph is None:
        return placed
    return tuple(replace(step, depends=_before(graph, place)) for place, step in enumerate(placed))


def _before(graph: list[set[int]], place: int) -> tuple[int, ...]:
    """Return on which steps one depends: they are told by how far before it they come."""
    back = graph[place % len(graph)]
    return tuple(sorted(place - each for each in back if each <= place))


def _at(number: int, step: StepPlan, pivot: int | None) -> StepPlan:
    """Return a step as it may be at its place: what is never undone cannot be in doubt."""
    doubtful = step.maybe and step.undo is not None and (pivot is None or number < pivot)
    return replace(
        step,
        pivot=number == pivot,
        maybe=doubtful,
        probe=step.probe if doubtful else None,
        # Told from what is drawn anyhow: a draw of its own would change all plans of all seeds.
        transaction=(number + step.attempts + step.undo_attempts) % 3 == 0,
    )


def sagas() -> st.SearchStrategy[SagaPlan]:
    """Return the plans of 1 to 12 steps, every third of them with parallel ones."""
    return st.sampled_from([False, False, True]).flatmap(_sagas)


def _sagas(parallel: bool) -> st.SearchStrategy[SagaPlan]:
    graph = st.lists(st.sets(st.integers(1, 4), max_size=3), min_size=1, max_size=12)
    return st.builds(
        SagaPlan,
        steps=st.builds(
            _steps,
            st.lists(_STEPS, min_size=2 if parallel else 1, max_size=12),
            st.booleans(),
            st.one_of(*[st.none()] * 3, st.integers(0, 5)),
            graph if parallel else st.none(),
        ),
        hooks=st.one_of(
            *[st.none()] * 2,
            st.lists(st.sampled_from([Outcome.OK, Outcome.FAIL]), max_size=3).map(tuple),
        ),
        parallel=st.just(parallel),
        cancels=st.booleans() if parallel else st.just(False),
        moves=st.lists(_MOVES, min_size=20, max_size=70).map(tuple),
        compensates=st.sampled_from([True] * 7 + [False]),
        driven=st.booleans(),
        begins=st.sampled_from([timedelta(0)] * 4 + [timedelta(hours=1)]),
        deadline=st.one_of(*[st.none()] * 9, _DEADLINES),
    )
