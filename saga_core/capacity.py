"""How many sagas a worker drives at once: in all, and of each name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from saga_core.errors import SagaDefinitionError
from saga_core.records import Registered

__all__ = ["Capacity", "Room", "check_limit"]


@dataclass(frozen=True, slots=True)
class Room:
    """What may be claimed in one call: whatever it brings has a place."""

    kinds: tuple[Registered, ...]
    places: int
    full: frozenset[str]
    """The names of which no more may be claimed if all that it brings is of one of them."""


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
    def free(self) -> int:
        """How many more sagas may be driven."""
        return self._concurrency - self._driven.total()

    def take(self, name: str) -> None:
        """Note that a saga of this name is being driven."""
        self._driven[name] += 1

    def give(self, name: str) -> None:
        """Note that one is driven no more."""
        self._driven[name] -= 1

    def places_of(self, name: str) -> int:
        """Return how many sagas of a name may be claimed now."""
        if name not in self._per_name:
            return self.free
        return min(self.free, self._per_name[name] - self._driven[name])

    def room(self, kinds: Sequence[Registered], *, without: Collection[str] = ()) -> Room | None:
        """Return what may be claimed of these kinds together, `without` some names.

        Together, so that a store's order and its share for rollbacks hold across the names; so no
        more than the tightest of them has places. Once that is filled, another call without
        those in `full` goes on, and the last of them takes every place.
        """
        places = {kind.saga_name: self.places_of(kind.saga_name) for kind in kinds}
        open_ = {name: most for name, most in places.items() if most > 0 and name not in without}
        if not open_:
            return None
        tightest = min(open_.values())
        return Room(
            kinds=tuple(kind for kind in kinds if kind.saga_name in open_),
            places=tightest,
            full=frozenset(name for name, most in open_.items() if most == tightest),
        )


def check_limit(value: object, what: str) -> None:
    """Refuse what is no number of sagas. Raises `SagaDefinitionError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SagaDefinitionError(f"{what} must be a whole number of at least 1, got {value!r}")
