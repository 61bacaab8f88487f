"""What an upcaster sees of a saga in flight, and returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from saga_core.errors import SagaDefinitionError
from saga_core.status import Direction

__all__ = ["DoneStep", "SagaInFlight", "Upcaster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneStep:
    """A step that is done and not undone: what it was given, and what it has put out."""

    output: Any
    """A JSON value; an upcaster may also return the step's own model."""
    input: Any = None
    ran: bool = False
    """False if a person skipped it before it ran, or an upcaster made it up: there is nothing to
    undo, and `input` is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaInFlight:
    """A saga that has not ended, as it is on record.

    An upcaster gets it in the form of the old version and returns it in that of the new one,
    changed with `dataclasses.replace`.
    """

    saga_id: UUID
    saga_name: str
    version: str
    """The version that it is of; what is returned may leave it."""
    direction: Direction
    """Whether it goes forward or is being rolled back; cannot be changed."""
    initial_data: Any
    done: Mapping[str, DoneStep]
    """What was done, by step id in the order in which it was done. In a rollback only what is yet
    to be undone. What an upcaster takes out is never undone."""
    step_id: str
    """The step being done or, in a rollback, undone."""
    step_input: Any
    """What the step was given, in a rollback None. Returned as None, or with another `step_id`,
    it is computed by the new version's input map."""
    maybe_done: Mapping[str, Any] = field(default_factory=dict)
    """What may have been done, nobody knows, and is yet to be undone: what it was given, by step
    id. At most the step that a rollback is at. It must stay; its input may be converted."""


Convert = Callable[[SagaInFlight], SagaInFlight]


@dataclass(frozen=True, slots=True)
class Upcaster:
    """A function that moves sagas of an older version, with the fingerprints of that version.

    The function is pure and quick: it runs in the event loop, is called again after a lost lease,
    and by `explain` and `check_definitions`, which only try. A version that is registered here
    brings its own fingerprint; `fingerprints` names others, of definitions whose code is gone.
    `check_definitions` tells them.
    """

    convert: Convert
    fingerprints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `SagaDefinitionError`."""
        if not callable(self.convert) or inspect.iscoroutinefunction(self.convert):
            raise SagaDefinitionError(
                f"an upcaster must be a plain function of one SagaInFlight, got {self.convert!r}"
            )
        told = self.fingerprints
        if not isinstance(told, tuple) or not all(isinstance(one, str) and one for one in told):
            raise SagaDefinitionError(
                f"fingerprints of an upcaster must be a tuple of strings, got {told!r}"
            )
