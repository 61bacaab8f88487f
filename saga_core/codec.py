"""JSON text in and out of the store, through pydantic, checked before it is written."""

from __future__ import annotations

import logging
import math
from abc import ABCMeta
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import EnumType
from typing import Any, Self

from pydantic import (
    BaseModel,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json, to_json

from saga_core.annotations import name_of
from saga_core.errors import PayloadError, TypeValidationError
from saga_core.masking import ADVICE, MASK, is_masked, masked_in

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

MAX_DEPTH = 250
"""No JSON parser of ours reads deeper."""

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
_PLAIN_METACLASSES = (type, ABCMeta, EnumType, type(BaseModel))


def encode_json(value: Any, *, what: str, limits: PayloadLimits = DEFAULT_LIMITS) -> str:
    """Return any JSON-like value as text: models, dataclasses, UUIDs, dates, numbers, text.

    Raises `PayloadError`, which names `what` and the path, for what JSON cannot hold (NaN,
    infinities, arbitrary objects), NUL characters, lone surrogates, masked secrets and too large
    values.
    """
    try:
        data = to_json(value, inf_nan_mode="constants", by_alias=True)
        from_json(data, allow_inf_nan=False)  # deeper than can be read, and NaN
        finite = _is_finite(data, value, lambda: _ANYTHING.dump_python(value, warnings=False))
    except Exception as error:  # also what a model's own serializer raises
        raise _unencodable(value, what, error) from None
    if not finite:
        raise _unencodable(value, what, None)
    return _checked(data, value, what, limits)


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
            if not self._adapter.pydantic_complete:
                self._adapter.rebuild(raise_errors=True)
        except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
            raise TypeValidationError(
                f"{what}: pydantic cannot handle the type {name_of(kind)}: "
                f"{str(error).splitlines()[0]}"
            ) from None
        self.kind = kind
        # A TypedDict and many a protocol is a class that knows no instances.
        self._is_class = isinstance(kind, type) and type(kind) in _PLAIN_METACLASSES

    @classmethod
    def of_written(cls, kind: Any, *, what: str) -> Self:
        """Make one of a type whose values are to be stored.

        Raises `TypeValidationError` also for a type of which a secret is written as asterisks.
        """
        codec = cls(kind, what=what)
        path = masked_in(codec.adapter.core_schema)
        if path is not None:
            raise TypeValidationError(f"{what}: {name_of(kind)}{path} is a secret. {ADVICE}")
        return codec

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
        data = self._dumped(value, what)
        text = _checked(data, value, what, limits)
        return text, self._reread(data, what)

    def decode(self, text: str, *, what: str) -> Any:
        """Return the value that the text holds. Raises `PayloadError`."""
        return self._reread(text, f"{what} in the store")

    def _dumped(self, value: Any, what: str) -> bytes:
        """Return JSON that can be read back: no computed fields, names and not aliases."""
        dump = self._adapter.dump_json
        try:
            data = dump(value, by_alias=False, round_trip=True, warnings="error")
            finite = _is_finite(
                data,
                value,
                lambda: self._adapter.dump_python(value, round_trip=True, warnings=False),
            )
        except Exception as error:  # also what a model's own serializer raises
            if "serializer warnings" in str(error):
                # The text names the field with its value; reading back names it without.
                self._reread(dump(value, by_alias=False, round_trip=True, warnings=False), what)
                raise PayloadError(
                    f"{what} is not a valid {name_of(self.kind)}: it holds a value of another "
                    "type than is declared; was it changed after it was made?"
                ) from None
            raise _unencodable(value, what, error) from None
        if not finite:
            raise _unencodable(value, what, None)
        return data

    def _reread(self, text: str | bytes, what: str) -> Any:
        try:
            return self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as error:
            raise _invalid(what, error) from None
        except Exception as error:
            raise _crashed(what, error) from error

    def _validated(self, value: Any, what: str) -> Any:
        try:
            return self._adapter.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            raise _invalid(what, error) from None
        except Exception as error:
            raise _crashed(what, error) from error


def _is_finite(data: bytes, value: Any, plain: Callable[[], Any]) -> bool:
    """Tell whether a text was made of a value without NaN and infinities.

    A model writes them as null or as text, so where there is such a word the value in plain
    Python is written once more, as constants, which strict JSON refuses.
    """
    if b"null" not in data and b"NaN" not in data and b"Infinity" not in data:
        return True
    try:
        data = to_json(plain(), inf_nan_mode="constants", fallback=lambda _: None)
    except Exception:  # a set of models, say, has no plain form
        return _find(value, _is_not_finite) is None
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        return False
    return True


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
    if MASK in data and (found := _find(value, is_masked)) is not None:
        raise PayloadError(f"{what}{found.path} is a secret. {ADVICE}")
    if b"\\u0000" in data and _has_nul(data):
        found = _find(value, _is_nul_text)
        raise PayloadError(
            f"{what}{found.path if found else ''} contains a NUL character, which not every store "
            "can hold: remove it or encode the value, for example as base64"
        )
    return data.decode("utf-8")


def _has_nul(data: bytes) -> bool:
    # A backslash that is itself escaped starts no escape.
    return b"\\u0000" in data.replace(b"\\\\", b"")


def _unencodable(value: Any, what: str, error: Exception | None) -> PayloadError:
    found = _find(value, _is_not_json)
    if found is not None:
        where, offender = f"{what}{found.path}", found.value
        if isinstance(offender, float):
            return PayloadError(f"{where} is {offender!r}, which JSON cannot hold")
        if isinstance(offender, str):
            return PayloadError(
                f"{where} has a lone surrogate, which is not valid Unicode: clean the text"
            )
        if isinstance(offender, bytes | bytearray):
            return PayloadError(f"{where} is bytes that are not UTF-8: encode it, say as base64")
        return PayloadError(
            f"{where} is a {type(offender).__name__}, which JSON cannot hold: use text, "
            "numbers, lists, mappings with text keys, or a pydantic model"
        )
    told = str(error).lower()
    if isinstance(error, RecursionError) or "circular" in told or "recursion" in told:
        return PayloadError(f"{what} refers to itself or is nested too deeply for JSON")
    reason = type(error).__name__ if error is not None else "not a finite number"
    return PayloadError(f"{what} cannot be written as JSON ({reason})")


def _crashed(what: str, error: Exception) -> PayloadError:
    return PayloadError(
        f"{what} cannot be validated: a validator raised {type(error).__name__}; it should raise "
        "ValueError for a value that it refuses"
    )


def _invalid(what: str, error: ValidationError) -> PayloadError:
    problems = "; ".join(
        f"{_path(item['loc']).lstrip('.') or 'value'}: {_message(item['type'], item['msg'])}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)[:5]
    )
    return PayloadError(f"{what} is not a valid {error.title}: {problems}")


def _message(kind: str, message: str) -> str:
    # The one message of pydantic's own that quotes the input.
    return "Input tag is none of the expected" if kind == "union_tag_invalid" else message


# --- finding the culprit, only after something went wrong ----------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A value that cannot be stored, and the way to it."""

    path: str
    value: Any


def _find(value: Any, culprit: Callable[[Any], bool]) -> _Found | None:
    """Search depth first. What was looked at is not again: a value may hold itself, twice even."""
    looked_at: set[int] = set()
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        parts, one = waiting.pop()
        if culprit(one):
            return _Found(_path(parts), one)
        if id(one) in looked_at or len(parts) > MAX_DEPTH:
            continue
        looked_at.add(id(one))
        for part, child in reversed(_children(one)):
            waiting.append(((*parts, part), child))
            if isinstance(part, str):
                waiting.append(((*parts, part), part))
    return None


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        extra = getattr(value, "__pydantic_extra__", None) or {}
        return [*vars(value).items(), *extra.items()]
    return []


def _path(parts: tuple[Any, ...]) -> str:
    return "".join(map(_part, parts))


def _part(part: Any) -> str:
    """Return a key as it may stand in a message: short, and without what cannot be stored."""
    if isinstance(part, int):
        return f"[{part}]"
    text = str(part)
    return f".{text}" if text.isidentifier() and len(text) <= 80 else f"[{text[:80]!a}]"


def _is_nul_text(value: Any) -> bool:
    return isinstance(value, str) and "\x00" in value


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_not_json(value: Any) -> bool:
    if isinstance(value, float):
        return _is_not_finite(value)
    if isinstance(value, str):
        return any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if value is None or isinstance(value, bool | int | Mapping | list | tuple | set | frozenset):
        return False
    try:
        to_json(value, inf_nan_mode="constants")
    except Exception:
        return not _children(value)
    return False
