"""What is to be said of a saga beside where it is: its kin, and the end that it comes to."""

from __future__ import annotations

from saga_core.child import children_of, parent_of
from saga_core.errors import PayloadError
from saga_core.pending import pending_end
from saga_core.records import SagaRecord
from saga_core.status import SagaStatus

__all__ = ["comes_to", "kin"]


def kin(record: SagaRecord) -> str:
    """Say who has started a saga, and what it has started."""
    try:
        parent, children = parent_of(record), children_of(record)
    except PayloadError:
        return ""
    said = ""
    if parent is not None:
        said = f"; step '{parent.step_id}' of saga {parent.saga_id} has started it as a child"
    if children:
        told = ", ".join(f"{each.saga_id} (step '{each.step_id}')" for each in children)
        said += f"; it has started {told}"
    return said


def comes_to(record: SagaRecord) -> str:
    """Say how a saga ends once the hook that it is in is over."""
    try:
        pending = pending_end(record)
    except PayloadError:
        return "; how it is to end cannot be read"
    if pending is None:
        return ""
    where = ""
    if pending.state.status is SagaStatus.STUCK:
        where = f" at step '{pending.state.step_id}'"
        if pending.outer is not None:
            where = f" in its hook '{pending.outer.hook}'"
    return f"; it has come to its end, and is {pending.state.status}{where} once the hook is over"
