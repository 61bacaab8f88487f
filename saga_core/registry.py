"""Which sagas this process can drive."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from saga_core.child import DEEPEST
from saga_core.definition import SagaDefinition
from saga_core.errors import SagaDefinitionError
from saga_core.records import Registered, SagaRecord
from saga_core.status import EntryKind
from saga_core.timing import check_deadline_length
from saga_core.upcaster import Convert, Upcaster

__all__ = ["Registration", "Registry", "Route"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,199}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_Way = tuple[str, ...]
"""Names of sagas, each of which starts the next."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A definition under its name and version."""

    name: str
    version: str
    definition: SagaDefinition
    max_crashes: int
    """How many workers may die, alone with a saga in one step, before it is STUCK."""
    deadline: timedelta | None = None
    """What a new saga gets that is started without one."""

    @property
    def key(self) -> Registered:
        return Registered(self.name, self.version, self.definition.fingerprint)


@dataclass(frozen=True, slots=True)
class Route:
    """The way from an older version of a saga to a registered one."""

    target: Registration
    convert: Convert


class Registry:
    """Definitions by name and version; the version registered last starts new sagas."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Registration] = {}
        self._latest: dict[str, Registration] = {}
        self._routes: dict[Registered, Route] = {}
        self._claimable: tuple[Registered, ...] = ()

    def add(
        self,
        name: str,
        definition: SagaDefinition,
        *,
        version: str,
        max_crashes: int,
        deadline: timedelta | None = None,
        upcast: Mapping[str, Convert | Upcaster] | None = None,
    ) -> None:
        """Register a definition. Raises `SagaDefinitionError`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SagaDefinitionError(
                f"saga name {name!r} is not valid: use 1 to 200 letters, digits, '_', '.', ':', "
                "'/' or '-', beginning with a letter or digit"
            )
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise SagaDefinitionError(
                f"version {version!r} of saga '{name}' is not valid: use a string of 1 to 64 "
                "letters, digits, '_', '.' or '-', beginning with a letter or digit"
            )
        if not isinstance(definition, SagaDefinition):
            raise SagaDefinitionError(
                f"saga '{name}' needs a SagaDefinition, got {type(definition).__name__}: "
                "call .build() on the SagaBuilder"
            )
        if isinstance(max_crashes, bool) or not isinstance(max_crashes, int) or max_crashes < 1:
            raise SagaDefinitionError(
                f"max_crashes of saga '{name}' must be a whole number of at least 1, "
                f"got {max_crashes!r}"
            )
        known = self._by_key.get((name, version))
        if known is not None and known.definition is not definition:
            raise SagaDefinitionError(
                f"saga '{name}' version '{version}' is registered already with another "
                "definition; give the new one a version of its own"
            )
        check_deadline_length(deadline)
        self._refuse_endless(name, definition)
        registration = Registration(name, version, definition, max_crashes, deadline)
        routes = dict(self._new_routes(registration, {} if upcast is None else upcast))
        self._by_key[name, version] = registration
        self._latest[name] = registration
        self._routes |= routes
        keys = [entry.key for entry in self._by_key.values()]
        self._claimable = tuple(dict.fromkeys((*keys, *self._routes)))

    def _new_routes(
        self, target: Registration, upcast: Mapping[str, Convert | Upcaster]
    ) -> Iterator[tuple[Registered, Route]]:
        name = target.name
        if not isinstance(upcast, Mapping):
            raise SagaDefinitionError(
                f"upcast of saga '{name}' must map versions to functions, "
                f"got {type(upcast).__name__}"
            )
        for version, value in upcast.items():
            if not isinstance(version, str) or not _VERSION.fullmatch(version):
                raise SagaDefinitionError(
                    f"upcast of saga '{name}' names the version {version!r}, which is none"
                )
            if version == target.version:
                raise SagaDefinitionError(
                    f"saga '{name}' version '{version}' cannot be upcast to itself; give the "
                    "changed definition a version of its own"
                )
            upcaster = value if isinstance(value, Upcaster) else Upcaster(value)
            known = self._by_key.get((name, version))
            fingerprints = set(upcaster.fingerprints)
            if known is not None:
                fingerprints.add(known.definition.fingerprint)
            if not fingerprints:
                raise SagaDefinitionError(
                    f"saga '{name}' version '{version}' is not registered here, so its upcaster "
                    "does not know which sagas are meant: register that version before, or use "
                    "Upcaster(function, fingerprints=(...,))"
                )
            for fingerprint in sorted(fingerprints):
                source = Registered(name, version, fingerprint)
                self._refuse_circle(source, target)
                yield source, Route(target, upcaster.convert)

    def _refuse_circle(self, source: Registered, target: Registration) -> None:
        route: Route | None = self._routes.get(target.key)
        while route is not None:
            if route.target.key == source:
                raise SagaDefinitionError(
                    f"saga '{target.name}' version '{target.version}' is upcast to version "
                    f"'{source.definition_version}' already, so it cannot be upcast from it"
                )
            route = self._routes.get(route.target.key)

    def _refuse_endless(self, name: str, definition: SagaDefinition) -> None:
        """Refuse a saga that starts itself, or too deep a chain of children."""
        # One way to each saga of a level: there may be very many ways.
        level = _first(name, definition)
        while level:
            for way in level.values():
                told = " -> ".join(f"'{each}'" for each in way)
                if way[-1] == name:
                    raise SagaDefinitionError(
                        f"saga '{name}' would start itself without end: {told}"
                    )
                if len(way) > DEEPEST + 1:
                    raise SagaDefinitionError(
                        f"saga '{name}' has children more than {DEEPEST} levels deep: {told}"
                    )
            level = self._below(level)

    def check_children(
        self, definition: SagaDefinition, name: str, saga_id: UUID | None = None
    ) -> None:
        """Raise `SagaDefinitionError` unless all that a saga may start is registered here."""
        if not definition.children:
            return
        level = _first(name, definition)
        seen: set[str] = set()
        for _ in range(DEEPEST):
            for way in level.values():
                if way[-1] not in self._latest:
                    told = " -> ".join(f"'{each}'" for each in way)
                    raise SagaDefinitionError(
                        f"saga '{way[-1]}', a child of saga '{way[-2]}', is not registered here "
                        f"({told}). Registered: {self._known()}.",
                        saga_id=saga_id,
                    )
            seen |= level.keys()
            level = {each: way for each, way in self._below(level).items() if each not in seen}

    def _below(self, level: Mapping[str, _Way]) -> dict[str, _Way]:
        """Return the children of some sagas, each by one of the ways that lead to it."""
        return {
            child: (*way, child)
            for name, way in level.items()
            if name in self._latest
            for child in self._latest[name].definition.children
        }

    @property
    def claimable(self) -> tuple[Registered, ...]:
        """What `claim_due` may hand us."""
        return self._claimable

    def starting(self, name: str, version: str | None) -> Registration:
        """Return what a new saga runs: this version, or the one registered last.

        Raises `SagaDefinitionError`, also if one of its children is not registered here.
        """
        latest = self.latest(name)
        if version is None:
            self.check_children(latest.definition, name)
            return latest
        registration = self._by_key.get((name, version)) if isinstance(version, str) else None
        if registration is None:
            versions = ", ".join(f"'{each}'" for each in self.versions(name))
            raise SagaDefinitionError(
                f"saga '{name}' version {version!r} is not registered here. Registered versions: "
                f"{versions}."
            )
        self.check_children(registration.definition, name)
        return registration

    def route(self, record: SagaRecord) -> Route | None:
        """Return the way to a newer version for a saga as it is driven, if there is one.

        One that no upcaster can move has none while its own version is registered.
        """
        route = self._routes.get(_key(record))
        own = self._by_key.get((record.saga_name, record.definition_version))
        if route is None or own is None or own.definition.fingerprint != record.fingerprint:
            return route
        went_back = any(entry.kind is EntryKind.VOIDED for entry in record.outputs)
        return None if went_back or own.definition.parallel else route

    def latest(self, name: str) -> Registration:
        """Return what new sagas of this name run. Raises `SagaDefinitionError`."""
        if not isinstance(name, str):
            raise SagaDefinitionError(f"saga_name must be text, got {type(name).__name__}")
        registration = self._latest.get(name)
        if registration is None:
            raise SagaDefinitionError(
                f"saga {name!r} is not registered here. Registered: {self._known()}. "
                "Call orchestrator.register(name, definition) before."
            )
        return registration

    @property
    def retained(self) -> Mapping[str, timedelta]:
        """How long ended sagas are kept, by the names for which what is registered says so."""
        kept = {name: one.definition.retain for name, one in self._latest.items()}
        return {name: retain for name, retain in kept.items() if retain is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """What is registered, in any version."""
        return tuple(self._latest)

    def ancestors(self, name: str | None) -> frozenset[str]:
        """Return the sagas that start those of a name, however far around; None for any name."""
        parents: dict[str, set[str]] = {}
        for registration in self._by_key.values():
            for child in registration.definition.children:
                parents.setdefault(child, set()).add(registration.name)
        if name is None:
            return frozenset().union(*parents.values())
        found: set[str] = set()
        ahead = {name}
        while ahead:
            ahead = set().union(*(parents.get(each, ()) for each in ahead)) - found
            found |= ahead
        return frozenset(found)

    def get(self, name: str, version: str) -> Registration | None:
        """Return what is registered under a name and version, if anything is."""
        return self._by_key.get((name, version))

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the registered versions of a name, in the order of their registration."""
        return tuple(version for known, version in self._by_key if known == name)

    def knows(self, record: SagaRecord) -> bool:
        """Tell whether this process claims the saga."""
        return _key(record) in self._claimable

    def resolve(self, record: SagaRecord) -> Registration:
        """Return the definition that drives a saga, given as it is driven.

        Raises `SagaDefinitionError`, with the differences if the definition has changed since.
        """
        registration = self._by_key.get((record.saga_name, record.definition_version))
        if registration is None:
            raise SagaDefinitionError(
                f"saga '{record.saga_name}' version '{record.definition_version}' is not "
                f"registered here. Registered: {self._known()}.",
                saga_id=record.saga_id,
            )
        if registration.definition.fingerprint != record.fingerprint:
            differences = registration.definition.differences(record.fingerprint)
            raise SagaDefinitionError(
                f"saga '{record.saga_name}' version '{record.definition_version}' has changed "
                f"since saga {record.saga_id} was started: {'; '.join(differences)}. Register the "
                "definition it was started with, and the new one under a version of its own.",
                saga_id=record.saga_id,
            )
        return registration

    def _known(self) -> str:
        return ", ".join(f"'{name}'" for name in sorted(self._latest)) or "none"


def _key(record: SagaRecord) -> Registered:
    return Registered(record.saga_name, record.definition_version, record.fingerprint)


def _first(name: str, definition: SagaDefinition) -> dict[str, _Way]:
    return {child: (name, child) for child in definition.children}
