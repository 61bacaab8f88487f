"""The hooks a plugin may implement, and the values they exchange.

A backend is a module with one hook implementation, published under the entry-point group
`saga.backends`; the entry-point name is the URL scheme:

    # pyproject.toml
    [project.entry-points."saga.backends"]
    mystore = "my_package.saga_backend"

    # my_package/saga_backend.py
    from saga_core.hookspecs import BackendSpec, hookimpl

    @hookimpl
    def saga_backend() -> BackendSpec:
        return BackendSpec(name="mystore", ...)

Hooks are synchronous; I/O belongs in `BackendSpec.open`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from uuid import UUID

import pluggy
from pydantic import BaseModel, ConfigDict, Field

from saga_core.status import EntryKind, SagaStatus
from saga_core.store import SagaStore

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BackendSpec",
    "Capability",
    "Identifier",
    "ObservedEvent",
    "SchemaManager",
    "SchemaStatus",
    "StoreOptions",
    "hookimpl",
    "saga_backend",
    "saga_observe",
]

PROJECT = "saga"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
"""A lower-case name that is safe as part of a table, schema or key name in every store."""


class Capability(StrEnum):
    """What a store can do beyond the contract that all keep."""

    WAKEUP = "wakeup"
    """`wakeups()` yields; workers hear of due sagas before their next poll."""
    MULTI_PROCESS = "multi_process"
    """Several processes may use one store at once."""
    DURABLE = "durable"
    """What was acknowledged survives the death of the process."""
    TRANSACTION = "transaction"
    """A step may write business rows in the store's own transaction, and a saga may be started in
    a caller's: the store keeps `saga_core.transactions.TransactionalStore`."""


class StoreOptions(BaseModel):
    """Options every backend takes. A backend adds its own in a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    namespace: Identifier = "default"
    """Sagas of different namespaces never see each other."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """How a store's schema stands to this version of the library."""

    current: int
    """The version in the store; 0 when there is none."""
    latest: int
    pending: tuple[str, ...]
    """Names of the migrations still to run, in order."""


class SchemaManager(Protocol):
    """Looks after the schema of a store that has one."""

    async def status(self, url: str, options: Any) -> SchemaStatus:
        """Return how the schema stands; changes nothing."""
        ...

    async def upgrade(self, url: str, options: Any) -> SchemaStatus:
        """Run the pending migrations once, whoever else tries; return the status after."""
        ...


class OpenStore(Protocol):
    """Open a store by URL."""

    def __call__(
        self, url: str, *, create_schema: bool | None, options: Any
    ) -> AbstractAsyncContextManager[SagaStore]:
        """Return a context manager that connects, checks the schema, and closes what it opened.

        `options` is an instance of `BackendSpec.options`. `create_schema=None` means the
        backend's own default. Raises `StoreUrlError`, `StoreUnavailableError`, `SchemaError`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What a backend tells about itself."""

    name: str
    """The URL scheme; equal to the entry-point name."""
    summary: str
    """One line for `available_backends()`."""
    open: OpenStore
    capabilities: frozenset[Capability] = frozenset()
    options: type[StoreOptions] = StoreOptions
    schema: SchemaManager | None = None
    """None for a store without a schema of its own to migrate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedEvent:
    """One history entry that this process has just committed."""

    saga_id: UUID
    saga_name: str
    kind: EntryKind
    status: SagaStatus
    step_id: str | None = None
    attempt: int = 0
    duration: timedelta | None = None
    """How long the step's code ran, by this process's monotonic clock, if it ran."""
    error_code: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@hookspec(firstresult=True)
def saga_backend() -> BackendSpec:  # type: ignore[empty-body]
    """Return the one backend that this plugin provides."""


@hookspec
def saga_observe(event: ObservedEvent) -> None:
    """Learn of a committed event: for metrics, not for business.

    Called after the commit, at most once; what it raises is logged and dropped. Runs in the
    driver's event loop, so it must return quickly and never block.
    """
