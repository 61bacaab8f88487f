"""Say where each step of a parallel saga stands, as a part of a sentence."""

from __future__ import annotations

from saga_core.branches import Branch, standing
from saga_core.errors import PayloadError
from saga_core.records import SagaRecord
from saga_core.status import Direction
from saga_core.wording import short, when

__all__ = ["told_of_branches"]

MOST_TOLD = 10


def told_of_branches(record: SagaRecord) -> str:
    """Return what to add to a sentence on a saga; nothing for one that is not at several steps."""
    try:
        branches = list(standing(record).values())
    except PayloadError:
        return "; where its steps stand cannot be read"
    if not branches or (len(branches) == 1 and branches[0].drive):
        return ""
    said = [_told(record, branch) for branch in branches[:MOST_TOLD]]
    more = len(branches) - MOST_TOLD
    if more > 0:
        said.append(f"and {more} more")
    return f"; its steps: {', '.join(said)}"


def _told(record: SagaRecord, branch: Branch) -> str:
    state = branch.state
    step = f"'{state.step_id}'"
    if state.direction is Direction.ROLLBACK:
        step = f"undoing {step}"
    error = short(state.last_error or "")
    attempt = f"at attempt {state.attempt + 1}"
    if branch.is_stuck:
        return f"{step} is stuck with {error}"
    if branch.left:
        return f"{step} is left, because another failed"
    if branch.is_given_up:
        return f"{step} failed with {error}"
    if branch.drive:
        return f"{step} is {attempt}"
    until = "" if branch.due_at is None else f" until {when(record, branch.due_at)}"
    what = "" if state.waiting_for is None else f" for {state.waiting_for}"
    return f"{step} waits{what}{until} {attempt}"
