"""What the steps of a saga refer to: earlier ones only, or in a parallel saga any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saga_core.child import ChildMap
from saga_core.definition import InputContext, StepRef, StepSpec
from saga_core.errors import SagaDefinitionError
from saga_core.fitting import check_map
from saga_core.graph import cycle_in, in_order

__all__ = ["Reference", "check_map_of", "earlier", "linked", "no_way_back", "possible"]

Reference = StepRef[Any] | str
"""A step to depend on. By its id alone only in a parallel saga, where it may be added later."""


def earlier(
    depends_on: Reference | Sequence[Reference],
    steps: Mapping[str, StepSpec],
    builder: object,
    where: str,
) -> tuple[str, ...]:
    """Return the ids of what a step depends on, which must be there already."""
    references = (depends_on,) if isinstance(depends_on, StepRef) else depends_on
    if isinstance(references, str) or not isinstance(references, Sequence):
        raise SagaDefinitionError(
            f"{where}: depends_on must be what add_step returned, got {depends_on!r}"
        )
    found = []
    for reference in references:
        if not isinstance(reference, StepRef):
            raise SagaDefinitionError(
                f"{where}: depends_on must be what add_step returned, got {reference!r}"
            )
        if reference.builder is not builder:
            raise SagaDefinitionError(
                f"{where}: depends_on refers to step '{reference.step_id}' of another builder"
            )
        if reference.step_id not in steps:
            raise SagaDefinitionError(
                f"{where}: depends_on refers to step '{reference.step_id}', which was not added"
            )
        found.append(reference.step_id)
    return tuple(found)


def possible(
    depends_on: Reference | Sequence[Reference], builder: object, where: str
) -> Iterator[str]:
    """Yield the ids of what a step of a parallel saga depends on, there or yet to come."""
    named: Sequence[object] = (depends_on,)
    if isinstance(depends_on, Sequence) and not isinstance(depends_on, str):
        named = depends_on
    for each in named:
        if isinstance(each, str):
            yield each
        elif not isinstance(each, StepRef):
            raise SagaDefinitionError(
                f"{where}: depends_on must be what add_step returned, or ids of steps, got {each!r}"
            )
        elif each.builder not in (None, builder):
            raise SagaDefinitionError(
                f"{where}: depends_on refers to step '{each.step_id}' of another builder"
            )
        else:
            yield each.step_id


def linked(steps: Mapping[str, StepSpec]) -> tuple[StepSpec, ...]:
    """Return the steps of a parallel saga, each after those that it depends on.

    Raises `SagaDefinitionError` for what depends on a step that is not there, or in the end on
    itself, and for a map that does not fit what it will get.
    """
    needs = {step_id: spec.depends_on for step_id, spec in steps.items()}
    for step_id, wanted in needs.items():
        for each in wanted:
            if each not in needs:
                raise SagaDefinitionError(
                    f"step '{step_id}' depends on step '{each}', which the saga has not; its "
                    f"steps: {', '.join(needs)}"
                )
    cycle = cycle_in(needs)
    if cycle is not None:
        raise SagaDefinitionError(
            f"steps depend on each other in a circle: {' -> '.join(cycle)} (each needs the one "
            "after it), so none of them could ever begin"
        )
    for spec in steps.values():
        check_map_of(spec, steps)
    ordered = list(_checked_after_pivot([steps[step_id] for step_id in in_order(needs)]))
    return tuple(replace(spec, index=number) for number, spec in enumerate(ordered))


def _checked_after_pivot(ordered: Sequence[StepSpec]) -> Iterator[StepSpec]:
    after: set[str] = set()
    for spec in ordered:
        if spec.pivot or not after.isdisjoint(spec.depends_on):
            after.add(spec.step_id)
            if spec.child is not None:
                spec = replace(spec, compensate_when="done")
            if spec.undoes_maybe_done:
                raise SagaDefinitionError(no_way_back(f"step '{spec.step_id}'", spec.pivot))
        yield spec


def no_way_back(where: str, pivot: bool) -> str:
    """Say why a step cannot be `compensate_when="maybe_done"`."""
    return (
        f'{where}: compensate_when="maybe_done" has no meaning for '
        f"{'the pivot' if pivot else 'a step after the pivot'}, which is never undone: leave it out"
    )


def check_map_of(spec: StepSpec, steps: Mapping[str, StepSpec]) -> None:
    """Compare a step's map with what it will get of the steps that it depends on."""
    given = [steps[step_id].signature.output_type for step_id in spec.depends_on]
    where = f"step '{spec.step_id}' ({type(spec.step).__name__})"
    if isinstance(spec.input_map, ChildMap):
        check_map(spec.input_map.input_map, given or [InputContext], Any, where)
        return
    check_map(spec.input_map, given or [InputContext], spec.signature.input_type, where)
