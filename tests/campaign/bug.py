"""Bugs to be planted: the judge has to catch each of them.

Each is a patch of a few lines, and a pattern of the sentence that must convict it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

__all__ = ["BUGS", "Bug", "Patch", "bug"]

Patch = pytest.MonkeyPatch

Plant = Callable[[Patch], None]


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug, and what the judge must say of it."""

    name: str
    plant: Plant
    verdict: str
    lends: bool = False
    """Whether it takes a store that lends its transactions."""


BUGS: list[Bug] = []
"""All bugs of the modules `bugs_in_*` that were imported."""


def bug(verdict: str, *, lends: bool = False) -> Callable[[Plant], Plant]:
    """Register a function that plants a bug, and the pattern of its verdict."""

    def keep(plant: Plant) -> Plant:
        BUGS.append(Bug(plant.__name__, plant, verdict, lends))
        return plant

    return keep
