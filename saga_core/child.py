"""Child sagas, as a definition has them: a step that starts another saga and waits for its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from saga_core.codec import decode_json, encode_json
from saga_core.errors import PayloadError, SagaError
from saga_core.records import NewEntry, SagaRecord
from saga_core.status import EntryKind
from saga_core.step import BaseStep

__all__ = [
    "DEEPEST",
    "ChildEnded",
    "ChildFailedError",
    "ChildLink",
    "ChildMap",
    "ChildResult",
    "ChildStart",
    "ChildStep",
    "ParentLink",
    "child_id_of",
    "children_of",
    "parent_of",
]

DEEPEST = 10
"""How many parents a saga may have above it."""


class ChildStart(BaseModel):
    """How a child saga is started: what its `input_map` returns where its data is not enough."""

    model_config = ConfigDict(frozen=True)

    initial_data: Any = None
    aggregation_id: str | None = None
    tags: tuple[str, ...] = ()


class ChildResult(BaseModel):
    """What a child saga that is COMPLETED has come to: the output of its step."""

    model_config = ConfigDict(frozen=True)

    saga_id: UUID
    saga_name: str
    outputs: dict[str, Any] = Field(default_factory=dict)
    """What its steps have put out, as JSON values by step id."""


class ChildEnded(BaseModel):
    """What a child sends to its parent; how it ended is read in its own record."""

    saga_event_name: ClassVar[str] = "saga:child-ended"
    saga_id: UUID


class ChildFailedError(SagaError):
    """A child saga ended without being COMPLETED. Never raised: its name is the `error_code`."""


class ChildStep(BaseStep[ChildStart, ChildResult]):
    """Stands for a child saga among the steps of its parent. Whoever drives the parent runs it."""

    def __init__(self, saga_name: str) -> None:
        self.saga_name = saga_name

    async def execute(self, inp: ChildStart) -> ChildResult:
        """Never called."""
        raise NotImplementedError("a child saga is started by whoever drives its parent")

    async def compensate(self, inp: ChildStart, out: ChildResult | None) -> None:
        """Never called."""
        raise NotImplementedError("a child saga is rolled back by whoever drives its parent")


class ChildMap:
    """The map of a child: what it returns is the child's data, unless it is a `ChildStart`."""

    def __init__(self, input_map: Callable[..., Any]) -> None:
        self.input_map = input_map
        """The user's."""

    def __call__(self, *given: Any) -> ChildStart:
        """Compute how the child is started."""
        value = self.input_map(*given)
        return value if isinstance(value, ChildStart) else ChildStart(initial_data=value)


@dataclass(frozen=True, slots=True)
class ParentLink:
    """Who has started a saga. The text of its `PARENT` entry."""

    saga_id: UUID
    saga_name: str
    step_id: str
    depth: int
    """How many parents there are above the child."""

    def entry(self) -> NewEntry:
        """Return the entry that a child is created with."""
        fact = {
            "saga_id": str(self.saga_id),
            "saga_name": self.saga_name,
            "step_id": self.step_id,
            "depth": self.depth,
        }
        return NewEntry(kind=EntryKind.PARENT, output=encode_json(fact, what="parent"))

    @classmethod
    def decode(cls, text: str) -> ParentLink:
        """Read what `entry` has written. Raises `PayloadError`."""
        fact = decode_json(text, what="parent")
        try:
            return cls(UUID(fact["saga_id"]), fact["saga_name"], fact["step_id"], fact["depth"])
        except (TypeError, ValueError, KeyError) as error:
            raise PayloadError(f"a saga's parent in the store cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class ChildLink:
    """A saga that another has started. The text of a `CHILD` entry of the parent."""

    saga_id: UUID
    saga_name: str
    step_id: str

    def entry(self) -> NewEntry:
        """Return the entry that the child is created together with."""
        fact = {"saga_id": str(self.saga_id), "saga_name": self.saga_name}
        text = encode_json(fact, what="child")
        return NewEntry(kind=EntryKind.CHILD, step_id=self.step_id, output=text)

    @classmethod
    def decode(cls, entry: NewEntry) -> ChildLink:
        """Read an entry. Raises `PayloadError`."""
        fact = decode_json(entry.output or "", what="child")
        try:
            return cls(UUID(fact["saga_id"]), fact["saga_name"], entry.step_id or "")
        except (TypeError, ValueError, KeyError) as error:
            raise PayloadError(f"a saga's child in the store cannot be read: {error}") from None


def child_id_of(parent: UUID, step_id: str, generation: int) -> UUID:
    """Return the id of the child that a step starts: the same whoever starts it."""
    return uuid5(parent, f"{step_id}:{generation}")


def parent_of(record: SagaRecord) -> ParentLink | None:
    """Return who has started a saga, if another one has. Raises `PayloadError`.

    What `find` gives has no outputs, so there is nothing to read.
    """
    for entry in record.outputs:
        if entry.kind is EntryKind.PARENT:
            return ParentLink.decode(entry.output or "")
    return None


def children_of(record: SagaRecord) -> tuple[ChildLink, ...]:
    """Return the sagas that a saga has started, oldest first; as `parent_of`."""
    return tuple(
        ChildLink.decode(entry) for entry in record.outputs if entry.kind is EntryKind.CHILD
    )
