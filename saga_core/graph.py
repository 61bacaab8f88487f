"""What needs what: the order of parallel steps, and a cycle spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["cycle_in", "dependents_of", "in_order"]

Needs = Mapping[str, Sequence[str]]
"""By step, the steps that must be done before it. Each is a key itself."""


def in_order(needs: Needs) -> list[str]:
    """Return the steps, each after all that it needs; else in the order in which they are given.

    Steps of a cycle, and those that need one, are left out.
    """
    left = {step: len(set(wanted)) for step, wanted in needs.items()}
    dependents = dependents_of(needs)
    place = {step: number for number, step in enumerate(needs)}
    ordered: list[str] = []
    free = [step for step, count in left.items() if not count]
    while free:
        ordered += free
        freed = []
        for step in free:
            for dependent in dependents[step]:
                left[dependent] -= 1
                if not left[dependent]:
                    freed.append(dependent)
        free = sorted(freed, key=place.__getitem__)
    return ordered


def cycle_in(needs: Needs) -> list[str] | None:
    """Return a cycle, its first step again at its end; None if there is none."""
    sound = set(in_order(needs))
    step = next((each for each in needs if each not in sound), None)
    if step is None:
        return None
    path: list[str] = []
    while step not in path:
        path.append(step)
        # What is left out needs something that is left out, or it would have had its turn.
        step = next(each for each in needs[step] if each not in sound)
    return [*path[path.index(step) :], step]


def dependents_of(needs: Needs) -> dict[str, tuple[str, ...]]:
    """Return by step those that need it, in the order in which they are given."""
    found: dict[str, list[str]] = {step: [] for step in needs}
    for step, wanted in needs.items():
        for each in dict.fromkeys(wanted):
            found[each].append(step)
    return {step: tuple(dependents) for step, dependents in found.items()}
