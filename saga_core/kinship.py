"""Whether a child that has ended may be brought back: not behind its parent's back."""

from __future__ import annotations

from saga_core.child import parent_of
from saga_core.errors import SagaNotFoundError, SagaStateError
from saga_core.records import SagaRecord
from saga_core.store import SagaStore

__all__ = ["check_parent_waits"]


async def check_parent_waits(store: SagaStore, record: SagaRecord) -> None:
    """Raise `SagaStateError` if an ended saga has a parent that waits for it no more."""
    link = parent_of(record)
    if link is None:
        return
    try:
        parent = await store.load(link.saga_id)
    except SagaNotFoundError:
        return  # nobody is left whom it would surprise
    if str(record.saga_id) in (parent.state.waiting_for or ""):
        return
    raise SagaStateError(
        f"saga {record.saga_id} is {record.state.status} and a child of saga {link.saga_id} "
        f"('{link.saga_name}'), which has moved on: it is {parent.state.status} and waits for this "
        "child no more. Ask for what is wanted of the parent; it starts the child anew.",
        saga_id=record.saga_id,
    )
