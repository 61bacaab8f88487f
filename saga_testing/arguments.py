"""What a test gives to the kit, held against what it takes: `SagaDefinitionError` says what."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from saga_core.codec import PayloadLimits
from saga_core.errors import SagaDefinitionError

__all__ = [
    "check_duration",
    "check_environment",
    "check_function",
    "check_start",
    "check_world",
    "copy_of",
]


def check_world(world: object) -> None:
    if world is not None and (not callable(world) or inspect.iscoroutinefunction(world)):
        raise SagaDefinitionError("world must be a plain function that returns the state")


def check_function(value: object, name: str) -> None:
    if value is not None and not callable(value):
        raise SagaDefinitionError(f"{name} must be a function, got {value!r}")


def check_duration(by: object) -> None:
    if not isinstance(by, timedelta):
        raise SagaDefinitionError(
            f"advance needs a timedelta, such as timedelta(hours=1), got {by!r}"
        )


def check_start(start: object) -> None:
    if not isinstance(start, datetime):
        raise SagaDefinitionError(
            f"start must be a datetime, such as datetime(2026, 1, 1, tzinfo=UTC), got {start!r}"
        )


def check_environment(start: object, limits: object, world: object, most_turns: object) -> None:
    """Check what `saga_env` does not hand to somebody who does."""
    check_start(start)
    if isinstance(start, datetime) and start.utcoffset() is None:
        raise SagaDefinitionError(
            f"start has no time zone: {start.isoformat()}; use datetime(..., tzinfo=UTC)"
        )
    if limits is not None and not isinstance(limits, PayloadLimits):
        raise SagaDefinitionError(f"limits must be PayloadLimits(...), got {limits!r}")
    if type(most_turns) is not int or most_turns < 1:
        raise SagaDefinitionError(
            f"most_turns must be a whole number of at least 1, got {most_turns!r}"
        )
    check_world(world)


def copy_of(world: Callable[[], Any]) -> Any:
    """Return a copy of the world as it is. Raises `SagaDefinitionError` if it cannot be copied."""
    state = world()
    try:
        return copy.deepcopy(state)
    except Exception as error:
        raise SagaDefinitionError(
            "world must return what copy.deepcopy can copy, such as a dict of texts; it returned "
            f"a {type(state).__name__}: {error}"
        ) from error
