"""A saga with those that it starts, as `check_saga` looks at them: as one saga."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from saga_core.definition import SagaDefinition, StepSpec
from saga_core.errors import SagaDefinitionError

__all__ = ["Family", "after_pivot", "beside", "latest", "partner", "ways_back"]


@dataclass(frozen=True)
class Family:
    """The saga that is started, and by name the sagas that it and these start."""

    parent: SagaDefinition
    children: Mapping[str, SagaDefinition]

    def check(self) -> None:
        """Raise `SagaDefinitionError` if one is missing or unknown, or two have one step's id."""
        wanted = set(self._names(self.parent, ()))
        if missing := sorted(wanted - self.children.keys()):
            raise SagaDefinitionError(
                f"the saga starts others, and children= does not have them: {', '.join(missing)}"
            )
        if unused := sorted(self.children.keys() - wanted):
            raise SagaDefinitionError(
                f"children= has sagas that nobody starts: {', '.join(unused)}"
            )
        owners: dict[str, str] = {}
        for name, definition in (("the saga", self.parent), *self.children.items()):
            for spec in definition.steps:
                if spec.step_id in owners:
                    raise SagaDefinitionError(
                        f"step '{spec.step_id}' is in {owners[spec.step_id]} and in {name}: places "
                        "are named by a step's id, so give each step one of its own"
                    )
                owners[spec.step_id] = name

    def _names(self, definition: SagaDefinition, above: tuple[str, ...]) -> Iterator[str]:
        for name in definition.children:
            if name in above:
                chain = " -> ".join((*above, name))
                raise SagaDefinitionError(
                    f"check_saga cannot play a saga that starts itself: {chain}"
                )
            yield name
            if name in self.children:
                yield from self._names(self.children[name], (*above, name))

    @cached_property
    def definitions(self) -> tuple[SagaDefinition, ...]:
        return (self.parent, *self.children.values())

    @cached_property
    def steps(self) -> tuple[StepSpec, ...]:
        """The steps with code of their own, those of a child where it is started."""
        return tuple(dict.fromkeys(self._flat(self.parent)))

    def _flat(self, definition: SagaDefinition) -> Iterator[StepSpec]:
        for spec in definition.steps:
            if spec.child is None:
                yield spec
            else:
                yield from self._flat(self.children[spec.child])

    @property
    def parallel(self) -> bool:
        return any(each.parallel for each in self.definitions)

    def last(self, spec: StepSpec) -> StepSpec:
        """Return the step itself; of one that is a child, what begins last in the child."""
        return spec if spec.child is None else self.last(latest(self.children[spec.child]))

    def failing(
        self, definition: SagaDefinition, spec: StepSpec
    ) -> tuple[StepSpec, tuple[str, ...]]:
        """Return what fails so that as much is done before as can be, and after which steps."""
        others = tuple(each.step_id for each in beside(definition, spec))
        if spec.child is None:
            return spec, others
        child = self.children[spec.child]
        failing, more = self.failing(child, latest(child))
        return failing, (*others, *more)

    @cached_property
    def past_pivot(self) -> frozenset[str]:
        """The names of the children that begin when there is no way back any more."""
        return frozenset(self._late(self.parent, late=False))

    def _late(self, definition: SagaDefinition, *, late: bool) -> Iterator[str]:
        after = {spec.step_id for spec in after_pivot(definition)}
        for spec in definition.steps:
            if spec.child is None:
                continue
            is_late = late or spec.step_id in after
            if is_late:
                yield spec.child
            yield from self._late(self.children[spec.child], late=is_late)


def ways_back(definition: SagaDefinition) -> tuple[StepSpec, ...]:
    """Return the steps whose failure begins the rollback: the pivot is the last of them."""
    pivot = definition.pivot
    if not definition.parallel:
        return definition.steps if pivot is None else definition.steps[: pivot.index + 1]
    if pivot is None:
        last = latest(definition)
        return (*(spec for spec in definition.steps if spec is not last), last)
    # A step beside the pivot may fail before it is done, or after.
    needed = _reached(definition, pivot)
    return (*(spec for spec in definition.steps if spec.step_id in needed), pivot)


def latest(definition: SagaDefinition, after: StepSpec | None = None) -> StepSpec:
    """Return the step that begins last, of those after a step; by then as much is done as can be.

    In a parallel saga, of the steps whose failure begins the rollback, one that needs the most.
    """
    if not definition.parallel:
        return ways_back(definition)[-1]
    ends = [spec for spec in definition.steps if spec.pivot] or list(definition.steps)
    if after is not None:
        ends = [spec for spec in ends if after.step_id in _reached(definition, spec)] or ends
    return max(ends, key=lambda spec: (len(_reached(definition, spec)), spec.index))


def beside(definition: SagaDefinition, spec: StepSpec) -> list[StepSpec]:
    """Return the steps before the pivot that neither need a step nor are needed by it."""
    if not definition.parallel:
        return []
    after = {each.step_id for each in after_pivot(definition)}
    near = _reached(definition, spec) | after | {spec.step_id}
    return [
        each
        for each in definition.steps
        if each.step_id not in near and spec.step_id not in _reached(definition, each)
    ]


def partner(definition: SagaDefinition, spec: StepSpec) -> StepSpec | None:
    """Return a step that may fail when one that nobody needs is done; None if there is none."""
    if spec.pivot:
        return None
    others = beside(definition, spec)
    return max(others, key=lambda each: (len(_reached(definition, each)), each.index), default=None)


def after_pivot(definition: SagaDefinition) -> list[StepSpec]:
    """Return the steps that begin when the pivot is done."""
    pivot = definition.pivot
    if pivot is None:
        return []
    if not definition.parallel:
        return list(definition.steps[pivot.index + 1 :])
    return [spec for spec in definition.steps if pivot.step_id in _reached(definition, spec)]


def _reached(definition: SagaDefinition, spec: StepSpec) -> set[str]:
    """Return the steps that must be done before one can begin."""
    found: set[str] = set()
    ahead = list(spec.depends_on)
    while ahead:
        step_id = ahead.pop()
        if step_id not in found:
            found.add(step_id)
            ahead += definition.step(step_id).depends_on
    return found
