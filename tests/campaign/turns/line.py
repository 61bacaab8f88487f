"""The queue of one aggregate as it must stand, told from what the store answered."""

from __future__ import annotations

from uuid import UUID

from saga_core.records import Claims, NewSaga, SagaState, Transition
from tests.campaign.ledger import Call

__all__ = ["QueueLine"]


class QueueLine:
    """Who has the aggregate and who waits for it, by the writes that the store accepted."""

    def __init__(self) -> None:
        self.states: dict[UUID, SagaState] = {}
        """In the order in which the store took the sagas in."""
        self._versions: dict[UUID, int] = {}

    @property
    def active(self) -> list[UUID]:
        return [saga_id for saga_id, state in self.states.items() if state.active]

    @property
    def queued(self) -> list[UUID]:
        """The sagas that wait, in the order in which their turns come."""
        return [saga_id for saga_id, state in self.states.items() if state.is_queued]

    def follow(self, call: Call) -> UUID | None:
        """Take in a call; return the saga that it wrote, if it wrote one."""
        if call.error is not None:
            return None
        request, answer = call.request, call.answer
        if isinstance(answer, Claims):
            for record in answer.records:
                self._rise(record.saga_id, record.version)
        elif isinstance(request, NewSaga) and answer.created:
            self.states[request.saga_id] = request.state
            self._versions[request.saga_id] = 1
            return request.saga_id
        # A commit that is repeated gets the version of then.
        elif isinstance(request, Transition) and self._rise(request.saga_id, answer.version):
            self.states[request.saga_id] = request.state
            return request.saga_id
        return None

    def _rise(self, saga_id: UUID, version: int) -> bool:
        rises = version > self._versions.get(saga_id, 0)
        if rises:
            self._versions[saga_id] = version
        return rises
