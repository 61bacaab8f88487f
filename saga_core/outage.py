"""Tell of a store that does not answer: once, however many sagas ask it and however often."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from saga_core.errors import SagaError, StoreUnavailableError

__all__ = ["Outage"]

logger = logging.getLogger("saga_core")


class Outage:
    """Whether the store of one engine answers, as far as its callers have heard.

    An outage begins with a call without an answer, and is told then, as a warning; so is each
    further kind of error in it, and all else at DEBUG. It is over with an answer while nobody is
    left who repeats a call: as long as some calls get through and others do not, it is the same.
    """

    def __init__(self) -> None:
        self._told: set[type[BaseException]] = set()
        self._repeating = 0

    def unanswered(self, what: str, error: BaseException) -> None:
        """Tell of a call without an answer, unless that was told; `what` names the call."""
        told = type(error) in self._told
        self._told.add(type(error))
        logger.log(
            logging.DEBUG if told else logging.WARNING,
            "%s got no answer from the store%s: %s",
            what,
            "" if told else " (told once until the store answers again)",
            str(error) or "not in time",
        )

    def answered(self) -> None:
        """Take note of an answer."""
        if self._told and not self._repeating:
            self._told.clear()
            logger.info("the store answers again")

    def undriven(self, saga_id: UUID, error: Exception) -> None:
        """Tell why a saga could not be driven on. Of an outage, all of them would say the same."""
        unavailable = isinstance(error, StoreUnavailableError)
        if unavailable:
            self.unanswered(f"the driver of saga {saga_id}", error)
        logger.log(
            logging.INFO if unavailable else logging.WARNING,
            "saga %s could not be driven on; it is tried again when its lease has ended: %s",
            saga_id,
            error,
            exc_info=not isinstance(error, SagaError),
        )

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Surround calls that repeat what had no answer."""
        self._repeating += 1
        try:
            yield
        finally:
            self._repeating -= 1
