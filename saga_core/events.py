"""Typed events: how they lie in the inbox, and how they become a model again."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from saga_core.awaiting import LONGEST_LABEL, AwaitEvent, event_name
from saga_core.codec import PayloadCodec, PayloadLimits, decode_json, encode_json
from saga_core.errors import PayloadError, TypeValidationError
from saga_core.names import check_label
from saga_core.step import BaseStep

__all__ = ["TypedEvent", "event_models", "writing_codec"]


@dataclass(frozen=True, slots=True)
class TypedEvent:
    """An event with its type's name, as the payload of a signal has it."""

    name: str
    correlation_id: str | None
    text: str
    """The event itself, JSON."""
    token: str | None = None
    """That of the step which it is meant for, while the step has it; None: for any."""

    @classmethod
    def of(
        cls,
        event: Any,
        *,
        event_type: str | None,
        correlation_id: str | None,
        limits: PayloadLimits,
    ) -> TypedEvent:
        """Make one of a model instance, or of a mapping and the name of its type.

        Raises `TypeValidationError` for anything else, `PayloadError` for what cannot be stored.
        """
        check_label(correlation_id, "correlation_id")
        if isinstance(event, BaseModel):
            name = event_name(type(event))
            if event_type is not None and event_type != name:
                raise TypeValidationError(
                    f"event is a {name}, but event_type says '{event_type}': leave event_type out"
                )
            codec = writing_codec(type(event))
            return cls(name, correlation_id, codec.encode(event, what="event", limits=limits))
        if not isinstance(event, Mapping) or event_type is None:
            raise TypeValidationError(
                "event must be an instance of a pydantic model, or a mapping together with "
                f"event_type='NameOfTheModel'; got {type(event).__name__}"
            )
        if not isinstance(event_type, str) or not 0 < len(event_type) <= LONGEST_LABEL:
            raise TypeValidationError(
                f"event_type must be text of 1 to {LONGEST_LABEL} characters, got {event_type!r}"
            )
        return cls(event_type, correlation_id, encode_json(event, what="event", limits=limits))

    def encode(self) -> str:
        """Return the payload of the signal."""
        parts = {"type": self.name, "correlation_id": self.correlation_id, "event": self.text}
        if self.token is not None:
            parts["token"] = self.token
        return encode_json(parts, what="event", limits=_NO_LIMITS)

    @classmethod
    def decode(cls, payload: str) -> TypedEvent:
        """Read a payload that `encode` has made. Raises `PayloadError`."""
        parts = decode_json(payload, what="event")
        try:
            return cls(parts["type"], parts["correlation_id"], parts["event"], parts.get("token"))
        except (AttributeError, KeyError, TypeError):
            raise PayloadError("a typed event in the store has no type or no content") from None

    def read(self, model: type[BaseModel]) -> Any:
        """Return the event as its model. Raises `PayloadError`, which names no values."""
        try:
            return _codec(model).adapter.validate_json(self.text, by_alias=True, by_name=True)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}"
                for item in error.errors(
                    include_input=False, include_url=False, include_context=False
                )[:5]
            )
            raise PayloadError(f"event is not a valid {self.name}: {problems}") from None
        except Exception as error:  # what a validator of the user's raises
            raise PayloadError(
                f"event cannot be read as {self.name}: {type(error).__name__}"
            ) from error


_NO_LIMITS = PayloadLimits(max_bytes=2**40, warn_bytes=2**40)
"""The event has been held against the limits; its wrapping is ours."""


@lru_cache(maxsize=1000)
def _codec(model: type[BaseModel]) -> PayloadCodec:
    return PayloadCodec(model, what=f"event {model.__qualname__}")


@lru_cache(maxsize=1000)
def writing_codec(model: type[BaseModel]) -> PayloadCodec:
    """Return what writes events of a model. Raises `TypeValidationError` if it hides a secret.

    Reading them is another thing: in an event that was sent as a mapping the secret is there.
    """
    return PayloadCodec.of_written(model, what=f"event {model.__qualname__}")


# --- which models a step may wait for -------------------------------------------------------------


def event_models(step: BaseStep[Any, Any]) -> Mapping[str, type[BaseModel]]:
    """Return the models that a step's code mentions, by event name.

    A process that takes a waiting saga over has never seen what its step returned, and no class is
    looked up by a name from the store: it is one of those that the step's methods, and what they
    call in their module, refer to, by itself or in an `AwaitEvent`. A name that two of them share
    is left out.
    """
    models: dict[str, type[BaseModel]] = {}
    doubtful: set[str] = set()
    waiting: list[Any] = [*vars(step).values()] if hasattr(step, "__dict__") else []
    for ancestor in type(step).__mro__:
        if ancestor is not BaseStep and ancestor is not object:
            waiting.extend(vars(ancestor).values())
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, type) and issubclass(one, BaseModel) and one is not BaseModel:
            name = event_name(one)
            if models.setdefault(name, one) is not one:
                doubtful.add(name)
        elif isinstance(one, AwaitEvent):
            waiting.extend(one.models)
        elif isinstance(one, tuple | list | set | frozenset):
            waiting.extend(one)
        elif isinstance(one, dict | types.MappingProxyType):
            waiting.extend(one.values())
        elif isinstance(one, property):
            waiting.append(one.fget)
        elif isinstance(one, staticmethod | classmethod | types.MethodType):
            waiting.append(one.__func__)
        elif isinstance(one, types.FunctionType):
            waiting.append(getattr(one, "__wrapped__", None))
            waiting.extend(_mentions(one))
    return {name: model for name, model in models.items() if name not in doubtful}


def _mentions(function: types.FunctionType) -> Iterator[Any]:
    """Return the values of the names that a function's code uses, and its defaults."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes.extend(each for each in code.co_consts if isinstance(each, types.CodeType))
        for name in code.co_names:
            value = function.__globals__.get(name)
            foreign = getattr(value, "__module__", None) != function.__module__
            if isinstance(value, types.ModuleType):
                yield from (vars(value)[each] for each in code.co_names if each in vars(value))
            elif not (isinstance(value, types.FunctionType) and foreign):
                yield value
