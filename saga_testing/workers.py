"""Workers of a rehearsed saga, which can be lost as a process is lost: nothing is given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn
from uuid import UUID

from saga_core.admin import SagaAdmin
from saga_core.awaiting import Sleep
from saga_core.codec import PayloadLimits
from saga_core.definition import SagaDefinition
from saga_core.errors import SagaDefinitionError
from saga_core.orchestrator import SagaOrchestrator
from saga_core.records import Committed, Held, NewEntry, Transition
from saga_core.status import Direction, EntryKind
from saga_testing.faults import FaultPlan, WorkerLostError
from saga_testing.ledger import Ledger
from saga_testing.memory import MemoryStore
from saga_testing.places import Action, Moment, Place
from saga_testing.rehearsal import rehearsed

__all__ = ["KnownSaga", "RehearsalWorker"]

_ACTIONS = {
    EntryKind.COMPLETED: Action.EXECUTE,
    EntryKind.RETRYING: Action.EXECUTE,
    EntryKind.FAILED: Action.EXECUTE,
    EntryKind.HOOK_DONE: Action.EXECUTE,
    EntryKind.COMPENSATED: Action.COMPENSATE,
    EntryKind.COMPENSATION_RETRYING: Action.COMPENSATE,
    EntryKind.COMPENSATION_FAILED: Action.COMPENSATE,
    EntryKind.PROBED: Action.PROBE,
}


@dataclass(frozen=True)
class KnownSaga:
    """What was registered, for the workers that come later."""

    name: str
    definition: SagaDefinition
    options: Mapping[str, Any]


class RehearsalWorker:
    """One process, as far as its sagas can tell: an orchestrator on a store handle of its own."""

    def __init__(
        self,
        store: MemoryStore,
        plan: FaultPlan,
        ledger: Ledger,
        known: dict[tuple[str, str], KnownSaga],
        *,
        lease: timedelta,
        limits: PayloadLimits | None,
        plugins: Sequence[object],
    ) -> None:
        """`known` is shared by all workers of an environment; what is registered here is added."""
        self.lost = False
        self._plan = plan
        self._ledger = ledger
        self._known = known
        handle = _MortalStore(store.namespace, clock=store.clock, data=store.data)
        handle.worker = self
        self.orchestrator = _RehearsedOrchestrator(
            self, store=handle, execution_lease=lease, limits=limits, plugins=plugins
        )
        self.admin = SagaAdmin(engine=self.orchestrator.engine)
        for saga in list(known.values()):
            self.orchestrator.register(saga.name, saga.definition, **saga.options)

    def watch(self, name: str, definition: SagaDefinition, options: dict[str, Any]) -> Any:
        """Note a registration, and return the definition that is driven here."""
        self._known[name, options.get("version", "1")] = KnownSaga(name, definition, options)
        return rehearsed(definition, self.visit, self._ledger)

    def visit(self, place: Place) -> Sleep | None:
        """Come to a place: raise what is planned there, or die, or be held back."""
        self.check_alive()
        held = self._plan.hold(place)
        if held is not None:
            return held
        error = self._plan.visit(place)
        if isinstance(error, WorkerLostError):
            self.lost = True
            raise error
        if error is not None:
            raise error
        return None

    def done(self, step_id: str) -> None:
        """Note that a step is on record as done."""
        self._plan.done.add(step_id)

    def check_alive(self) -> None:
        if self.lost:
            self._mourn()

    def _mourn(self) -> NoReturn:
        raise WorkerLostError("this worker is lost: nothing that it does is on record any more")


class _RehearsedOrchestrator(SagaOrchestrator):
    def __init__(self, worker: RehearsalWorker, **options: Any) -> None:
        super().__init__(**options)
        self._worker = worker

    def register(self, name: str, definition: SagaDefinition, **options: Any) -> None:
        """Make a saga known here and to the workers to come; see `SagaOrchestrator.register`.

        Raises `SagaDefinitionError` also for a step in a transaction: here nobody lends one.
        """
        watched = definition
        if isinstance(definition, SagaDefinition):
            _refuse_transactions(definition)
            watched = self._worker.watch(name, definition, options)
        super().register(name, watched, **options)


def _refuse_transactions(definition: SagaDefinition) -> None:
    steps = [spec.step_id for spec in (*definition.steps, *definition.hooks) if spec.transaction]
    if steps:
        names = ", ".join(f"'{step_id}'" for step_id in steps)
        raise SagaDefinitionError(
            f"step {names} has transaction=True, and sagas are rehearsed in memory, where there is "
            "no database to lend a transaction of: test such a saga against SqlSagaStore on an "
            "SQLite file, as docs/testing-your-sagas.md shows"
        )


class _MortalStore(MemoryStore):
    """The store as one worker sees it: silent to the dead."""

    worker: RehearsalWorker

    async def commit(self, transition: Transition) -> Committed:
        self.worker.check_alive()
        committed = await super().commit(transition)
        for entry in transition.history:
            if entry.kind is EntryKind.COMPLETED and entry.step_id is not None:
                self.worker.done(entry.step_id)
            action = _action(entry, transition)
            if action is not None and entry.step_id is not None:
                self.worker.visit(Place(Moment.RECORDED, action, entry.step_id))
        return committed

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int]:
        self.worker.check_alive()
        return await super().renew(worker, held, lease)

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        self.worker.check_alive()
        await super().release(worker, held, delay=delay)


def _action(entry: NewEntry, transition: Transition) -> Action | None:
    if entry.kind is EntryKind.WAITING:
        forward = transition.state.direction is Direction.FORWARD
        return Action.EXECUTE if forward else Action.COMPENSATE
    return _ACTIONS.get(entry.kind)
