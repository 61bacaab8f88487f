"""What the tables and columns of the SQL stores are called: their own, or a user's model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from saga_backends.sql.rows import SAGA_COLUMNS, STATE_COLUMNS

__all__ = ["Names", "OwnColumn", "no_values"]


def no_values() -> tuple[Any, ...]:
    """Return nothing: the tables have no columns of the user's own."""
    return ()


@dataclass(frozen=True)
class OwnColumn:
    """A column of the user's own that an insert fills."""

    name: str
    """Quoted where it must be."""
    expression: str | None = None
    """SQL for its value; None if the value is a parameter."""


@dataclass(frozen=True)
class Names:
    """Tables as they stand in a statement, and those columns of a saga that may differ."""

    sagas: str
    history: str
    inbox: str
    saga_id: str = "saga_id"
    step_index: str = "step_index"
    token: str = "token"  # noqa: S105 - a column's name
    attempt: str = "attempt"
    due_at: str = "due_at"
    own: tuple[OwnColumn, ...] = ()
    own_values: Callable[[], tuple[Any, ...]] = no_values
    """Return the parameters for those of `own` that have no expression, in order."""

    def column(self, name: str) -> str:
        """Return what a column of `SAGA_COLUMNS` is called."""
        return str(getattr(self, name, name)) if name in _MAY_DIFFER else name

    @cached_property
    def saga_columns(self) -> tuple[str, ...]:
        return tuple(self.column(name) for name in SAGA_COLUMNS)

    @cached_property
    def state_columns(self) -> tuple[str, ...]:
        return tuple(self.column(name) for name in STATE_COLUMNS)

    @cached_property
    def own_columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.own)

    def own_places(self, place: Callable[[int], str]) -> tuple[str, ...]:
        """Return what stands for the values of `own`; `place(n)` is the nth parameter, from 0."""
        places, number = [], 0
        for column in self.own:
            if column.expression is None:
                places.append(place(number))
                number += 1
            else:
                places.append(column.expression)
        return tuple(places)


_MAY_DIFFER = ("saga_id", "step_index", "token", "attempt", "due_at")
