"""JSON text in and out of the store, through pydantic, checked before it is written."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from saga_core.errors import PayloadError, TypeValidationError

__all__ = ["PayloadCodec", "PayloadLimits", "decode_json", "encode_json"]

logger = logging.getLogger("saga_core")


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """How large one payload (initial data, an input, an output, an event) may be, in bytes."""

    max_bytes: int = 2 * 1024 * 1024
    warn_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        if not 0 < self.warn_bytes <= self.max_bytes:
            raise PayloadError("payload limits need 0 < warn_bytes <= max_bytes")


DEFAULT_LIMITS = PayloadLimits()


def encode_json(value: Any, *, what: str, limits: PayloadLimits = DEFAULT_LIMITS) -> str:
    """Return any JSON-like value as text: models, dataclasses, UUIDs, dates, numbers, text.

    Raises `PayloadError`, which names `what` and the path, for what JSON cannot hold (NaN,
    infinities, arbitrary objects), NUL characters, lone surrogates and too large values.
    """
    try:
        data = to_json(value, inf_nan_mode="constants", by_alias=True)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise _unencodable(value, what, error) from None
    text = _checked(data, value, what, limits)
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        raise _unencodable(value, what, None) from None
    return text


def decode_json(text: str, *, what: str) -> Any:
    """Return the value that the text holds. Raises `PayloadError`."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise PayloadError(f"{what} in the store is not JSON: {error}") from None


class PayloadCodec:
    """Encodes and decodes the values of one type."""

    def __init__(self, kind: Any, *, what: str) -> None:
        """Raises `TypeValidationError` for a type pydantic cannot handle."""
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise TypeValidationError(
                f"{what}: pydantic cannot handle the type {kind!r}: {str(error).splitlines()[0]}"
            ) from None
        self.kind = kind
        self._is_class = isinstance(kind, type)

    @property
    def adapter(self) -> TypeAdapter[Any]:
        return self._adapter

    def encode(self, value: Any, *, what: str, limits: PayloadLimits = DEFAULT_LIMITS) -> str:
        """Return the text of a valid value. Raises `PayloadError`."""
        return self.roundtrip(value, what=what, limits=limits)[0]

    def roundtrip(
        self, value: Any, *, what: str, limits: PayloadLimits = DEFAULT_LIMITS
    ) -> tuple[str, Any]:
        """Return the text, and the value as read back from it.

        Reading back is the validation: it sees a mutated or unvalidated instance, and whoever
        uses the value in this run sees just what a recovered run will see. A mapping is taken
        for a model. Raises `PayloadError`.
        """
        if not (self._is_class and isinstance(value, self.kind)):
            value = self._validated(value, what)
        try:
            data = self._adapter.dump_json(value, by_alias=False, warnings="error")
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise _unencodable(value, what, error) from None
        text = _checked(data, value, what, limits)
        try:
            return text, self._adapter.validate_json(data, by_alias=False, by_name=True)
        except ValidationError as error:
            raise _invalid(what, error) from None

    def decode(self, text: str, *, what: str) -> Any:
        """Return the value that the text holds. Raises `PayloadError`."""
        try:
            return self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as error:
            raise _invalid(f"{what} in the store", error) from None

    def _validated(self, value: Any, what: str) -> Any:
        try:
            return self._adapter.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            raise _invalid(what, error) from None


def _checked(data: bytes, value: Any, what: str, limits: PayloadLimits) -> str:
    size = len(data)
    if size > limits.max_bytes:
        raise PayloadError(
            f"{what} has {size:,} bytes as JSON; the limit is {limits.max_bytes:,}. Keep large "
            "data elsewhere and store a reference, or raise PayloadLimits(max_bytes=...)."
        )
    if size >= limits.warn_bytes:
        logger.warning(
            "%s has %d bytes as JSON, which slows every read of its saga; the limit is %d",
            what,
            size,
            limits.max_bytes,
        )
    if b"\\u0000" in data and _has_nul(data):
        path = _find(value, _is_nul_text)
        raise PayloadError(
            f"{what}{path or ''} contains a NUL character, which not every store can hold: "
            "remove it or encode the value, for example as base64"
        )
    return data.decode("utf-8")


def _has_nul(data: bytes) -> bool:
    # A backslash that is itself escaped starts no escape.
    return b"\\u0000" in data.replace(b"\\\\", b"")


def _unencodable(value: Any, what: str, error: Exception | None) -> PayloadError:
    path = _find(value, _is_not_json)
    if path is not None:
        offender = _at(value, path)
        if isinstance(offender, float):
            return PayloadError(f"{what}{path} is {offender!r}, which JSON cannot hold")
        if isinstance(offender, str):
            return PayloadError(
                f"{what}{path} has a lone surrogate, which is not valid Unicode: clean the text"
            )
        return PayloadError(
            f"{what}{path} is a {type(offender).__name__}, which JSON cannot hold: use text, "
            "numbers, lists, mappings with text keys, or a pydantic model"
        )
    if isinstance(error, RecursionError) or "ircular" in str(error):
        return PayloadError(f"{what} refers to itself or is nested too deeply for JSON")
    reason = type(error).__name__ if error is not None else "not a finite number"
    return PayloadError(f"{what} cannot be written as JSON ({reason})")


def _invalid(what: str, error: ValidationError) -> PayloadError:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)[:5]
    )
    return PayloadError(f"{what} is not a valid {error.title}: {problems}")


# --- finding the culprit, only after something went wrong ----------------------------------------

_Path = tuple[Any, ...]


class _Found(str):
    """A path as text, with its parts."""

    __slots__ = ("parts",)
    parts: _Path


def _find(value: Any, culprit: Any, path: _Path = (), depth: int = 0) -> _Found | None:
    if culprit(value):
        found = _Found("".join(_part(part) for part in path))
        found.parts = path
        return found
    if depth > 50:
        return None
    for part, child in _children(value):
        found_below = _find(child, culprit, (*path, part), depth + 1)
        if found_below is not None:
            return found_below
    return None


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return [(key, child) for key, child in value.items()]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return list(vars(value).items())
    return []


def _at(value: Any, path: _Found) -> Any:
    for part in path.parts:
        value = dict(_children(value))[part]
    return value


def _part(part: Any) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def _is_nul_text(value: Any) -> bool:
    return isinstance(value, str) and "\x00" in value


def _is_not_json(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, str):
        return any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if value is None or isinstance(value, bool | int | Mapping | list | tuple):
        return False
    try:
        to_json(value, inf_nan_mode="constants")
    except Exception:
        return not hasattr(value, "__dict__") or not _children(value)
    return False
