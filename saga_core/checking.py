"""Check before a deploy that the sagas in the store can be driven by what is registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from saga_core.records import Query, SagaRecord
from saga_core.registry import Registry
from saga_core.status import SagaStatus
from saga_core.store import SagaStore

__all__ = ["CheckedDefinition", "DefinitionReport", "check_definitions"]

ACTIVE = tuple(status for status in SagaStatus if not status.is_terminal)

PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDefinition:
    """A definition that active sagas in the store were started with."""

    saga_name: str
    version: str
    fingerprint: str
    sagas: int
    """How many active sagas need it."""
    example: UUID
    """The oldest of them."""
    registered: bool
    """Whether anything is registered under this name and version."""
    differences: tuple[str, ...]
    """How what is registered differs from it, in sentences; empty if it does not."""

    @property
    def ok(self) -> bool:
        """Whether these sagas can be driven by what is registered."""
        return self.registered and not self.differences

    def __str__(self) -> str:
        if self.ok:
            said = "registered"
        elif self.registered:
            said = f"has changed: {'; '.join(self.differences)}"
        else:
            said = "is not registered"
        sagas = f"{self.sagas} active saga{'' if self.sagas == 1 else 's'}"
        return (
            f"'{self.saga_name}' version '{self.version}' {said} ({sagas}, such as {self.example})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionReport:
    """Which definitions the active sagas of a store need. `str()` is for people to read."""

    definitions: tuple[CheckedDefinition, ...]
    """By name, version and fingerprint."""

    @property
    def ok(self) -> bool:
        """Whether every active saga can be driven by what is registered."""
        return not self.problems

    @property
    def problems(self) -> tuple[CheckedDefinition, ...]:
        """Return those that are not registered or have changed."""
        return tuple(each for each in self.definitions if not each.ok)

    @property
    def sagas(self) -> int:
        """Return how many active sagas were looked at."""
        return sum(each.sagas for each in self.definitions)

    def __str__(self) -> str:
        if self.ok:
            return f"every active saga can be driven: {self.sagas} looked at"
        left = sum(each.sagas for each in self.problems)
        head = f"{left} of {self.sagas} active sagas cannot be driven:"
        return "\n".join([head, *(f"- {each}" for each in self.problems)])


async def check_definitions(store: SagaStore, registry: Registry) -> DefinitionReport:
    """Read all active sagas, a page in memory at a time, and return what they need."""
    found: dict[tuple[str, str, str], CheckedDefinition] = {}
    query = Query(statuses=ACTIVE, limit=PAGE)
    while True:
        page = await store.find(query)
        for record in page.records:
            key = (record.saga_name, record.definition_version, record.fingerprint)
            known = found.get(key)
            if known is None:
                found[key] = _checked(record, registry)
            else:
                found[key] = replace(known, sagas=known.sagas + 1)
        if page.cursor is None:
            return DefinitionReport(definitions=tuple(found[key] for key in sorted(found)))
        query = replace(query, cursor=page.cursor)


def _checked(record: SagaRecord, registry: Registry) -> CheckedDefinition:
    registration = registry.get(record.saga_name, record.definition_version)
    differences: tuple[str, ...] = ()
    if registration is not None:
        differences = tuple(registration.definition.differences(record.fingerprint))
    return CheckedDefinition(
        saga_name=record.saga_name,
        version=record.definition_version,
        fingerprint=record.fingerprint,
        sagas=1,
        example=record.saga_id,
        registered=registration is not None,
        differences=differences,
    )
