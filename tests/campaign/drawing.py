"""Plans that Hypothesis draws for a name: the same ones each time."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

__all__ = ["LOT", "drawn"]

LOT = 25
"""Plans that are drawn together: within one lot many resemble each other, so it is small."""

_T = TypeVar("_T")


def drawn(plans: SearchStrategy[_T], name: str, size: int, only: int | None = None) -> list[_T]:
    """Return so many plans, or those of the lot in which is the one that has the number `only`."""
    lots = range(-(-size // LOT)) if only is None else [only // LOT]
    return [
        plan for lot in lots for plan in _lot(plans, f"{name}/{lot}", min(LOT, size - lot * LOT))
    ]


def _lot(plans: SearchStrategy[_T], name: str, size: int) -> list[_T]:
    found: list[_T] = []

    @seed(name)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans)
    def draw(plan: _T) -> None:
        found.append(plan)

    draw()
    return found
