"""How a step that waits goes on: with its event, by its time, or not yet."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from uuid import uuid4

from pydantic import BaseModel

from saga_core.awaiting import AwaitEvent, Sleep, WaitTimedOutError, event_name
from saga_core.codec import PayloadLimits
from saga_core.definition import StepSpec
from saga_core.errors import PayloadError
from saga_core.events import TypedEvent, event_models
from saga_core.failure import failure_of
from saga_core.happening import (
    CompensationFailed,
    Decision,
    Failure,
    Happened,
    StepDone,
    StepFailed,
    Undecodable,
    Waits,
    WaitsOn,
)
from saga_core.live import LiveSaga
from saga_core.records import Due, StoredSignal
from saga_core.resting import Rest
from saga_core.status import Direction

__all__ = ["awaited_models", "goes_on", "is_answered", "used_up", "wait_again", "wake_up"]


def awaited_models(live: LiveSaga, spec: StepSpec) -> Mapping[str, type[BaseModel]]:
    """Return the models of events that are known for a step, by event name."""
    return {**event_models(spec.step), **live.rests.models}


def wake_up(live: LiveSaga, spec: StepSpec) -> Happened | None:
    """Look whether the current step is to be entered: None if so, else what follows instead.

    What the step gets to see of its waits is left in `live.rests`. A process in which the model of
    an event is not to be found enters the step from its beginning: it will ask for the event once
    more, and so name the model; `goes_on` is asked then.
    """
    rests = live.rests
    rests.enter()
    rests.repeats = False
    try:
        waits = rests.waits
        if not waits:
            return _too_early(live, spec)
        models = awaited_models(live, spec)
        given = rests.answers(models)
    except PayloadError as error:
        return Undecodable(failure_of(error))
    if waits[-1].rest.events and given[-1] is None:
        if not rests.is_over():
            return WaitsOn(rests.due, events=rests.news)
        rests.enter(given)  # the waits before have had their events
        return _timed_out(live, spec, waits[-1].rest)
    if not waits[-1].rest.events and not rests.is_over():
        return WaitsOn(rests.due, events=rests.news)
    over: list[BaseModel | None] = []
    for wait, signal in zip(waits, given, strict=True):
        if not wait.rest.events:
            over.append(None)
            continue
        event = _read(signal, models)
        if event is None:
            rests.repeats = True
            return None
        over.append(event)
    rests.enter(given, over)
    return None


def used_up(live: LiveSaga, decision: Decision) -> tuple[str, ...]:
    """Return the ids of the events that a decision uses up: those of a step that is left.

    Those with which it was entered last; or, if it waits once more and is left without being
    entered, by a person or a deadline, those that its waits before were given.
    """
    before, after = live.state, decision.state
    stays = (before.step_id, before.direction) == (after.step_id, after.direction)
    back = before.direction is Direction.ROLLBACK
    if stays and not (back and before.generation != after.generation):
        return ()  # a rollback may undo a step once for each time that it was done
    given: Sequence[StoredSignal | None] = live.rests.given
    if not given and before.waiting_for is None:
        return ()
    paused = live.pause if before.is_paused else None
    try:
        waits = live.rests.chain(before.waiting_for if paused is None else paused.waiting_for)
        if not given and len(waits) > 1 and before.step_id is not None:
            models = awaited_models(live, live.definition.step(before.step_id))
            given = live.rests.answers(models, waits)[:-1]
    except PayloadError:
        return ()  # nobody can say, and whoever ends such a saga must be able to
    return tuple(signal.event_id for signal in given if signal is not None)


def _too_early(live: LiveSaga, spec: StepSpec) -> Happened | None:
    forward = live.state.direction is Direction.FORWARD
    policy = spec.retry_policy if forward else spec.compensation_retry_policy
    retry_at = live.rests.retry_at(policy)
    return None if retry_at is None else WaitsOn(Due(at=retry_at), retry_at, live.rests.news)


def is_answered(live: LiveSaga) -> bool:
    """Tell whether the event that the current step waits for has come.

    Asked for a saga whose steps run one after the other, or for one branch.
    """
    if not live.rests.waits or live.state.step_id is None:
        return False
    models = awaited_models(live, live.definition.step(live.state.step_id))
    return live.rests.answers(models)[-1] is not None


def _read(signal: StoredSignal | None, models: Mapping[str, type[BaseModel]]) -> BaseModel | None:
    if signal is None:
        return None
    event = TypedEvent.decode(signal.payload)
    model = models.get(event.name)
    if model is None:
        return None
    read: BaseModel = event.read(model)
    return read


def goes_on(live: LiveSaga, spec: StepSpec, wish: AwaitEvent | Sleep) -> bool:
    """Tell whether a step that was entered from its beginning is to be entered with a wait more.

    So it is if it asks for the wait that is on record at this place: that is over, and does not
    begin anew. What the step gets to see of its waits is left in `live.rests`.
    """
    rests = live.rests
    number = len(rests.over)
    if not rests.repeats or number >= len(rests.waits):
        return False
    if isinstance(wish, AwaitEvent):
        _name_models(live, wish)
    models = awaited_models(live, spec)
    on_record = rests.waits[number].rest
    event = None
    try:
        given = rests.answers(models)[: number + 1]
        if isinstance(wish, AwaitEvent):
            event = _read(given[number], models)
    except PayloadError:
        return False
    same = on_record.is_asked_by(wish) and (event is not None) is bool(on_record.events)
    if same:
        rests.enter(given, (*rests.over, event))
    rests.repeats = same
    return same


def _name_models(live: LiveSaga, wish: AwaitEvent) -> None:
    live.rests.models.update({event_name(model): model for model in wish.models})


def wait_again(
    live: LiveSaga, spec: StepSpec, wish: AwaitEvent | Sleep, limits: PayloadLimits
) -> Happened:
    """Return what follows when a step asks to be entered again."""
    forward = live.state.direction is Direction.FORWARD
    try:
        rest = Rest.asked(
            wish,
            number=len(live.rests.over),
            output=spec.output if forward else None,
            limits=limits,
        )
        text = rest.encode()
    except Exception as error:
        # The step has run, as one has whose output cannot be stored.
        if forward:
            return StepFailed(failure_of(error, unrecordable=True), uuid4(), 0.0)
        return CompensationFailed(failure_of(error), 0.0)
    if isinstance(wish, AwaitEvent):
        _name_models(live, wish)
    answered = live.rests.would_be_answered(rest, awaited_models(live, spec))
    return Waits(text, rest.waiting_for, rest.due, answered, live.rests.entered)


def _timed_out(live: LiveSaga, spec: StepSpec, rest: Rest) -> Happened:
    forward = live.state.direction is Direction.FORWARD
    seconds = 0.0 if rest.timeout is None else rest.timeout.total_seconds()
    said = f"waited {seconds:g} s for {rest.waiting_for}, which did not come"
    if forward and rest.output is not None:
        try:
            value = spec.output.decode(rest.output, what=f"output of step '{spec.step_id}'")
        except PayloadError as error:
            return Undecodable(failure_of(error))
        live.assume(spec.step_id, rest.output, value)
        following = live.input_after(spec)
        reason = f"{said}: the default output of the wait"
        return StepDone(live.state.step_input, rest.output, uuid4(), following, reason)
    failure = Failure(
        error=f"{WaitTimedOutError.__name__}: {said}",
        code=WaitTimedOutError.__name__,
        retryable=rest.on_timeout == "retry",
    )
    jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
    if forward:
        return StepFailed(failure, uuid4(), jitter)
    return CompensationFailed(failure, jitter)
