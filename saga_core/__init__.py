"""Sagas that always end: typed steps, real compensation, durable recovery.

    async with open_store("sqlite:///orders.db") as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("create_order_v1", build_order_saga())
        saga_id = await orchestrator.start(
            saga_name="create_order_v1", initial_data={"order_id": "order-123"}
        )

What is listed here is for users. Who writes a backend needs the modules `saga_core.hookspecs`,
`saga_core.store`, `saga_core.records`, `saga_core.status` and `saga_core.errors`.
"""

from saga_core.admin import SagaAdmin
from saga_core.awaiting import AwaitEvent, Sleep
from saga_core.builder import SagaBuilder
from saga_core.bulk import BulkItem, BulkOutcome, BulkReport
from saga_core.checking import CheckedDefinition, DefinitionReport
from saga_core.child import ChildResult, ChildStart
from saga_core.codec import PayloadLimits
from saga_core.copying import CopyConflictError, CopyProgress, CopyReport, copy_sagas
from saga_core.definition import HookContext, InputContext, SagaDefinition, StepRef
from saga_core.engine import SagaEngine
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    BackendConflictError,
    BackendNotFoundError,
    MissingDriverError,
    NonRetryableError,
    PayloadError,
    QueryError,
    SagaDefinitionError,
    SagaError,
    SagaNotFoundError,
    SagaStateError,
    SchemaError,
    StaleVersionError,
    StoreUnavailableError,
    StoreUrlError,
    TypeValidationError,
)
from saga_core.finding import SagaPage
from saga_core.hookspecs import Capability, ObservedEvent, hookimpl
from saga_core.notifying import NotifyReason, NotifyResult
from saga_core.orchestrator import SagaOrchestrator
from saga_core.plugins import BackendInfo, available_backends, open_store
from saga_core.publishing import Message, Published, Publisher, PublishStep
from saga_core.records import Query
from saga_core.retry import ExponentialRetry, FixedRetry, NoRetry, RetryPolicy
from saga_core.snapshot import BranchSnapshot, HistoryItem, SagaAdminSnapshot, SagaSnapshot
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.step import BaseStep, StepContext
from saga_core.store import SagaStore
from saga_core.upcaster import DoneStep, SagaInFlight, Upcaster
from saga_core.worker import SagaWorker

__all__ = [
    "ActiveSagaAlreadyExistsError",
    "AwaitEvent",
    "BackendConflictError",
    "BackendInfo",
    "BackendNotFoundError",
    "BaseStep",
    "BulkItem",
    "BulkOutcome",
    "BulkReport",
    "BranchSnapshot",
    "Capability",
    "ChildResult",
    "ChildStart",
    "CheckedDefinition",
    "CopyConflictError",
    "CopyProgress",
    "CopyReport",
    "DefinitionReport",
    "Direction",
    "DoneStep",
    "EntryKind",
    "ExponentialRetry",
    "FixedRetry",
    "HistoryItem",
    "HookContext",
    "InputContext",
    "Message",
    "MissingDriverError",
    "NoRetry",
    "NonRetryableError",
    "NotifyReason",
    "NotifyResult",
    "ObservedEvent",
    "PayloadError",
    "PayloadLimits",
    "PublishStep",
    "Published",
    "Publisher",
    "Query",
    "QueryError",
    "RetryPolicy",
    "SagaAdmin",
    "SagaAdminSnapshot",
    "SagaBuilder",
    "SagaDefinition",
    "SagaDefinitionError",
    "SagaEngine",
    "SagaError",
    "SagaInFlight",
    "SagaNotFoundError",
    "SagaOrchestrator",
    "SagaPage",
    "SagaSnapshot",
    "SagaStateError",
    "SagaStatus",
    "SagaStore",
    "SagaWorker",
    "SchemaError",
    "Sleep",
    "StaleVersionError",
    "StepContext",
    "StepRef",
    "StoreUnavailableError",
    "StoreUrlError",
    "TypeValidationError",
    "Upcaster",
    "available_backends",
    "copy_sagas",
    "hookimpl",
    "open_store",
]
