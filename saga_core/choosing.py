"""Which step of a saga a command means: the current one, or in a parallel saga the named one."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from saga_core.branches import Branch
from saga_core.crew import views_of
from saga_core.errors import SagaStateError
from saga_core.happening import Begin, Happened, InBranch, Operator, RetryRequested
from saga_core.live import LiveSaga
from saga_core.status import Direction, SagaStatus

__all__ = ["begins_anew", "chosen", "in_step", "is_forward", "is_undone", "skippable"]


def chosen(
    live: LiveSaga, step_id: str | None, command: str, fits: Callable[[Branch], bool]
) -> LiveSaga:
    """Return the saga as seen from the step that a command is for.

    Without a `step_id` it must be plain which one. Raises `SagaStateError`, which lists the steps
    that would do; of a saga that has no step by now the command's own rule says more.
    """
    state = live.state
    if not live.runs_branches:
        if step_id is not None and step_id != state.step_id:
            raise SagaStateError(
                f"{command}: the saga is {state.status} and at step '{state.step_id}', not at "
                f"'{step_id}'"
            )
        return live
    views = views_of(live)
    able = [each for each, branch in views.branches.items() if fits(branch)]
    if step_id is not None and step_id not in able:
        raise SagaStateError(
            f"{command}: the saga is {state.status}, and step '{step_id}' is none that it can be "
            f"given to now; those are: {', '.join(able) or 'none'}"
        )
    if step_id is None and len(able) > 1:
        raise SagaStateError(
            f"{command}: the saga is {state.status} at several steps; say which one by step_id: "
            f"{', '.join(able)}"
        )
    return views[step_id or able[0]] if able else live


def is_forward(branch: Branch) -> bool:
    """Tell whether a step is being done."""
    return branch.state.direction is Direction.FORWARD


def skippable(live: LiveSaga) -> Callable[[Branch], bool]:
    """Return what tells whether a step waits, is stuck or has failed, on the way forward."""
    stuck = live.state.status is SagaStatus.STUCK
    return lambda branch: is_forward(branch) and (stuck or not branch.drive)


def is_undone(branch: Branch) -> bool:
    """Tell whether a step is being undone."""
    return branch.state.direction is Direction.ROLLBACK


def in_step(at: LiveSaga, whole: LiveSaga, happened: Happened) -> Happened:
    """Return what happens to the saga when this happens at the step that was chosen."""
    return happened if at is whole else InBranch(at.state.step_id or "", happened)


def begins_anew(live: LiveSaga, by: Operator, step_id: str | None) -> RetryRequested:
    """Return the request to try again, with the inputs of steps whose maps had failed."""
    if not live.runs_branches:
        state = chosen(live, step_id, "retry_step", is_forward).state
        # The input of a hook is computed where it runs: it tells how the saga stands then.
        missing = state.step_input is None and state.direction is Direction.FORWARD
        missing = missing and not state.in_hook
        step = live.definition.step(state.step_id) if missing and state.step_id else None
        mapped = None if step is None else live.map_input(step)
        return RetryRequested(by, uuid4(), mapped, live.is_overdue)
    begins = tuple(
        Begin(each, live.map_input(live.definition.step(each)), uuid4())
        for each, branch in views_of(live).branches.items()
        if branch.state.step_input is None and branch.state.direction is Direction.FORWARD
    )
    return RetryRequested(by, uuid4(), None, live.is_overdue, step_id, begins)
