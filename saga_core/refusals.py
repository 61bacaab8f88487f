"""Claimed sagas that cannot be driven here: how long they are left to others, and who is told."""

from __future__ import annotations

import logging
from datetime import timedelta
from enum import Enum
from uuid import UUID

from saga_core.errors import SagaDefinitionError
from saga_core.records import SagaRecord

__all__ = ["Refusals", "TakenUp"]

logger = logging.getLogger("saga_core")

FIRST = timedelta(seconds=0.25)

REMEMBERED = 10_000
"""Sagas. Who has more of them forgets all, and begins with short delays again."""


class TakenUp(Enum):
    """What became of a claimed saga."""

    DRIVEN = "driven"
    """Until it ended, waited or was lost."""
    PUT_BACK = "put back"
    """It is a suspect, and another one is being driven here."""
    REFUSED = "refused"
    """It cannot be driven here, and is left to others for a while."""


class Refusals:
    """What one process had to give back, because its definition or its upcaster does not fit.

    Such a saga is healthy: a worker of another release drives it. So it is neither STUCK nor a
    suspect, and is looked at again here after a delay that doubles each time.
    """

    def __init__(self, *, longest: timedelta) -> None:
        self._longest = longest
        self._times: dict[UUID, int] = {}
        self._warned: set[tuple[str, str]] = set()

    def delay(self, record: SagaRecord, error: SagaDefinitionError) -> timedelta:
        """Return for how long to leave the saga alone. Warns once per name and version."""
        times = self._times.pop(record.saga_id, 0)
        if len(self._times) >= REMEMBERED:
            self._times.clear()
        self._times[record.saga_id] = times + 1
        kind = (record.saga_name, record.definition_version)
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(
                "sagas '%s' of version '%s' cannot be driven here and are left to others: %s",
                *kind,
                error,
            )
        return min(FIRST * (1 << min(times, 20)), self._longest)

    def forget(self, saga_id: UUID) -> None:
        """Begin anew with a saga that could be driven after all."""
        self._times.pop(saga_id, None)
