"""Compute a step's input with the user's map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saga_core.codec import PayloadLimits, decode_json
from saga_core.definition import InputContext, OutputTexts, SagaDefinition, StepSpec
from saga_core.errors import PayloadError
from saga_core.failure import failure_of
from saga_core.happening import Failure, Mapped, NextInput, Recorded, Unmappable

__all__ = ["first_input", "input_context", "map_input"]


def map_input(
    spec: StepSpec, arguments: Callable[[], tuple[Any, ...]], limits: PayloadLimits
) -> NextInput:
    """Call the map and encode what it returns. Whatever goes wrong fails the step, at once.

    A map is pure, so there is no sense in trying it again.
    """
    try:
        value = spec.input_map(*arguments())
    except Exception as error:
        failure = failure_of(error)
        text = f"the input map of step '{spec.step_id}' raised {failure.error}"
        return Unmappable(Failure(error=text, code=failure.code, retryable=False))
    try:
        what = f"input of step '{spec.step_id}'"
        return Mapped(spec.input.encode(value, what=what, limits=limits))
    except PayloadError as error:
        return Unmappable(failure_of(error))


def first_input(definition: SagaDefinition, data: str, limits: PayloadLimits) -> NextInput:
    """Compute the first step's input from a saga's initial data."""
    initial_data = decode_json(data, what="initial_data")
    return map_input(definition.steps[0], lambda: (input_context(initial_data, {}, ()),), limits)


def input_context(
    initial_data: Any, outputs: Mapping[str, Recorded], events: Sequence[Any]
) -> InputContext:
    """Return what a root map sees; outputs are decoded only when it looks at them."""
    return InputContext(
        initial_data=initial_data,
        step_outputs=OutputTexts(outputs),
        events=tuple(events),
    )
