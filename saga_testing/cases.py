"""Which ways of going wrong `check_saga` tries: each step at each boundary, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from saga_core.definition import SagaDefinition, StepSpec
from saga_core.errors import NonRetryableError
from saga_core.status import Hook
from saga_testing.faults import InjectedError
from saga_testing.places import Action, Moment, Place

__all__ = ["Boundary", "Case", "CaseFault", "Ending", "cases_of", "latest", "ways_back"]


class Boundary(StrEnum):
    """What goes wrong. A plan of `check_saga` is a choice of these."""

    BEFORE = "before"
    """The step fails for good without having done anything; a compensation, once."""
    AFTER = "after"
    """The step has done its work and raises all the same; a compensation, once."""
    CRASH = "crash"
    """The worker is lost: before, after, or once it is on record; another takes over."""


_FAILURES = ((Moment.BEFORE, Boundary.BEFORE), (Moment.AFTER, Boundary.AFTER))

MOST_VISITS = 5
"""Of one place. A step that sleeps in a loop may be entered without end."""


class Ending(StrEnum):
    """How the saga has to end."""

    UNDONE = "undone"
    """COMPENSATED, with the world as it was before."""
    UNDONE_BUT_ONE = "undone but one"
    """COMPENSATED; what the failed step has done may be left, for it says nothing of it."""
    COMPLETED = "completed"
    """As without a fault, with the same world, be it after `retry_step`."""


@dataclass(frozen=True, slots=True)
class CaseFault:
    """What is to go wrong at a place; without an error, the worker is lost."""

    place: Place
    error: type[Exception] | None = None
    times: int | None = None
    nth: int = 1


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the saga."""

    step_id: str
    action: Action
    boundary: Boundary
    faults: tuple[CaseFault, ...]
    ending: Ending

    def __str__(self) -> str:
        first = self.faults[0]
        at = "" if self.boundary is not Boundary.CRASH else f" {first.place.moment}"
        nth = "" if first.nth == 1 else f", at visit {first.nth}"
        return f"{self.boundary}{at} {self.action} of '{self.step_id}'{nth}"


def cases_of(definition: SagaDefinition, visits: Mapping[Place, int]) -> Iterator[Case]:
    """Yield the cases of a saga: those that lead back first.

    `visits` says how often a run without a fault, and the longest rollback, come to each place: a
    step that waits is entered more than once, and each time something else may have been done.
    """
    back = ways_back(definition)
    for spec in back:
        yield from _failing(spec, visits)
    for spec in back[:-1]:
        yield from _crashing_then_failing(spec, latest(definition, spec), visits)
    for spec in back:
        last = back[-1] if spec is back[-1] else latest(definition, spec)
        if spec.can_compensate and (spec is not last or spec.undoes_maybe_done):
            yield from _undoing(spec, _failure(last), Action.COMPENSATE, visits)
        if spec.undoes_maybe_done and spec.signature.probe is not None:
            after = Place(Moment.AFTER, Action.EXECUTE, spec.step_id)
            failure = CaseFault(after, NonRetryableError)
            yield from _undoing(spec, failure, Action.PROBE, visits)
    for spec in _past_pivot(definition):
        for place, nth in _each(Moment.BEFORE, spec, visits):
            fault = CaseFault(place, NonRetryableError, times=1, nth=nth)
            yield Case(spec.step_id, Action.EXECUTE, Boundary.BEFORE, (fault,), Ending.COMPLETED)
    for spec in definition.steps:
        for moment in Moment:
            for place, nth in _each(moment, spec, visits):
                crash = CaseFault(place, nth=nth)
                yield Case(spec.step_id, Action.EXECUTE, Boundary.CRASH, (crash,), Ending.COMPLETED)
    for spec in definition.hooks:
        yield from _around(spec, back[-1], visits)


def _around(spec: StepSpec, last: StepSpec, visits: Mapping[Place, int]) -> Iterator[Case]:
    """Yield the cases of a hook that a saga comes to, without a fault or in its rollback."""
    more: tuple[CaseFault, ...] = ()
    ending = Ending.COMPLETED
    if spec.hook is Hook.ON_COMPENSATED:
        more, ending = (_failure(last),), Ending.UNDONE
    for moment in Moment:
        for place, nth in _each(moment, spec, visits):
            if visits.get(place):
                faults = (CaseFault(place, nth=nth), *more)
                yield Case(spec.step_id, Action.EXECUTE, Boundary.CRASH, faults, ending)
    for moment, boundary in _FAILURES:
        for place, nth in _each(moment, spec, visits):
            if visits.get(place):
                # Stuck, and once somebody asks for it, run again.
                faults = (CaseFault(place, NonRetryableError, times=1, nth=nth), *more)
                yield Case(spec.step_id, Action.EXECUTE, boundary, faults, ending)


def _each(
    moment: Moment,
    spec: StepSpec,
    visits: Mapping[Place, int],
    action: Action = Action.EXECUTE,
) -> Iterator[tuple[Place, int]]:
    place = Place(moment, action, spec.step_id)
    for nth in range(1, min(visits.get(place, 1), MOST_VISITS) + 1):
        yield place, nth


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


def _past_pivot(definition: SagaDefinition) -> list[StepSpec]:
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


def _failing(spec: StepSpec, visits: Mapping[Place, int]) -> Iterator[Case]:
    for moment, boundary in _FAILURES:
        for place, nth in _each(moment, spec, visits):
            # Of what it did before it was entered again, the step has told nobody either.
            sure = spec.undoes_maybe_done or (moment is Moment.BEFORE and nth == 1)
            ending = Ending.UNDONE if sure else Ending.UNDONE_BUT_ONE
            fault = CaseFault(place, NonRetryableError, nth=nth)
            yield Case(spec.step_id, Action.EXECUTE, boundary, (fault,), ending)


def _crashing_then_failing(
    spec: StepSpec, last: StepSpec, visits: Mapping[Place, int]
) -> Iterator[Case]:
    for moment in Moment:
        for place, nth in _each(moment, spec, visits):
            faults = (CaseFault(place, nth=nth), _failure(last))
            yield Case(spec.step_id, Action.EXECUTE, Boundary.CRASH, faults, Ending.UNDONE)


def _undoing(
    spec: StepSpec, failure: CaseFault, action: Action, visits: Mapping[Place, int]
) -> Iterator[Case]:
    for moment in Moment:
        for place, nth in _each(moment, spec, visits, action):
            faults = (CaseFault(place, nth=nth), failure)
            yield Case(spec.step_id, action, Boundary.CRASH, faults, Ending.UNDONE)
    for moment, boundary in _FAILURES:
        for place, nth in _each(moment, spec, visits, action):
            faults = (CaseFault(place, InjectedError, times=1, nth=nth), failure)
            yield Case(spec.step_id, action, boundary, faults, Ending.UNDONE)


def _failure(spec: StepSpec) -> CaseFault:
    """Return what makes a saga go back with as much to undo as there can be."""
    return CaseFault(Place(Moment.BEFORE, Action.EXECUTE, spec.step_id), NonRetryableError)
