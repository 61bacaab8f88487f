"""`saga_env`: run sagas in a test, to their end, with all their waits and no waiting."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from saga_core.admin import SagaAdmin
from saga_core.awaiting import event_name
from saga_core.codec import PayloadLimits
from saga_core.definition import SagaDefinition
from saga_core.errors import SagaDefinitionError, SagaStateError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.snapshot import SagaAdminSnapshot
from saga_core.status import SagaStatus
from saga_testing.arguments import check_duration, check_environment
from saga_testing.clock import ManualClock
from saga_testing.faults import (
    FaultPlan,
    InjectedError,
    PlannedFault,
    WorkerLostError,
    exception_of,
)
from saga_testing.ledger import Ledger, StepCallMade, World
from saga_testing.memory import MemoryStore
from saga_testing.places import Moment, Place, place_of, steps_of
from saga_testing.script import Script, ScriptPart, awaited
from saga_testing.workers import KnownSaga, RehearsalWorker

__all__ = ["SagaEnv", "saga_env"]


class SagaEnv:
    """Sagas in memory, under a clock that moves only when all of them wait.

    Everything runs in the caller's task and in one order, so a test that passes once passes
    always. Only what a step itself awaits takes real time. Made by `saga_env`.
    """

    def __init__(
        self,
        *,
        start: datetime,
        lease: timedelta,
        limits: PayloadLimits | None,
        plugins: Sequence[object],
        world: World | None,
        most_turns: int,
    ) -> None:
        self._most_turns = most_turns
        self.clock = ManualClock(start)
        self.store = MemoryStore(clock=self.clock)
        """What is on record, whichever worker is alive."""
        self._plan = FaultPlan()
        self._ledger = Ledger(world)
        self._known: dict[tuple[str, str], KnownSaga] = {}
        self._options: dict[str, Any] = {"lease": lease, "limits": limits, "plugins": plugins}
        self._worker = self._new_worker()
        self._latest: UUID | None = None
        self.workers_lost = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Raise `AssertionError` if something that was planned to go wrong never did."""
        if error is None and self.unreached:
            raise AssertionError(
                f"{', '.join(self.unreached)}: no saga came there, so this test has not tested it. "
                "The calls were: "
                f"{'; '.join(map(str, self.calls)) or 'none'}"
            )

    @property
    def orchestrator(self) -> SagaOrchestrator:
        """The orchestrator of the worker that is alive."""
        return self._living().orchestrator

    @property
    def admin(self) -> SagaAdmin:
        """The admin of the worker that is alive."""
        return self._living().admin

    @property
    def calls(self) -> tuple[StepCallMade, ...]:
        """The calls of the steps' methods so far, in order."""
        return tuple(self._ledger.calls)

    @property
    def planned(self) -> tuple[str, ...]:
        """The calls of `crash_at` and `fail_at`."""
        return tuple(fault.call for fault in self._plan.faults)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Those of them that have had no effect so far."""
        return tuple(fault.call for fault in self._plan.unreached)

    @property
    def visits(self) -> Counter[Place]:
        """How often sagas have come to each place so far."""
        return self._plan.visits.copy()

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def definitions(self) -> tuple[SagaDefinition, ...]:
        """What is registered."""
        return tuple(saga.definition for saga in self._known.values())

    # --- what goes wrong ------------------------------------------------------------------------

    def crash_at(self, place: str, *, nth: int = 1) -> None:
        """Lose the worker at a place: `[before:|after:|recorded:][compensate:|probe:]step`.

        Before the method's code, after it has returned and before that is on record, or once it
        is on record. The worker gives nothing back: the lease runs out by the clock and another
        worker takes the saga over. `nth` is the visit of the place at which it happens, counted
        from this call. Raises `SagaDefinitionError`, which lists the steps, for what is no place.
        """
        dead = WorkerLostError(f"the worker was lost at {place}, as crash_at asked")
        self._add(place, dead, "", nth, 1, tuple(Moment))

    def fail_at(
        self,
        place: str,
        *,
        error: Exception | type[Exception] = InjectedError,
        times: int | None = None,
        nth: int = 1,
        when_done: str | Sequence[str] = (),
    ) -> None:
        """Raise `error` at a place: `[before:|after:][compensate:|probe:]step`.

        In place of the method's code, or after the code has returned. `times` is for how many
        visits in a row, None for all: then the step's retry policy is used up. A
        `NonRetryableError` is not retried. `when_done` names steps of a parallel saga that are to
        be done first: the failing one sleeps before its code until they are. Raises
        `SagaDefinitionError` as `crash_at` does.
        """
        raised = exception_of(error, place)
        shown = error.__name__ if isinstance(error, type) else repr(error)
        shown = "" if error is InjectedError else shown
        first = (when_done,) if isinstance(when_done, str) else when_done
        self._add(place, raised, shown, nth, times, (Moment.BEFORE, Moment.AFTER), first)

    def forget(self) -> None:
        """Let nothing more go wrong: drop what was planned, whether it has happened or not."""
        self._plan.faults.clear()

    def _add(
        self,
        place: str,
        error: BaseException,
        shown: str,
        nth: int,
        times: int | None,
        moments: tuple[Moment, ...],
        when_done: Sequence[str] = (),
    ) -> None:
        for name, number in (("nth", nth), ("times", times)):
            if number is not None and (type(number) is not int or number < 1):
                raise SagaDefinitionError(
                    f"{name} must be a whole number of at least 1, got {number!r}"
                )
        where = place_of(place, self.definitions, moments=moments)
        first = steps_of(when_done, where, self.definitions)
        self._plan.add(PlannedFault(where, error, shown, nth, times, first))

    # --- running --------------------------------------------------------------------------------

    def register(self, name: str, definition: SagaDefinition, **options: Any) -> None:
        """Make a saga known, to the workers to come too; see `SagaOrchestrator.register`."""
        self.orchestrator.register(name, definition, **options)

    async def run(
        self,
        saga: str | SagaDefinition,
        initial_data: Any = None,
        *,
        events: Sequence[ScriptPart] = (),
        **options: Any,
    ) -> SagaAdminSnapshot:
        """Start a saga and let time pass until it has ended, is STUCK, or waits for good.

        `saga` is a registered name, or a definition. `events` are sent when it comes to wait for
        them: model instances, each once, the first that fits; a wait for which there is none ends
        by its timeout. A function among them, `async def (env)`, is called while the saga rests,
        again until it returns something else than False. `options` are those of
        `SagaOrchestrator.start`. In the snapshot of a saga that waits for an event which nobody
        sends `waiting_for` says which; `send` it.
        """
        await self.start(saga, initial_data, drive=False, **options)
        return await self.finish(events=events)

    async def start(
        self,
        saga: str | SagaDefinition,
        initial_data: Any = None,
        *,
        drive: bool = True,
        **options: Any,
    ) -> UUID:
        """Start a saga and drive it until it has to wait; the clock stands still."""
        if "wait" in options:
            raise SagaDefinitionError("wait: an environment's sagas are always left to its workers")
        name = saga if isinstance(saga, str) else self._name_of(saga)
        for fault in self._plan.unreached:
            place_of(str(fault.place), self.definitions)
        self._latest = await self.orchestrator.start(
            saga_name=name, initial_data=initial_data, wait=False, **options
        )
        if drive:
            await self._drive_due()
        return self._latest

    async def send(
        self, event: Any, saga_id: UUID | None = None, **options: Any
    ) -> SagaAdminSnapshot:
        """Send an event to a saga, by default the one started last, and let it go on as `run` does.

        `options` are those of `SagaOrchestrator.signal`; without a `correlation_id` the one that
        the saga waits for.
        """
        await self.post(event, saga_id, **options)
        return await self.finish(saga_id)

    async def post(self, event: Any, saga_id: UUID | None = None, **options: Any) -> None:
        """Send an event as `send` does, and let nobody drive the saga yet."""
        target = self._which(saga_id)
        if "correlation_id" not in options:
            wants = awaited(await self.store.load(target))
            mine = [wait for wait in wants if event_name(type(event)) in wait.events] or wants
            options["correlation_id"] = mine[0].correlation_id if mine else None
        await self.orchestrator.signal(saga_id=target, event=event, **options)

    async def advance(self, by: timedelta) -> None:
        """Let so much time pass, and drive what falls due meanwhile at the time it does."""
        check_duration(by)
        until = self.clock.now() + by
        await self._drive_due()
        for _ in range(self._most_turns):
            due = self._next_due()
            if due is None or due > until:
                self.clock.advance(max(until - self.clock.now(), timedelta(0)))
                return
            self.clock.advance(due - self.clock.now())
            await self._drive_due()
        raise SagaStateError(f"sagas still fall due after {self._most_turns} turns within {by}")

    async def finish(
        self, saga_id: UUID | None = None, *, events: Sequence[ScriptPart] = ()
    ) -> SagaAdminSnapshot:
        """Let time pass until a saga, by default the one started last, is as `run` leaves it.

        Raises `SagaStateError` for one that comes to no rest.
        """
        watched = self._which(saga_id)
        script = Script(events)
        for _ in range(self._most_turns):
            await self._drive_due()
            record = await self.store.load(watched)
            if record.state.status.is_terminal or record.state.status is SagaStatus.STUCK:
                return await self.snapshot(watched)
            event = script.take(record)
            if event is not None:
                await self.post(event, watched)
                continue
            if await script.play(self):
                continue
            due = self._next_due()
            if due is None:
                return await self.snapshot(watched)
            self.clock.advance(due - self.clock.now())
        raise SagaStateError(
            f"it came to no rest within {self._most_turns} turns: {await self.explain(watched)}",
            saga_id=watched,
        )

    async def snapshot(self, saga_id: UUID | None = None) -> SagaAdminSnapshot:
        """Return a saga, by default the one started last, as it stands."""
        return await self.admin.get_saga(self._which(saga_id))

    async def explain(self, saga_id: UUID | None = None) -> str:
        """Say why a saga, by default the one started last, is where it is."""
        return await self.admin.explain(self._which(saga_id))

    # --- behind it ------------------------------------------------------------------------------

    def _new_worker(self) -> RehearsalWorker:
        return RehearsalWorker(self.store, self._plan, self._ledger, self._known, **self._options)

    def _living(self) -> RehearsalWorker:
        if self._worker.lost:
            self.workers_lost += 1
            self._worker = self._new_worker()
        return self._worker

    async def _drive_due(self) -> None:
        """Drive what is due now, one saga after the other; the clock stands still."""
        for _ in range(self._most_turns):
            worker = self._living()
            try:
                if not await worker.orchestrator.run_due(limit=1):
                    return
            except (WorkerLostError, BaseExceptionGroup):
                if not worker.lost:
                    raise
            if self.ledger.blind is not None:
                if isinstance(self.ledger.blind, SagaDefinitionError):
                    raise self.ledger.blind
                raise SagaStateError("world= has raised an error") from self.ledger.blind
        raise SagaStateError(
            f"sagas are still due at {self.clock.now()} after {self._most_turns} turns"
        )

    def _next_due(self) -> datetime | None:
        now = self.clock.now()
        times = [row.record.due_at for row in self.store.data.rows.values()]
        return min((due for due in times if due is not None and due > now), default=None)

    def _which(self, saga_id: UUID | None) -> UUID:
        found = saga_id or self._latest
        if found is None:
            raise SagaStateError("no saga was started in this environment yet")
        return found

    def _name_of(self, definition: SagaDefinition) -> str:
        for saga in self._known.values():
            if saga.definition is definition:
                return saga.name
        name = f"saga-{len(self._known) + 1}"
        self.register(name, definition)
        return name


def saga_env(
    *,
    start: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    lease: timedelta = timedelta(seconds=30),
    limits: PayloadLimits | None = None,
    plugins: Sequence[object] = (),
    world: World | None = None,
    most_turns: int = 1000,
) -> SagaEnv:
    """Return an environment for sagas, to be used by `async with`.

        async with saga_env() as env:
            env.crash_at("after:charge")
            snapshot = await env.run(build_order_saga(), {"order_id": "order-1"})
            assert snapshot.status is SagaStatus.COMPLETED

    `start` is what its clock shows first, `lease` how long a lost worker's saga is waited for.
    `world` is a function that returns what can be seen of the outside world: then each of
    `env.calls` says whether it has changed something. A saga that is still on its way after
    `most_turns` waits is taken to have no end, which is a `SagaStateError`. Leaving the block
    without an error raises `AssertionError` if something that was to go wrong has not. Raises
    `SagaDefinitionError` for arguments that make no sense.
    """
    check_environment(start, limits, world, most_turns)
    return SagaEnv(
        start=start,
        lease=lease,
        limits=limits,
        plugins=plugins,
        world=world,
        most_turns=most_turns,
    )
