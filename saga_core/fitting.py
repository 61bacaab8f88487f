"""Whether what a step is given when a saga is built fits it. All raise `SagaDefinitionError`."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from saga_core.annotations import fits, hints_of, members, name_of
from saga_core.errors import SagaDefinitionError
from saga_core.retry import NoRetry, RetryPolicy
from saga_core.step import BaseStep, StepSignature

__all__ = ["check_map", "checked_policy", "checked_timeout", "signature_of"]


def signature_of(step: object, what: str) -> StepSignature:
    """Return the types of a step; `what` names its place for a reader."""
    if isinstance(step, type):
        raise SagaDefinitionError(
            f"{what}: got the class {step.__name__}; pass an instance, step={step.__name__}()"
        )
    if not isinstance(step, BaseStep):
        raise SagaDefinitionError(f"{what}: step must be a BaseStep, got {type(step).__name__}")
    name = type(step).__name__
    signature = type(step).__saga_signature__
    if signature is None:
        raise SagaDefinitionError(
            f"{what} ({name}): its types are still open; give them in a subclass, like "
            f"`class My{name}({name}[Input, Output])`"
            if hasattr(step, "execute")
            else f"{what} ({name}): its class has no execute method"
        )
    return signature


def checked_timeout(value: timedelta | None, name: str, where: str) -> timedelta | None:
    """Return a time limit, if there is one."""
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise SagaDefinitionError(
            f"{where}: {name} must be a timedelta, got {type(value).__name__}"
        )
    if value <= timedelta(0):
        raise SagaDefinitionError(f"{where}: {name} must be above zero, got {value}")
    return value


def checked_retain(value: object) -> timedelta | None:
    """Return for how long ended sagas are kept; None for ever."""
    if value is not None and (not isinstance(value, timedelta) or value <= timedelta(0)):
        raise SagaDefinitionError(
            f"retain must be a timedelta above zero, or None to keep all sagas, got {value!r}"
        )
    return value


def checked_policy(value: RetryPolicy | None, name: str, where: str) -> RetryPolicy:
    """Return a retry policy; without one there is one attempt."""
    if value is None:
        return NoRetry()
    if not isinstance(value, RetryPolicy):
        raise SagaDefinitionError(
            f"{where}: {name} must be a RetryPolicy such as FixedRetry(...), got "
            f"{type(value).__name__}"
        )
    return value


def check_map(
    input_map: Callable[..., Any], arguments: Sequence[Any], result: Any, where: str
) -> None:
    """Compare a map's annotations with what it will get and what the step needs."""
    if not callable(input_map):
        raise SagaDefinitionError(
            f"{where}: input_map must be callable, got {type(input_map).__name__}"
        )
    function = _underlying(input_map)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise SagaDefinitionError(f"{where}: input_map must be a plain function, not async")
    try:
        parameters = [
            parameter
            for parameter in inspect.signature(input_map).parameters.values()
            if parameter.kind
            in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        ]
        inspect.signature(input_map).bind(*arguments)
    except TypeError as error:
        raise SagaDefinitionError(
            f"{where}: input_map is called with {len(arguments)} argument(s) "
            f"({', '.join(map(name_of, arguments))}), which does not fit: {error}"
        ) from None
    except ValueError:  # a builtin without a signature
        return
    hints = _hints(function)
    for parameter, given in zip(parameters, arguments, strict=False):
        taken = hints.get(parameter.name, Any)
        if not fits(given, taken):
            raise SagaDefinitionError(
                f"{where}: input_map takes '{parameter.name}: {name_of(taken)}', but it will get "
                f"{name_of(given)}"
            )
    returned = hints.get("return", Any)
    if not all(_is_mapping(one) or fits(one, result) for one in members(returned)):
        raise SagaDefinitionError(
            f"{where}: input_map returns {name_of(returned)}, but the step needs {name_of(result)}"
        )


def _is_mapping(kind: Any) -> bool:
    """Tell whether it is a mapping, which is validated into the step's type when it is there."""
    origin = typing.get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _underlying(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type):
        return type(function).__call__
    return function


def _hints(function: Any) -> dict[str, Any]:
    if isinstance(function, type):
        return {"return": function}
    try:
        return hints_of(function)
    except Exception:
        return {}  # types known to a type checker only
