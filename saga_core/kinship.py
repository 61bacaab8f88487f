"""Who is whose child, and what may be done to a child: nothing behind its parent's back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import ValidationError

from saga_core.branches import standing
from saga_core.child import ChildResult, parent_of
from saga_core.definition import StepSpec
from saga_core.errors import SagaNotFoundError, SagaStateError
from saga_core.pausing import newest_pause
from saga_core.records import SagaRecord
from saga_core.store import SagaStore

__all__ = ["check_own_child", "check_parent_waits", "is_child_of", "named_in"]


def is_child_of(record: SagaRecord, parent_id: UUID) -> bool:
    """Tell whether another saga has started this one. Raises `PayloadError`."""
    link = parent_of(record)
    return link is not None and link.saga_id == parent_id


async def named_in(store: SagaStore, output: Any) -> SagaRecord | None:
    """Return the saga that an output names as a child, if it does and that is in the store."""
    try:
        return await store.load(ChildResult.model_validate(output).saga_id)
    except (ValidationError, SagaNotFoundError):
        return None


def check_own_child(named: SagaRecord | None, parent_id: UUID, step: StepSpec) -> None:
    """Raise `SagaStateError` if a child's step is to be skipped with somebody else's saga.

    Of an id that no saga has nothing can be said: whoever gives it wants no child to be undone.
    """
    if named is None or step.child is None:
        return
    link = parent_of(named)
    if link is not None and (link.saga_id, link.step_id) == (parent_id, step.step_id):
        return
    raise SagaStateError(
        f"skip_step: saga {named.saga_id} is no child of step '{step.step_id}' of saga "
        f"{parent_id}, so a rollback must not undo it. Give the id of a child that this step has "
        "started, or one that no saga has."
    )


async def check_parent_waits(store: SagaStore, record: SagaRecord) -> None:
    """Raise `SagaStateError` if an ended saga has a parent that waits for it no more."""
    link = parent_of(record)
    if link is None:
        return
    try:
        parent = await store.load(link.saga_id)
    except SagaNotFoundError:
        return  # nobody is left whom it would surprise
    if any(str(record.saga_id) in each for each in _waits_for(parent)):
        return
    raise SagaStateError(
        f"saga {record.saga_id} is {record.state.status} and a child of saga {link.saga_id} "
        f"('{link.saga_name}'), which has moved on: it is {parent.state.status} and waits for this "
        "child no more. Ask for what is wanted of the parent; it starts the child anew.",
        saga_id=record.saga_id,
    )


def _waits_for(record: SagaRecord) -> list[str]:
    """Return what a saga waits for at each of its steps, or did when it was paused."""
    pause = newest_pause(record.outputs) if record.state.is_paused else None
    whole = record.state.waiting_for if pause is None else pause.waiting_for
    branches = (each.state.waiting_for for each in standing(record).values() if each.rests)
    return [each for each in (whole, *branches) if each is not None]
