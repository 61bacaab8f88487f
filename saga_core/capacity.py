"""How many sagas a worker drives at once: in all, and of each name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saga_core.errors import SagaDefinitionError
from saga_core.records import Registered

__all__ = ["Capacity", "Room", "check_limit"]


@dataclass(frozen=True, slots=True)
class Room:
    """What may be claimed in one call."""

    name: str | None
    """The saga name that has a limit of its own; None for all that have none."""
    kinds: tuple[Registered, ...]
    places: int


class Capacity:
    """The places of one worker. What it claims is bounded by what is free."""

    def __init__(self, concurrency: int, per_name: Mapping[str, int] | None) -> None:
        """Raises `SagaDefinitionError`."""
        check_limit(concurrency, "concurrency")
        if per_name is not None and not isinstance(per_name, Mapping):
            raise SagaDefinitionError(
                f"per_name must map saga names to numbers, got {type(per_name).__name__}"
            )
        self._per_name = dict(per_name or {})
        for name, most in self._per_name.items():
            if not isinstance(name, str):
                raise SagaDefinitionError(f"per_name must map saga names to numbers, got {name!r}")
            check_limit(most, f"per_name of saga '{name}'")
        self._concurrency = concurrency
        self._driven: Counter[str] = Counter()

    @property
    def names(self) -> tuple[str, ...]:
        """The saga names that have a limit."""
        return tuple(self._per_name)

    @property
    def free(self) -> int:
        """How many more sagas may be driven."""
        return self._concurrency - self._driven.total()

    def take(self, name: str) -> None:
        """Note that a saga of this name is being driven."""
        self._driven[name] += 1

    def give(self, name: str) -> None:
        """Note that one is driven no more."""
        self._driven[name] -= 1

    def places_of(self, name: str | None) -> int:
        """Return how many sagas of a name may be claimed now; None for those without a limit."""
        if name is None or name not in self._per_name:
            return self.free
        return min(self.free, self._per_name[name] - self._driven[name])

    def rooms(self, kinds: Sequence[Registered]) -> list[Room]:
        """Return what may be claimed, one after another: each claim leaves less for the next.

        The names with a limit come first: of those without one there may be enough for all places.
        """
        found = []
        for name in (*self._per_name, None):
            own = tuple(kind for kind in kinds if self._limited(kind) == name)
            if own and self.places_of(name) > 0:
                found.append(Room(name, own, self.places_of(name)))
        return found

    def _limited(self, kind: Registered) -> str | None:
        return kind.saga_name if kind.saga_name in self._per_name else None


def check_limit(value: object, what: str) -> None:
    """Refuse what is no number of sagas. Raises `SagaDefinitionError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SagaDefinitionError(f"{what} must be a whole number of at least 1, got {value!r}")
