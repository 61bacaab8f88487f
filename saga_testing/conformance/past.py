"""What the state machine has sent in a run, and how one call is sent and judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from saga_core.records import Due, NewSaga, Transition
from saga_core.store import SagaStore
from saga_testing.conformance.model import Model
from saga_testing.conformance.modelled import Saga
from saga_testing.conformance.sagas import HOUR

__all__ = ["Call", "Past"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one worker: how it is sent, and what the model says of its answer."""

    worker: int
    send: Callable[[SagaStore], Awaitable[Any]]
    check: Callable[[Model, Any], None]
    touched: Callable[[Any], Collection[UUID]]
    """The sagas that it may have changed, by its answer."""


@dataclass(slots=True)
class Past:
    """What was sent in this run, for who repeats it or is late."""

    model: Model = field(default_factory=Model)
    sagas: list[NewSaga] = field(default_factory=list)
    commits: list[Transition] = field(default_factory=list)
    claims: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def due(self, hours: int, at: int | None) -> Due:
        """Return a due that is so many hours from now or, if that is sooner, at a time."""
        now = self.model.now
        moment = None if at is None or now is None else now + at * HOUR
        return Due(delay=hours * HOUR, at=moment)

    def pick(self, number: int) -> tuple[UUID, Saga | None]:
        """Return one of the sagas that there are; for 7 one that was refused, purged or never sent.

        New sagas are at the front, so that a small number is one whose story is young.
        """
        there = list(self.model.sagas)[::-1]
        gone = [new.saga_id for new in self.sagas if new.saga_id not in self.model.sagas]
        if number == 7 or not there:
            return (gone[-1] if gone else uuid4()), None
        saga_id = there[number % len(there)]
        return saga_id, self.model.sagas[saga_id]
