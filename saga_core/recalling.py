"""Roll a child saga back because its parent's step is undone."""

from __future__ import annotations

from uuid import UUID

from saga_core.children import Recall
from saga_core.engine import SagaEngine
from saga_core.happening import Operator
from saga_core.orders import give, order_of
from saga_core.status import SignalKind

__all__ = ["recall_with"]


def recall_with(engine: SagaEngine) -> Recall:
    """Return what lets a child, COMPLETED or on its way, turn back; a driver elsewhere is told.

    It raises what `intervene` does: `SagaStateError` for one that cannot turn back, and
    `ActiveSagaAlreadyExistsError` if another saga has its aggregate by now.
    """

    async def recall(child_id: UUID, parent_id: UUID) -> None:
        by = Operator(reason=f"its parent {parent_id} is rolled back")
        await give(engine, child_id, order_of(SignalKind.RECALL, by))

    return recall
