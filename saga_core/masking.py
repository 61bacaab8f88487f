"""Find what pydantic writes as asterisks, so that its value would not come back from a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter

__all__ = ["ADVICE", "MASK", "is_masked", "masked_in"]

MASK = b'"**********"'
"""What pydantic writes for a secret in JSON."""

ADVICE = (
    "Pydantic writes it as asterisks, so its value would be lost: keep it elsewhere and store a "
    "reference, or write it in the open with a @field_serializer of your own"
)

_NOT_WRITTEN = frozenset(
    (
        "serialization",
        "metadata",
        "config",
        "computed_fields",
        "python_schema",
        "default",
        "expected",
        "members",
    )
)
"""Keys of a schema under which there is nothing that says how a value is written."""


def is_masked(value: Any) -> bool:
    """Tell whether a value is a secret that is not what its mask says."""
    if not isinstance(value, SecretStr | SecretBytes | Secret):
        return False
    return value.get_secret_value() not in ("**********", b"**********")


def masked_in(schema: Any) -> str | None:
    """Return the way to a secret in values of a core schema, as `.card.number`; None for none.

    Below a serializer of the user's own nothing is looked for: it may write what it likes.
    """
    try:
        return next(_walk(schema), None)
    except Exception:  # another shape than any known; what is masked is still seen when written
        return None


def _walk(schema: Any) -> Iterator[str]:
    known: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, list | tuple):
            waiting.extend((path, each) for each in node)
        if not isinstance(node, Mapping) or node.get("serialization_exclude"):
            continue
        own = node.get("serialization") or {}
        if own.get("type") == "function-plain":
            if own["function"] in _masks():
                yield path
            waiting.append((path, own.get("return_schema")))
        elif own.get("type") == "function-wrap" and not _is_pydantic(own["function"]):
            continue
        elif node.get("type") == "definitions":
            known.update({each["ref"]: each for each in node["definitions"]})
            waiting.append((path, node["schema"]))
        elif node.get("type") == "definition-ref":
            waiting.append((path, known.pop(node["schema_ref"], None)))  # once is enough
        else:
            waiting.extend(_parts(path, node))


def _parts(path: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if node.get("type") == "dataclass-field":
        path = f"{path}.{node['name']}"
    for key, part in node.items():
        if key == "fields" and isinstance(part, Mapping):
            yield from ((f"{path}.{name}", each) for name, each in part.items())
        elif key == "choices" and isinstance(part, Mapping):
            yield from ((path, each) for each in part.values())
        elif key not in _NOT_WRITTEN:
            yield path, part


def _is_pydantic(function: Any) -> bool:
    """Tell whether a serializer is one of pydantic's own, which hand on what they wrap."""
    return str(getattr(function, "__module__", "")).startswith("pydantic.")


@lru_cache(maxsize=1)
def _masks() -> frozenset[Any]:
    """Return the serializers that write asterisks, as pydantic's own types have them."""
    found: set[Any] = set()
    waiting: list[Any] = [TypeAdapter(k).core_schema for k in (SecretStr, SecretBytes, Secret[str])]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            own = node.get("serialization") or {}
            found.update([own["function"]] if "function" in own else [])
            waiting.extend(node.values())
    return frozenset(found)
