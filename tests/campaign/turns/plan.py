"""What a queue of the campaign is: sagas started for one aggregate, and what befalls them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from hypothesis import strategies as st

from tests.campaign.plan import Outcome

__all__ = ["Deal", "Member", "Move", "OnConflict", "QueuePlan", "StepPlan", "queues"]

OnConflict = Literal["queue", "return", "raise"]


class Deal(StrEnum):
    """What happens next. `pick` says to whom, among those there are."""

    GO = "go"
    """A waiting store call or step goes on; with nobody waiting, somebody starts or looks."""
    LOSE_BEFORE = "lose before"
    LOSE_AFTER = "lose after"
    CRASH = "crash"
    CRASH_APPLIED = "crash applied"
    START = "start"
    """A saga that was not started yet is."""
    AGAIN = "again"
    """A saga is started once more, with the same id."""
    TIME = "time"
    """All leases end, and all delays are over."""
    LOOK = "look"
    """A worker looks for work."""
    CANCEL = "cancel"
    ABORT = "abort"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry_step"
    SKIP_UNDO = "skip_compensation"


@dataclass(frozen=True, slots=True)
class Move:
    deal: Deal
    pick: int = 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Outcomes are by execution, whoever executes; after the last all is well."""

    do: tuple[Outcome, ...] = ()
    undo: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One of the sagas."""

    steps: tuple[StepPlan, ...]
    on_conflict: OnConflict = "queue"
    driven: bool = True
    """Whether its starter drives it, or leaves it to the workers."""
    delayed: bool = False
    """Whether it is to begin an hour after its start."""
    hooks: bool = False
    aborted: bool = False
    """Whether the person who is asked about it when it is stuck gives it up."""


@dataclass(frozen=True, slots=True)
class QueuePlan:
    members: tuple[Member, ...]
    moves: tuple[Move, ...] = ()


_DO = st.one_of(
    *[st.just(())] * 3,
    st.lists(
        st.sampled_from([Outcome.FAIL] * 3 + [Outcome.FATAL] * 3 + [Outcome.OK]), max_size=2
    ).map(tuple),
)
_UNDO = st.one_of(
    *[st.just(())] * 3, st.sampled_from([(Outcome.FAIL,), (Outcome.FATAL,), (Outcome.FATAL,) * 2])
)
_MEMBERS = st.builds(
    Member,
    steps=st.lists(st.builds(StepPlan, do=_DO, undo=_UNDO), min_size=1, max_size=3).map(tuple),
    on_conflict=st.sampled_from(["queue"] * 6 + ["return", "raise"]),
    driven=st.booleans(),
    delayed=st.sampled_from([False] * 6 + [True]),
    hooks=st.sampled_from([False, False, True]),
    aborted=st.booleans(),
)
_WEIGHTS = {
    Deal.GO: 44,
    Deal.LOSE_BEFORE: 2,
    Deal.LOSE_AFTER: 5,
    Deal.CRASH: 3,
    Deal.CRASH_APPLIED: 5,
    Deal.START: 9,
    Deal.AGAIN: 3,
    Deal.TIME: 3,
    Deal.LOOK: 5,
    Deal.CANCEL: 4,
    Deal.ABORT: 4,
    Deal.PAUSE: 2,
    Deal.RESUME: 2,
    Deal.RETRY: 2,
    Deal.SKIP_UNDO: 1,
}
_MOVES = st.builds(
    Move,
    deal=st.sampled_from([deal for deal, weight in _WEIGHTS.items() for _ in range(weight)]),
    pick=st.integers(0, 7),
)


def queues() -> st.SearchStrategy[QueuePlan]:
    """Return the plans of 2 to 5 sagas."""
    return st.builds(
        QueuePlan,
        members=st.lists(_MEMBERS, min_size=2, max_size=5).map(tuple),
        moves=st.lists(_MOVES, min_size=20, max_size=60).map(tuple),
    )
