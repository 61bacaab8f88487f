"""Check the names and labels a caller gives to a saga, and make ids."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from uuid import UUID

from saga_core.errors import PayloadError, SagaStateError

__all__ = [
    "check_aggregation_id",
    "check_label",
    "check_saga_id",
    "check_tags",
    "check_token",
    "check_trace_id",
    "new_saga_id",
]

MAX_CHARS = 255
MAX_TAGS = 20


def new_saga_id() -> UUID:
    """Return a UUIDv7: random, and ordered by the time it was made, which indexes like."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= 7 << 76 | secrets.randbits(12) << 64
    value |= 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)


def check_saga_id(value: object) -> None:
    """Refuse what is no id of a saga before any store sees it. Raises `SagaStateError`."""
    _check_uuid(value, "saga_id")


def check_token(value: object) -> None:
    """Refuse what can be no saga's token: None is fine, and fits none. Raises `SagaStateError`."""
    if value is not None:
        _check_uuid(value, "token")


def _check_uuid(value: object, what: str) -> None:
    if not isinstance(value, UUID):
        hint = ": make it one with uuid.UUID(...)" if isinstance(value, str) else ""
        raise SagaStateError(f"{what} must be a uuid.UUID, got {type(value).__name__}{hint}")


def check_aggregation_id(value: object) -> None:
    """Refuse an `aggregation_id` that no store can index. Raises `PayloadError`."""
    check_label(value, "aggregation_id")


def check_trace_id(value: object) -> None:
    """Refuse a `trace_id` that no store can hold. Raises `PayloadError`."""
    check_label(value, "trace_id")


def check_tags(tags: Sequence[str] | None) -> tuple[str, ...]:
    """Return the tags once each, in order. Raises `PayloadError`."""
    if tags is None:
        return ()
    if isinstance(tags, str | bytes) or not isinstance(tags, Sequence):
        raise PayloadError(f"tags must be a sequence of strings, got {type(tags).__name__}")
    for tag in tags:
        if tag is None:
            raise PayloadError("a tag must be a string, got None")
        check_label(tag, "tag")
    unique = tuple(dict.fromkeys(tags))
    if len(unique) > MAX_TAGS:
        raise PayloadError(f"a saga has at most {MAX_TAGS} tags, got {len(unique)}")
    return unique


def check_label(value: object, what: str) -> None:
    """Refuse text that some store could not hold or index: None is fine."""
    if value is None:
        return
    if not isinstance(value, str):
        raise PayloadError(f"{what} must be a string or None, got {type(value).__name__}")
    if not value:
        raise PayloadError(f"{what} must not be empty; leave it out (None) instead")
    if len(value) > MAX_CHARS:
        raise PayloadError(f"{what} has {len(value)} characters; at most {MAX_CHARS} are allowed")
    for position, character in enumerate(value):
        if ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) <= 0xDFFF:
            raise PayloadError(
                f"{what} has the character U+{ord(character):04X} at position {position}: control "
                "characters (NUL among them) and lone surrogates cannot be stored; remove it"
            )
