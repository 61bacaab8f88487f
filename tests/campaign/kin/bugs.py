"""What can go wrong between a parent and its children."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from saga_core import SagaDefinition, SagaStatus, child, children
from saga_core.child import child_id_of
from saga_core.children import Children
from saga_core.happening import Compensated, StepDone
from saga_core.status import Hook
from tests.campaign.bug import Patch

__all__ = ["BUGS"]

Plant = Callable[[Patch], None]

BUGS: list[tuple[Plant, str]] = []
"""Bugs, and the pattern of what the judge must say of each."""


def bug(verdict: str) -> Callable[[Plant], Plant]:
    """Register a function that plants a bug."""

    def keep(plant: Plant) -> Plant:
        BUGS.append((plant, verdict))
        return plant

    return keep


@bug("was done, and nobody was told that it began")
def nothing_is_told_at_the_start(patch: Patch) -> None:
    hook = SagaDefinition.hook

    def later_ones(self: SagaDefinition, name: Hook) -> Any:
        return None if name is Hook.ON_START else hook(self, name)

    patch.setattr(SagaDefinition, "hook", later_ones)


@bug("'(parent|child)' is left")
def child_tells_nobody_of_its_end(patch: Patch) -> None:
    async def tell_parent(self: Children, live: Any) -> Any:
        return StepDone(None, "null", uuid4(), None)

    patch.setattr(Children, "tell_parent", tell_parent)


@bug(r"is COMPLETED with the children \[.*COMPENSATED'\]")
def failure_of_a_child_is_a_success(patch: Patch) -> None:
    end_of = children._end_of

    def any_end(record: Any) -> Any:
        end = end_of(record)
        forward = record.state.waiting_for != "undo"
        return SagaStatus.COMPLETED if end is SagaStatus.COMPENSATED and forward else end

    patch.setattr(children, "_end_of", any_end)


@bug("is COMPENSATED with the children .*COMPLETED")
def child_is_not_recalled(patch: Patch) -> None:
    async def undo(self: Children, live: Any, spec: Any) -> Any:
        return Compensated(uuid4())

    patch.setattr(Children, "_undo", undo)


@bug("a child was undone after what came before it")
def rollback_does_not_wait_for_the_child(patch: Patch) -> None:
    undo = Children._undo

    async def hasty(self: Children, live: Any, spec: Any) -> Any:
        happened = await undo(self, live, spec)
        recalled = type(happened).__name__ in ("Waits", "WaitsOn")
        return Compensated(uuid4()) if recalled else happened

    patch.setattr(Children, "_undo", hasty)


@bug("is COMPLETED with the children .*COMPLETED.*COMPLETED")
def child_has_another_id_the_second_time(patch: Patch) -> None:
    met: set[tuple[UUID, str, int]] = set()

    def other_id(*key: Any) -> UUID:
        # Only then: with another one each time there are children without end, and no verdict.
        if key in met:
            return child_id_of(*key)
        met.add(key)
        return uuid4()

    patch.setattr(children, "child_id_of", other_id)


@bug("was given .*, its child came to")
def results_of_the_child_are_dropped(patch: Patch) -> None:
    patch.setattr(
        children, "ChildResult", lambda **facts: child.ChildResult(**{**facts, "outputs": {}})
    )
