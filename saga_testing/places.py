"""Places in a saga at which a test lets something go wrong, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from saga_core.definition import SagaDefinition, StepSpec
from saga_core.errors import SagaDefinitionError

__all__ = ["Action", "Moment", "Place", "place_of", "steps_of"]


class Action(StrEnum):
    """Which of a step's methods is called."""

    EXECUTE = "execute"
    COMPENSATE = "compensate"
    PROBE = "probe"


class Moment(StrEnum):
    """When, seen from the call of the method."""

    BEFORE = "before"
    """Its code has not begun."""
    AFTER = "after"
    """Its code has returned, and nothing of that is on record."""
    RECORDED = "recorded"
    """What the call came to is on record: its output, its failure or its wait."""


@dataclass(frozen=True, slots=True)
class Place:
    """One boundary of one step. Its text is its name, as `place_of` reads it."""

    moment: Moment
    action: Action
    step_id: str

    def __str__(self) -> str:
        action = "" if self.action is Action.EXECUTE else f"{self.action}:"
        return f"{self.moment}:{action}{self.step_id}"


def place_of(
    name: str, definitions: Iterable[SagaDefinition], *, moments: tuple[Moment, ...] = tuple(Moment)
) -> Place:
    """Read a place's name: `[moment:][action:]step`, the moment before and execute by default.

    Raises `SagaDefinitionError`, which lists the steps, for a name that is not one, a step that
    none of the definitions has, and a method that the step has not.
    """
    definitions = tuple(definitions)
    words = name.split(":") if isinstance(name, str) else []
    step_id = words.pop() if words else ""
    moment = Moment(words.pop(0)) if words and words[0] in tuple(Moment) else Moment.BEFORE
    action = Action(words.pop(0)) if words and words[0] in tuple(Action) else Action.EXECUTE
    if words or not step_id or moment not in moments:
        wanted = " | ".join(f"{moment}:" for moment in moments)
        raise SagaDefinitionError(
            f"{name!r} names no place: write '[{wanted}][compensate: | probe:]step', with one of "
            f"the steps {_steps(definitions)}"
        )
    found = [spec for spec in _specs(definitions) if spec.step_id == step_id]
    if definitions and not found:
        raise SagaDefinitionError(
            f"{name!r}: there is no step '{step_id}'; the steps are {_steps(definitions)}"
        )
    if found and not any(_has(spec, action) for spec in found):
        able = [spec.step_id for spec in _specs(definitions) if _has(spec, action)]
        raise SagaDefinitionError(
            f"{name!r}: step '{step_id}' has no {action}; steps that have one: "
            f"{', '.join(able) or 'none'}"
        )
    return Place(moment, action, step_id)


def steps_of(
    when_done: Sequence[str], place: Place, definitions: Iterable[SagaDefinition]
) -> tuple[str, ...]:
    """Check the steps that are to be done before something goes wrong at a place.

    Raises `SagaDefinitionError` for what is no id of a step, and for a place within a step's code.
    """
    if isinstance(when_done, str) or not isinstance(when_done, Sequence):
        raise SagaDefinitionError(f"when_done must be the ids of steps, got {when_done!r}")
    steps = tuple(when_done)
    for name in steps:
        if place_of(name, definitions).step_id != name:
            raise SagaDefinitionError(f"when_done takes the ids of steps alone, got {name!r}")
    if steps and (place.moment, place.action) != (Moment.BEFORE, Action.EXECUTE):
        raise SagaDefinitionError(
            f"when_done is for a step that fails before its code has begun, not for '{place}'"
        )
    return steps


def _has(spec: StepSpec, action: Action) -> bool:
    if spec.hook is not None:
        return action is Action.EXECUTE
    if action is Action.PROBE:
        return spec.signature.probe is not None
    return action is Action.EXECUTE or spec.can_compensate


def _steps(definitions: Iterable[SagaDefinition]) -> str:
    return ", ".join(spec.step_id for spec in _specs(definitions)) or "(none yet)"


def _specs(definitions: Iterable[SagaDefinition]) -> Iterator[StepSpec]:
    for each in definitions:
        yield from each.steps
        yield from each.hooks
