"""Which sagas this process can drive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from saga_core.definition import SagaDefinition
from saga_core.errors import SagaDefinitionError
from saga_core.records import Registered, SagaRecord
from saga_core.timing import check_deadline_length

__all__ = ["Registration", "Registry"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,199}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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


class Registry:
    """Definitions by name and version; the version registered last starts new sagas."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Registration] = {}
        self._latest: dict[str, Registration] = {}
        self._claimable: tuple[Registered, ...] = ()

    def add(
        self,
        name: str,
        definition: SagaDefinition,
        *,
        version: str,
        max_crashes: int,
        deadline: timedelta | None = None,
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
        registration = Registration(name, version, definition, max_crashes, deadline)
        self._by_key[name, version] = registration
        self._latest[name] = registration
        self._claimable = tuple(entry.key for entry in self._by_key.values())

    @property
    def claimable(self) -> tuple[Registered, ...]:
        """What `claim_due` may hand us."""
        return self._claimable

    def latest(self, name: str) -> Registration:
        """Return what new sagas of this name run. Raises `SagaDefinitionError`."""
        registration = self._latest.get(name)
        if registration is None:
            raise SagaDefinitionError(
                f"saga {name!r} is not registered here. Registered: {self._known()}. "
                "Call orchestrator.register(name, definition) before."
            )
        return registration

    def get(self, name: str, version: str) -> Registration | None:
        """Return what is registered under a name and version, if anything is."""
        return self._by_key.get((name, version))

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the registered versions of a name, in the order of their registration."""
        return tuple(version for known, version in self._by_key if known == name)

    def knows(self, record: SagaRecord) -> bool:
        """Tell whether this process can drive the saga."""
        key = (record.saga_name, record.definition_version)
        registration = self._by_key.get(key)
        return (
            registration is not None and registration.definition.fingerprint == record.fingerprint
        )

    def resolve(self, record: SagaRecord) -> Registration:
        """Return the definition the saga was started with.

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
