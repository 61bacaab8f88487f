"""`SagaOrchestrator`: what application code calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from saga_core.beginning import check_on_conflict
from saga_core.checking import DefinitionReport, check_definitions
from saga_core.codec import PayloadLimits, decode_json, encode_json
from saga_core.decide import decide
from saga_core.definition import SagaDefinition
from saga_core.engine import SagaEngine
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaDefinitionError,
    SagaError,
    SagaStateError,
    StoreUnavailableError,
)
from saga_core.happening import Started
from saga_core.live import LiveSaga
from saga_core.mapping import first_input
from saga_core.names import (
    check_aggregation_id,
    check_saga_id,
    check_tags,
    check_trace_id,
    new_saga_id,
)
from saga_core.notifying import NotifyReason, NotifyResult, notify, notify_result, signal
from saga_core.observing import Observers
from saga_core.plugins import build_hooks
from saga_core.recalling import recall_with
from saga_core.records import Created, Lease, NewEntry, NewSaga, SagaRecord, SagaState
from saga_core.running import run_due
from saga_core.snapshot import SagaSnapshot
from saga_core.status import EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_core.timing import Moment, check_beginning, check_deadline
from saga_core.transactions import handle_of, lender_of
from saga_core.upcaster import Convert, Upcaster
from saga_core.waiting import wait_until_rest
from saga_core.writing import settle, to_the_end

__all__ = ["SagaOrchestrator"]

CREATE_TRIES = 3


class SagaOrchestrator:
    """Starts, notifies and drives the sagas of one store.

    One per process and store is enough; it is safe for any number of tasks of one event loop.
    """

    def __init__(
        self,
        *,
        store: SagaStore,
        execution_lease: timedelta = timedelta(seconds=30),
        limits: PayloadLimits | None = None,
        plugins: Sequence[object] = (),
    ) -> None:
        """`execution_lease` is how long a saga stays with a driver that died; it renews itself.

        `limits` bounds the size of payloads; `plugins` are objects with a `saga_observe` hook.
        Raises `SagaDefinitionError` for a lease that is not a positive timedelta or plugins that
        are not several, and `BackendConflictError` for a misspelt hook.
        """
        if not isinstance(store, SagaStore):
            raise SagaDefinitionError(
                f"store needs a SagaStore, got {type(store).__name__}: use "
                "`async with open_store(url) as store`"
            )
        if not isinstance(execution_lease, timedelta) or execution_lease <= timedelta(0):
            raise SagaDefinitionError(
                f"execution_lease must be a timedelta above zero, got {execution_lease!r}"
            )
        self.engine = SagaEngine(
            store,
            execution_lease=execution_lease,
            limits=limits or PayloadLimits(),
            observers=Observers(build_hooks(plugins)),
        )

        self.engine.children.recall = recall_with(self.engine)

    @property
    def store(self) -> SagaStore:
        """The store that holds the sagas."""
        return self.engine.store

    def register(
        self,
        name: str,
        definition: SagaDefinition,
        *,
        version: str = "1",
        max_crashes: int = 3,
        upcast: Mapping[str, Convert | Upcaster] | None = None,
        deadline: timedelta | None = None,
    ) -> None:
        """Make a saga known under a name, so that it can be started and driven here.

        Several versions may be registered side by side, each drives the sagas that were started
        with it; the one registered last starts new sagas. `upcast` has a function for each older
        version whose sagas in flight are to be moved to this one: it gets a `SagaInFlight` and
        returns it in the new form. An older version that is not registered here before needs an
        `Upcaster` with its fingerprints. After `max_crashes` deaths of a worker that was alone
        with a saga in one step, it is STUCK. `deadline` is what new sagas get that are started
        without one; see `start`. Raises `SagaDefinitionError`, also for a saga with a step in the
        store's own transaction if the store has none to lend.
        """
        if isinstance(definition, SagaDefinition) and definition.transacts:
            lender_of(self.store, f"saga '{name}' has a step with transaction=True")
        self.engine.registry.add(
            name,
            definition,
            version=version,
            max_crashes=max_crashes,
            upcast=upcast,
            deadline=deadline,
        )

    async def start(
        self,
        *,
        saga_name: str,
        initial_data: Any,
        aggregation_id: str | None = None,
        saga_id: UUID | None = None,
        trace_id: str | None = None,
        tags: Sequence[str] | None = None,
        version: str | None = None,
        start_at: datetime | None = None,
        delay: timedelta | None = None,
        deadline: timedelta | datetime | None = None,
        on_conflict: Literal["raise", "queue", "return"] = "raise",
        wait: bool = True,
        session: object | None = None,
    ) -> UUID:
        """Start a saga and drive it in this task until it ends or waits; return its id.

        With `wait=False` it is only written, and left to a worker. `saga_id` is the idempotency
        key: the same id with the same name and data returns the saga that is there already,
        with others raises `SagaStateError`. `version` is the one registered last unless given; a
        saga that is there already keeps its own. Never raises because a step failed; look at
        `get_snapshot`.

        With `start_at`, an aware datetime, or a `delay` above zero the saga is only written, and
        begun by a worker once the time has come. `deadline` is an aware datetime, or how long the
        saga may take from its beginning: when it passes, the step that runs is cancelled like by
        a timeout, waits end, and the rollback begins (without `compensate_on_failure` the saga
        is FAILED), with the `error_code` SagaDeadlineError. A rollback has no deadline. All these
        are times of the store's clock.

        `on_conflict` says what becomes of it if another active saga has this `aggregation_id`:
        "raise" `ActiveSagaAlreadyExistsError`; "return" that saga's id, and start nothing; or
        "queue": it is SUSPENDED, `waiting_for` "key", until all that were queued before it have
        ended. A worker begins it then. Its deadline, unless it has a time to begin at, counts from
        now; whoever comes to his turn before his time holds the aggregate until then.

        With `session=`, an SQLAlchemy `AsyncSession` or `AsyncConnection` of the store's database,
        the saga is written in the caller's transaction and begins once he commits; it is never
        driven here, whatever `wait` says. A refusal leaves his transaction usable.

        Raises `SagaDefinitionError` for a name or version that is not registered, or for times
        without a zone, negative or out of range, `PayloadError` for data that cannot be stored,
        `ActiveSagaAlreadyExistsError`, and `StoreUnavailableError` with `saga_id` set: the saga
        is then left to the workers.
        """
        registration = self.engine.registry.starting(saga_name, version)
        check_aggregation_id(aggregation_id)
        check_trace_id(trace_id)
        labels = check_tags(tags)
        check_on_conflict(on_conflict)
        beginning = check_beginning(start_at, delay)
        limit = check_deadline(registration.deadline if deadline is None else deadline)
        if saga_id is None:
            saga_id = new_saga_id()
        else:
            check_saga_id(saga_id)
        data = encode_json(initial_data, what="initial_data", limits=self.engine.limits)
        first = first_input(registration.definition, data, self.engine.limits)
        blank = SagaState(status=SagaStatus.RUNNING)
        later = None if beginning is None else beginning.due(limit)
        queued = on_conflict == "queue" and aggregation_id is not None
        last = None if limit is None else limit.due_after(beginning)
        started = Started(first, uuid4(), later, queued, last)
        begun = decide(registration.definition, blank, {}, started)
        mine = begun.drive and wait and session is None
        new = NewSaga(
            saga_id=saga_id,
            saga_name=registration.name,
            definition_version=registration.version,
            fingerprint=registration.definition.fingerprint,
            data=data,
            state=begun.state,
            aggregation_id=aggregation_id,
            trace_id=trace_id,
            tags=labels,
            lease=Lease(self.engine.worker, self.engine.execution_lease) if mine else None,
            due=None if mine else begun.due,
            history=(*_times(beginning, limit), *begun.history),
        )
        if session is not None:
            lender = lender_of(self.store, "start(session=...)")
            try:
                created = await lender.create_in(handle_of(session), new)
            except ActiveSagaAlreadyExistsError as taken:
                return _instead(taken, on_conflict)
            if not created.created:
                _check_same(new, created.record)
            return saga_id
        loop = asyncio.get_running_loop()
        since = loop.time()
        tries = 0

        async def create() -> Created:
            nonlocal tries
            tries += 1
            return await to_the_end(self.store.create(new))

        try:
            created = await settle(
                create,
                what=lambda: f"start of saga {saga_id}",
                outage=self.engine.outage,
                until=since + 10,
                tries=CREATE_TRIES,
            )
        except StoreUnavailableError as error:
            error.saga_id = saga_id
            raise
        except ActiveSagaAlreadyExistsError as taken:
            return _instead(taken, on_conflict)
        except asyncio.CancelledError:
            await self._abandon(new)
            raise
        record = created.record
        if not created.created:
            _check_same(new, record)
            # Our own saga, if it was the first answer that got lost.
            if tries == 1 or record.version != 1 or record.state.token != new.state.token:
                return saga_id
        if new.lease is not None:
            live = LiveSaga(record, registration, self.engine.limits)
            await self.engine.drive(live, since=since)
        return saga_id

    async def notify(
        self, *, saga_id: UUID, token: UUID, event: Any = None, wait: bool = True
    ) -> bool:
        """Hand an event to a saga that waits; True if it was taken. See `notify_detailed`."""
        reason, _ = await notify(self.engine, saga_id=saga_id, token=token, event=event, drive=wait)
        return reason is NotifyReason.ACCEPTED

    async def notify_detailed(
        self,
        *,
        saga_id: UUID,
        token: UUID,
        event: Any = None,
        event_id: str | None = None,
        event_type: str | None = None,
        correlation_id: str | None = None,
        wait: bool = True,
    ) -> NotifyResult:
        """Hand an event to a saga that waits, and say what became of it.

        Taken only while the saga is SUSPENDED and not paused, or its rollback waits for an event,
        and `token` is its current `step_execution_token`, which the event replaces. A step that
        awaits a typed event gets it as `ctx.event`: a model, or a mapping that fits one. Any
        other step is entered again, with the event as `latest_event` for its input map. The saga
        is driven on in this task, or with `wait=False` left to a worker. Not accepted means that
        nothing was stored; `reason` says why. A known `event_id` is a duplicate. Raises
        `SagaNotFoundError`, `PayloadError` for an event that cannot be stored, `SagaStateError` for
        a `saga_id` or `token` that is no UUID, and `SagaDefinitionError`.
        """
        reason, event_id = await notify(
            self.engine,
            saga_id=saga_id,
            token=token,
            event=event,
            event_id=event_id,
            event_type=event_type,
            correlation_id=correlation_id,
            drive=wait,
        )
        return await notify_result(self.engine, saga_id, reason, event_id)

    async def signal(
        self,
        *,
        event: Any,
        saga_id: UUID | None = None,
        aggregation_id: str | None = None,
        event_id: str | None = None,
        event_type: str | None = None,
        correlation_id: str | None = None,
    ) -> NotifyResult:
        """Send an event to a saga, whether it waits for it already or not.

        To the saga with this `saga_id`, or to the active one of this `aggregation_id`. `event` is
        an instance of a pydantic model, or a mapping with the model's name as `event_type`. The
        saga keeps it, in order and once per `event_id`, until a step awaits an event of its type
        (and `correlation_id`); what waits for it already is due at once, and a worker or
        `run_due` drives it. Needs no token. Raises `SagaNotFoundError` for an unknown saga or an
        aggregate without an active one, `SagaStateError` for a saga that has ended or keeps
        10,000 events, `TypeValidationError` for an event without a type, and `PayloadError`, also
        for one that is no valid instance of a model that the saga's steps, registered here, await.
        """
        return await signal(
            self.engine,
            saga_id=saga_id,
            aggregation_id=aggregation_id,
            event=event,
            event_type=event_type,
            event_id=event_id,
            correlation_id=correlation_id,
        )

    async def run_due(self, limit: int = 100) -> int:
        """Claim sagas that are due and drive each until it ends or waits; return how many.

        Oldest first, rollbacks never behind a backlog of forward work, a few at a time and all
        with their leases renewed. One saga's trouble does not touch the others.
        """
        return await run_due(self.engine, limit=limit)

    async def get_snapshot(self, saga_id: UUID) -> SagaSnapshot:
        """Return the saga as it stands. Raises `SagaNotFoundError`."""
        check_saga_id(saga_id)
        return SagaSnapshot.of(await self.store.load(saga_id))

    async def wait(self, saga_id: UUID, timeout: float | None = None) -> SagaSnapshot:  # noqa: ASYNC109
        """Wait until the saga has ended or is STUCK, whoever drives it; return how it stands.

        `timeout` is in seconds (or None for ever); `TimeoutError` after it, and the saga goes on.
        Raises `SagaNotFoundError`, and `SagaDefinitionError` for a timeout of zero or less. Hears
        of drivers in this process at once, and looks at the store ever more slowly, at least twice
        a second, for those elsewhere.
        """
        return await wait_until_rest(self.engine, saga_id, timeout)

    async def check_definitions(self, store: SagaStore | None = None) -> DefinitionReport:
        """Return which definitions the active sagas in the store need, and whether all are here.

        For a deploy: register what the new code registers, ask, and stop unless `report.ok`. Sagas
        whose definition is not registered or has changed, or which an upcaster refuses, would wait
        until somebody registers what they need. `store` is another one than the orchestrator's
        own. Reads every active saga once, one page in memory at a time, and tries the upcasters on
        what they are for; changes nothing. What is started meanwhile may be missed.
        """
        engine = self.engine
        store = self.store if store is None else store
        return await check_definitions(store, engine.registry, engine.limits)

    async def _abandon(self, new: NewSaga) -> None:
        """Give back a saga whose starter was cancelled while it was being written."""
        if new.lease is None:
            return
        try:
            await self.engine.release_new(new.saga_id)
        except SagaError:
            return  # its lease ends by itself


def _instead(taken: ActiveSagaAlreadyExistsError, on_conflict: str) -> UUID:
    """Return the saga that is active already, or raise."""
    if on_conflict == "return" and taken.saga_id is not None:
        return taken.saga_id
    raise taken


def _times(beginning: Moment | None, limit: Moment | None) -> tuple[NewEntry, ...]:
    begins = () if beginning is None else (beginning.entry(EntryKind.SCHEDULED),)
    return begins if limit is None else (*begins, limit.entry(EntryKind.DEADLINE))


def _check_same(new: NewSaga, record: SagaRecord) -> None:
    if record.saga_name != new.saga_name:
        raise SagaStateError(
            f"saga {new.saga_id} exists already as a '{record.saga_name}', so it cannot be "
            f"started as a '{new.saga_name}': use another saga_id",
            saga_id=new.saga_id,
        )
    same = record.data == new.data or decode_json(record.data, what="initial_data") == decode_json(
        new.data, what="initial_data"
    )
    if not same or record.aggregation_id != new.aggregation_id:
        raise SagaStateError(
            f"saga {new.saga_id} exists already with other initial_data or another "
            "aggregation_id: a repeated start must be the same, a new saga needs another saga_id",
            saga_id=new.saga_id,
        )
