"""Compute a step's input with the user's map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from saga_core.codec import PayloadLimits, decode_json
from saga_core.definition import (
    HookContext,
    InputContext,
    OutputTexts,
    SagaDefinition,
    StepSpec,
)
from saga_core.errors import PayloadError
from saga_core.failure import failure_of
from saga_core.happening import Failure, Mapped, NextInput, Recorded, Unmappable
from saga_core.records import SagaState
from saga_core.status import SagaStatus

__all__ = ["first_input", "hook_context", "input_context", "map_input"]


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


def hook_context(
    seen: InputContext,
    *,
    saga_id: UUID,
    saga_name: str,
    aggregation_id: str | None,
    ended: SagaState,
) -> HookContext:
    """Return what the map of a hook sees of a saga that ends, or has begun, in this state."""
    settled = ended.status.is_terminal or ended.status is SagaStatus.STUCK
    return HookContext(
        initial_data=seen.initial_data,
        step_outputs=seen.step_outputs,
        events=seen.events,
        saga_id=saga_id,
        saga_name=saga_name,
        aggregation_id=aggregation_id,
        status=ended.status if settled else SagaStatus.RUNNING,
        step_id=ended.step_id if settled else None,
        error=ended.last_error,
        error_code=ended.error_code,
    )
