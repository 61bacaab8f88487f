"""Which ways of going wrong `check_saga` tries: each step at each boundary, in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from saga_core.definition import SagaDefinition, StepSpec
from saga_core.errors import NonRetryableError
from saga_core.status import Hook
from saga_testing.family import Family, after_pivot, beside, latest, partner, ways_back
from saga_testing.faults import InjectedError
from saga_testing.places import Action, Moment, Place

__all__ = ["Boundary", "Case", "CaseFault", "Ending", "cases_of"]


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
    when_done: tuple[str, ...] = ()
    """What is done before, in other branches of a parallel saga."""


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
        after = f", after {', '.join(first.when_done)}" if first.when_done else ""
        return f"{self.boundary}{at} {self.action} of '{self.step_id}'{nth}{after}"


def cases_of(family: Family, visits: Mapping[Place, int]) -> Iterator[Case]:
    """Yield the cases of a saga and of those that it starts: first those that lead back.

    `visits` says how often a run without a fault, and the longest rollback, come to each place: a
    step that waits is entered more than once, and each time something else may have been done.
    """
    definitions = [family.parent]
    for name, child in family.children.items():
        if name in family.past_pivot:
            yield from _going_on(child.steps, visits)
        else:
            definitions.append(child)
    for definition in definitions:
        yield from _leading_back(family, definition, visits)
        yield from _going_on(after_pivot(definition), visits)
    for definition in family.definitions:
        for spec in definition.steps:
            for moment in Moment:
                for place, nth in _each(moment, spec, visits):
                    yield Case(
                        spec.step_id,
                        Action.EXECUTE,
                        Boundary.CRASH,
                        (CaseFault(place, nth=nth),),
                        Ending.COMPLETED,
                    )
    hooks = {spec.step_id: (spec, each) for each in family.definitions for spec in each.hooks}
    for spec, definition in hooks.values():  # a place is that hook of any of them
        yield from _around(spec, _failure(family, definition, ways_back(definition)[-1]), visits)


def _leading_back(
    family: Family, definition: SagaDefinition, visits: Mapping[Place, int]
) -> Iterator[Case]:
    back = ways_back(definition)
    for spec in back:
        yield from _failing(spec, visits)
    other = partner(definition, back[-1])
    for last in (back[-1], other):
        if last is not None and beside(definition, last):
            failure = _failure(family, definition, last)
            step_id = failure.place.step_id
            yield Case(step_id, Action.EXECUTE, Boundary.BEFORE, (failure,), Ending.UNDONE)
    aside = [] if definition.pivot is None else beside(definition, definition.pivot)
    for spec in (*back[:-1], *aside):
        failure = _failure(family, definition, latest(definition, spec))
        yield from _crashing_then_failing(spec, failure, visits)
    if other is not None:
        failure = _failure(family, definition, other)
        yield from _crashing_then_failing(back[-1], failure, visits)
    whole = _failure(family, family.parent, latest(family.parent))
    for spec in (*back, *aside):
        last = back[-1] if spec is back[-1] else latest(definition, spec)
        failures = [_failure(family, definition, last)]
        if spec is back[-1] and other is not None:
            failures.append(_failure(family, definition, other))
        if definition is not family.parent and whole.place != failures[0].place:
            failures.append(whole)  # undone when it was done, and by another saga's failure
        for failure in failures:
            is_failing = family.last(spec).step_id == failure.place.step_id
            maybe_done = spec.undoes_maybe_done and spec.child is None
            if spec.can_compensate and (not is_failing or maybe_done):
                yield from _undoing(spec, failure, Action.COMPENSATE, visits)
        if spec.undoes_maybe_done and spec.signature.probe is not None:
            after = Place(Moment.AFTER, Action.EXECUTE, spec.step_id)
            fails = CaseFault(after, NonRetryableError)
            yield from _undoing(spec, fails, Action.PROBE, visits)


def _going_on(steps: Iterable[StepSpec], visits: Mapping[Place, int]) -> Iterator[Case]:
    """Yield the failures of steps after which a person lets the saga go on."""
    for spec in steps:
        for place, nth in _each(Moment.BEFORE, spec, visits):
            fault = CaseFault(place, NonRetryableError, times=1, nth=nth)
            yield Case(spec.step_id, Action.EXECUTE, Boundary.BEFORE, (fault,), Ending.COMPLETED)


def _around(spec: StepSpec, failure: CaseFault, visits: Mapping[Place, int]) -> Iterator[Case]:
    """Yield the cases of a hook that a saga comes to, without a fault or in its rollback."""
    more: tuple[CaseFault, ...] = ()
    ending = Ending.COMPLETED
    if spec.hook is Hook.ON_COMPENSATED:
        more, ending = (failure,), Ending.UNDONE
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
    if spec.child is not None and moment is not Moment.RECORDED:
        return  # its code is that of the child's steps
    place = Place(moment, action, spec.step_id)
    for nth in range(1, min(visits.get(place, 1), MOST_VISITS) + 1):
        yield place, nth


def _failing(spec: StepSpec, visits: Mapping[Place, int]) -> Iterator[Case]:
    for moment, boundary in _FAILURES:
        for place, nth in _each(moment, spec, visits):
            # Of what it did before it was entered again, the step has told nobody either.
            sure = spec.undoes_maybe_done or (moment is Moment.BEFORE and nth == 1)
            ending = Ending.UNDONE if sure else Ending.UNDONE_BUT_ONE
            fault = CaseFault(place, NonRetryableError, nth=nth)
            yield Case(spec.step_id, Action.EXECUTE, boundary, (fault,), ending)


def _crashing_then_failing(
    spec: StepSpec, failure: CaseFault, visits: Mapping[Place, int]
) -> Iterator[Case]:
    for moment in Moment:
        for place, nth in _each(moment, spec, visits):
            faults = (CaseFault(place, nth=nth), failure)
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


def _failure(family: Family, definition: SagaDefinition, last: StepSpec) -> CaseFault:
    """Return what makes a saga go back with as much to undo as there can be.

    A step beside the failing one is done before: a rollback may else cancel it, or not await it.
    """
    failing, others = family.failing(definition, last)
    place = Place(Moment.BEFORE, Action.EXECUTE, failing.step_id)
    return CaseFault(place, NonRetryableError, when_done=others)
