"""What can go wrong, each with what to do about it.

Every error a user can meet is a `SagaError`. A driver's exception never leaves a backend: it is
turned into one of these at one seam and kept as `__cause__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

__all__ = [
    "ActiveSagaAlreadyExistsError",
    "BackendConflictError",
    "BackendNotFoundError",
    "MissingDriverError",
    "NonRetryableError",
    "PayloadError",
    "QueryError",
    "SagaDefinitionError",
    "SagaError",
    "SagaNotFoundError",
    "SagaStateError",
    "SchemaError",
    "StaleVersionError",
    "StoreUnavailableError",
    "StoreUrlError",
    "TypeValidationError",
]


class SagaError(Exception):
    """Any error of this library.

    `saga_id` is set once a saga is known, so a caller who loses the store in the middle of
    `start` can still ask for his saga later.
    """

    def __init__(self, message: str, *, saga_id: UUID | None = None) -> None:
        super().__init__(message)
        self.saga_id = saga_id


class SagaDefinitionError(SagaError):
    """A saga, or its registration, is put together wrongly. Mend the code; no saga was changed."""


class TypeValidationError(SagaDefinitionError, TypeError):
    """A step's annotations are missing or do not fit. Raised when the step class is created."""


class PayloadError(SagaError, ValueError):
    """A value cannot be stored: not JSON, a NUL character, or over the size limit."""


class TransactionFailedError(SagaError):
    """The store's transaction that a step worked in could not be committed: all is rolled back.

    Recorded as the step's failure, and tried again by its retry policy.
    """


class QueryError(SagaError, ValueError):
    """What was asked of `find`, `count` or `purge` makes no sense. The text names the argument."""


class SagaNotFoundError(SagaError, LookupError):
    """No saga with this id in this namespace of this store."""


class ActiveSagaAlreadyExistsError(SagaError):
    """Another active saga holds this `aggregation_id`; `saga_id` names it. Wait for it to end."""


class SagaStateError(SagaError):
    """The saga's state does not allow the call; the text names the status found and needed."""


class NonRetryableError(SagaError):
    """Raise this in a step to fail it for good, whatever its retry policy allows."""


class BackendNotFoundError(SagaError, LookupError):
    """No installed backend has this URL scheme. The text lists those that are installed."""


class BackendConflictError(SagaError):
    """Two distributions claim one backend name, or a plugin is malformed. Uninstall or mend one."""


class MissingDriverError(SagaError, ImportError):
    """The backend's driver is not installed. The text holds the `pip install` line."""


class StoreUrlError(SagaError, ValueError):
    """A store URL or one of its options is wrong. The text names the part, never a password."""


class StoreUnavailableError(SagaError):
    """The store did not answer; what was being written may or may not have been applied.

    Send the same write again, with the same id: it settles the question (see `SagaStore`).
    """


class StaleVersionError(SagaError):
    """Somebody else committed or claimed the saga first: this write changed nothing."""


class SchemaError(SagaError):
    """The store's schema is missing, too old or too new. The text names the command to run."""
