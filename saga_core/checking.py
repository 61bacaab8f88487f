"""Check before a deploy that the sagas in the store can be driven by what is registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from saga_core.codec import PayloadLimits
from saga_core.errors import SagaDefinitionError, SagaNotFoundError
from saga_core.records import Query, SagaRecord
from saga_core.registry import Registry
from saga_core.status import ACTIVE
from saga_core.store import SagaStore
from saga_core.upcasting import bring_to_life
from saga_core.versions import as_driven, was_upcast

__all__ = ["CheckedDefinition", "DefinitionReport", "check_definitions"]


PAGE = 500


REFUSED = 3
"""Sagas of one definition whose refusal by an upcaster is told; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDefinition:
    """A definition that drives active sagas in the store."""

    saga_name: str
    version: str
    """The one that drives them: they were started with it, or upcast to it."""
    fingerprint: str
    started_as: str
    """The version they were started with, by which they are claimed."""
    sagas: int
    """How many active sagas need it."""
    example: UUID
    """The oldest of them."""
    registered: bool
    """Whether anything is registered under this name and version."""
    differences: tuple[str, ...]
    """How what is registered differs from it, in sentences; empty if it does not."""
    upcast_to: str | None = None
    """The version to which what is registered here moves them."""
    refused: int = 0
    """How many of them an upcaster cannot move."""
    refusals: tuple[str, ...] = ()
    """Why, in sentences, for the first of them."""

    @property
    def ok(self) -> bool:
        """Whether these sagas can be driven by what is registered."""
        return self.registered and not self.differences and not self.refused

    def __str__(self) -> str:
        if self.ok:
            said = "registered" if self.upcast_to is None else f"is moved to '{self.upcast_to}'"
        elif self.refused:
            said = f"has {self.refused} refused by an upcaster: {'; '.join(self.refusals)}"
        elif self.registered:
            said = f"has changed: {'; '.join(self.differences)}"
        else:
            said = "is not registered"
        sagas = f"{self.sagas} active saga{'' if self.sagas == 1 else 's'}"
        name = f"'{self.saga_name}' version '{self.version}'"
        if self.started_as != self.version:
            name += f", started as version '{self.started_as}',"
        return f"{name} {said} ({sagas}, such as {self.example})"


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


async def check_definitions(
    store: SagaStore, registry: Registry, limits: PayloadLimits
) -> DefinitionReport:
    """Read all active sagas, a page in memory at a time, and return what they need.

    Raises `SagaDefinitionError` for what is no store.
    """
    if not isinstance(store, SagaStore):
        raise SagaDefinitionError(
            f"check_definitions needs a SagaStore, got {type(store).__name__}: use "
            "`async with open_store(url) as store`, or None for the orchestrator's own"
        )
    found: dict[tuple[str, ...], CheckedDefinition] = {}
    query = Query(statuses=ACTIVE, limit=PAGE)
    while True:
        page = await store.find(query)
        for listed in page.records:
            checked = await _check(store, listed, registry, limits)
            if checked is None:
                continue
            key = (checked.saga_name, checked.version, checked.fingerprint, checked.started_as)
            known = found.get(key)
            found[key] = checked if known is None else _together(known, checked)
        if page.cursor is None:
            return DefinitionReport(definitions=tuple(found[key] for key in sorted(found)))
        query = replace(query, cursor=page.cursor)


async def _check(
    store: SagaStore, listed: SagaRecord, registry: Registry, limits: PayloadLimits
) -> CheckedDefinition | None:
    """Look at one saga; None if it has ended meanwhile. Most need no more than what is listed."""
    if registry.route(listed) is None and not was_upcast(listed):
        return _compared(listed, listed, listed, registry)
    try:
        record = await store.load(listed.saga_id)
    except SagaNotFoundError:
        return None
    if record.state.status.is_terminal:
        return None
    driven = as_driven(record)
    route = registry.route(driven)
    # A claim goes by the version that a saga was started with.
    if route is None or not registry.knows(record):
        needed = driven if registry.knows(record) else record
        return _compared(record, driven, needed, registry)
    heard = await store.inbox(record.saga_id) if record.signals else ()
    known = [signal for signal in heard if signal.seq <= record.seen or signal.consumed]
    refusals: tuple[str, ...] = ()
    upcast_to = route.target.version
    try:
        upcast_to = bring_to_life(record, registry, limits, known).registration.version
    except SagaDefinitionError as error:
        refusals = (str(error),)
    checked = _checked(record, driven, registered=True)
    return replace(checked, upcast_to=upcast_to, refused=len(refusals), refusals=refusals)


def _compared(
    record: SagaRecord, driven: SagaRecord, needed: SagaRecord, registry: Registry
) -> CheckedDefinition:
    """Compare what is registered with the version that is needed to claim or to drive."""
    registration = registry.get(needed.saga_name, needed.definition_version)
    differences: tuple[str, ...] = ()
    if registration is not None:
        differences = tuple(registration.definition.differences(needed.fingerprint))
        try:
            registry.check_children(registration.definition, needed.saga_name)
        except SagaDefinitionError as error:
            differences += (str(error),)
    checked = _checked(record, driven, registered=registration is not None)
    return replace(checked, differences=differences)


def _checked(record: SagaRecord, driven: SagaRecord, *, registered: bool) -> CheckedDefinition:
    return CheckedDefinition(
        saga_name=driven.saga_name,
        version=driven.definition_version,
        fingerprint=driven.fingerprint,
        started_as=record.definition_version,
        sagas=1,
        example=record.saga_id,
        registered=registered,
        differences=(),
    )


def _together(known: CheckedDefinition, one: CheckedDefinition) -> CheckedDefinition:
    return replace(
        known,
        sagas=known.sagas + 1,
        refused=known.refused + one.refused,
        refusals=(*known.refusals, *one.refusals)[:REFUSED],
    )
