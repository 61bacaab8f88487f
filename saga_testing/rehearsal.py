"""A saga's definition with its steps under observation: noted, and failing where planned."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from saga_core.awaiting import AwaitEvent, Sleep
from saga_core.definition import SagaDefinition, StepSpec
from saga_core.retry import ExponentialRetry, RetryPolicy
from saga_core.step import BaseStep, CallShape
from saga_testing.ledger import CallOutcome, Ledger
from saga_testing.places import Action, Moment, Place

__all__ = ["rehearsed"]

Visit = Callable[[Place], Sleep | None]
"""Raises what is to go wrong at a place, or returns for how long the step is held back there."""


def rehearsed(definition: SagaDefinition, visit: Visit, ledger: Ledger) -> SagaDefinition:
    """Return the definition with each step wrapped; its fingerprint is the same.

    The user's own instances run, in the shape in which they were written. What the jitter of a
    retry policy leaves to chance is not left to it.
    """
    return replace(
        definition,
        steps=tuple(_observed(spec, visit, ledger) for spec in definition.steps),
        hooks=tuple(_observed(spec, visit, ledger) for spec in definition.hooks),
    )


def _observed(spec: StepSpec, visit: Visit, ledger: Ledger) -> StepSpec:
    if spec.child is not None:
        return spec  # its own steps are observed
    return replace(
        spec,
        step=_Observed(spec, visit, ledger),
        retry_policy=_steady(spec.retry_policy),
        compensation_retry_policy=_steady(spec.compensation_retry_policy),
    )


def _steady(policy: RetryPolicy) -> RetryPolicy:
    if isinstance(policy, ExponentialRetry):
        return policy.model_copy(update={"jitter": 0.0})
    return policy


class _Observed(BaseStep[Any, Any]):
    """Stands in for a step, with its methods wrapped."""

    def __init__(self, spec: StepSpec, visit: Visit, ledger: Ledger) -> None:
        step, signature = spec.step, spec.signature
        shapes = {
            Action.EXECUTE: signature.execute,
            Action.COMPENSATE: signature.compensate,
            Action.PROBE: signature.probe,
        }
        for action, shape in shapes.items():
            if shape is not None:
                method = _wrapped(getattr(step, action), shape, action, spec, visit, ledger)
                setattr(self, action, method)
        # The models of events are looked for in what a step and its class refer to.
        self.refers_to = (
            *getattr(step, "__dict__", {}).values(),
            *(value for kind in type(step).__mro__ for value in _code_of(kind)),
        )


def _code_of(kind: type) -> tuple[Any, ...]:
    return () if kind in (BaseStep, object) else tuple(vars(kind).values())


def _wrapped(
    method: Callable[..., Any],
    shape: CallShape,
    action: Action,
    spec: StepSpec,
    visit: Visit,
    ledger: Ledger,
) -> Callable[..., Any]:
    before = Place(Moment.BEFORE, action, spec.step_id)
    after = Place(Moment.AFTER, action, spec.step_id)

    def ended(begun: Any, result: Any) -> Any:
        waits = isinstance(result, AwaitEvent | Sleep)
        ledger.end(begun, CallOutcome.WAITS if waits else CallOutcome.RETURNED)
        visit(after)
        return result

    @functools.wraps(method)
    async def in_task(*arguments: Any) -> Any:
        held = visit(before)
        if held is not None:
            return held
        begun = ledger.begin(action, spec.step_id)
        try:
            result = await method(*arguments)
        except Exception:
            ledger.end(begun, CallOutcome.RAISED)
            raise
        return ended(begun, result)

    @functools.wraps(method)
    def in_thread(*arguments: Any) -> Any:
        held = visit(before)
        if held is not None:
            return held
        begun = ledger.begin(action, spec.step_id)
        try:
            result = method(*arguments)
        except Exception:
            ledger.end(begun, CallOutcome.RAISED)
            raise
        return ended(begun, result)

    return in_task if shape.is_async else in_thread
