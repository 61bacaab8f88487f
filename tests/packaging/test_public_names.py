"""The names that users type are promises."""

from __future__ import annotations

import saga_core

PROMISED = """
    BaseStep StepContext InputContext
    SagaBuilder SagaDefinition StepRef
    RetryPolicy NoRetry FixedRetry ExponentialRetry
    SagaOrchestrator SagaEngine SagaAdmin SagaWorker
    SagaStatus SagaSnapshot SagaAdminSnapshot
    SagaPage QueryError DefinitionReport CheckedDefinition
    SagaStore open_store available_backends
    copy_sagas CopyReport CopyConflictError CopyProgress
    SagaError SagaDefinitionError TypeValidationError SagaNotFoundError
    ActiveSagaAlreadyExistsError SagaStateError NonRetryableError PayloadError PayloadLimits
    BackendNotFoundError BackendConflictError MissingDriverError StoreUrlError
    StoreUnavailableError StaleVersionError SchemaError
"""


def test_every_promised_name_is_exported() -> None:
    assert set(PROMISED.split()) <= set(saga_core.__all__)


def test_every_exported_name_is_there_and_no_error_of_ours_is_left_out() -> None:
    from saga_core import errors

    assert [name for name in saga_core.__all__ if not hasattr(saga_core, name)] == []
    assert set(errors.__all__) <= set(saga_core.__all__)
