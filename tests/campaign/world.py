"""Play one planned saga on a store, with workers that die, calls that get lost, and people."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from saga_core import SagaStatus
from saga_core.records import NewEntry, NewSaga, SagaState, Transition
from saga_core.status import EntryKind
from saga_core.store import SagaStore
from saga_testing.conformance import Business, StoreHarness
from tests.campaign.cast import (
    EDITED,
    EVENTS,
    FIRST,
    SKIPPED,
    Book,
    Receipt,
    Script,
    Slip,
    definition,
)
from tests.campaign.crowd import WORKERS, Crowd
from tests.campaign.ledger import Aged, Call, Endless, Ledger
from tests.campaign.plan import Deal, Move, SagaPlan, WaitPlan
from tests.campaign.stage import Cue, Process, Stage

__all__ = ["AGE", "World", "play"]

AGE = timedelta(hours=2)
"""What passes at once: more than any lease or delay."""

FITTING = 4
"""The pick with which an event is sent that fits what the saga waits for."""

LONGEST = 600
"""Cues after which a saga that is left in peace must have come to rest."""

RESTING = (
    SagaStatus.STUCK,
    SagaStatus.COMPLETED,
    SagaStatus.COMPENSATED,
    SagaStatus.FAILED,
)

MENDING = {
    SagaStatus.SUSPENDED: (
        *(Deal.NOTIFY, Deal.SIGNAL, Deal.RETRY, Deal.SKIP),
        *(Deal.CANCEL, Deal.PAUSE, Deal.RESUME, Deal.EDIT, Deal.BACK),
    ),
    SagaStatus.COMPENSATING: (
        *(Deal.NOTIFY, Deal.SIGNAL, Deal.SKIP_UNDO),
        *(Deal.CANCEL, Deal.PAUSE, Deal.RESUME),
    ),
}
"""What a person may do about a saga that waits."""

_NAMING = (Deal.RETRY, Deal.SKIP, Deal.EDIT, Deal.SKIP_UNDO)
"""What in a parallel saga may be asked for one step."""

Age = Callable[[UUID, timedelta], Awaitable[None]]


class World(Crowd):
    """One saga, the processes that drive it, and a person at a console."""

    def __init__(
        self, plan: SagaPlan, store: SagaStore, age: Age, business: Business | None = None
    ) -> None:
        self.plan = plan
        self.saga_id = uuid4()
        self.kind = f"saga-{self.saga_id}"
        self._age = age
        stage = Stage()
        made = definition(plan, Script(plan, stage, self._book(business)))
        super().__init__(stage, store, {self.kind: made})
        self._plans: list[Move] = []
        """What the person has in mind."""
        self._sent: list[str] = []
        """The ids of the events that were sent."""
        self._called = False
        """Whether the person has done what the saga waits for since somebody looked."""
        self._branches: dict[str, str] = {}
        """The token of each step of a parallel saga that is begun."""
        self._read = 0
        self._version = 0
        self._state: SagaState | None = None
        """What was written last; None as long as the saga was not."""

    def _book(self, business: Business | None) -> Book | None:
        if business is None:
            return None
        owner = business

        async def write(transaction: Any, row: str) -> None:
            await owner.write(transaction, f"{self.saga_id} {row}")

        return write

    async def play(self) -> Ledger:
        """Make all moves, let the saga come to rest, and return what happened."""
        self._start(self._workers[0])
        for move in self.plan.moves:
            await self._stage.quiet()
            await self._make(move)
        await self._come_to_rest()
        return await self._report()

    # --- moves ----------------------------------------------------------------------------------

    async def _make(self, move: Move) -> None:
        pick = move.pick
        match move.deal:
            case Deal.GO:
                await self._go_on(pick)
            case Deal.LOSE_BEFORE | Deal.LOSE_AFTER:
                self._cue(self._picked(pick), Cue(move.deal.value))
            case Deal.CRASH | Deal.CRASH_APPLIED:
                self._crash(self._picked(pick), applied=move.deal is Deal.CRASH_APPLIED)
            case Deal.TIME:
                await self._pass_time()
            case Deal.LOOK:
                self._look(self._workers[pick % WORKERS])
            case Deal.OVERTAKE:
                await self._pass_time()
                self._look(self._idle_worker(pick))
            case Deal.RENEW:
                self._renew(pick)
            case Deal.FORSAKE:
                running = list(self._running())
                if running:
                    running[pick % len(running)].cancel()
            case Deal.START:
                self._start(self._idle_worker(pick))
            case _ if pick % 2:
                self._plans.append(move)  # for when the saga waits or rests
            case _:
                self._command(move.deal, pick)

    async def _go_on(self, pick: int) -> None:
        point = self._picked(pick)
        if point is not None:
            self._cue(point, Cue.GO)
        elif self._current() is None:
            self._start(self._idle_worker(pick))
        elif planned := self._next_plan():
            self._command(planned.deal, planned.pick)
        elif self._is_paused and not self._called:
            self._called = True
            self._command(Deal.RESUME, pick)
        elif self._calls_for_an_event(pick):
            self._called = True
            self._command(Deal.SIGNAL, FITTING)
        elif self._current() not in RESTING:
            self._called = False
            await self._pass_time()
            self._look(self._idle_worker(pick))

    def _calls_for_an_event(self, pick: int) -> bool:
        """Tell whether an event is sent to a saga that waits for one, instead of letting it be."""
        state = self._state
        waits = state is not None and (state.waiting_for or "").startswith("event:")
        if not waits or self._called:
            return False
        return bool(pick % 2) or self._wait.timeout is None

    @property
    def _is_paused(self) -> bool:
        return self._state is not None and self._state.waiting_for == "resume"

    @property
    def _wait(self) -> WaitPlan:
        """What the current step waits for, when it does."""
        step_id = None if self._state is None else self._state.step_id
        at_step = step_id is not None and step_id.startswith("step_")
        return self.plan.steps[
            int(step_id.removeprefix("step_")) if step_id and at_step else 0
        ].wait

    def _next_plan(self) -> Move | None:
        """Return what the person does about the saga as it stands, if anything."""
        status = self._current()
        for number, move in enumerate(self._plans):
            if status in RESTING or (status and move.deal in MENDING.get(status, ())):
                return self._plans.pop(number)
        return None

    async def _pass_time(self) -> None:
        if self._current() is not None:
            await self._age(self.saga_id, AGE)
            self._stage.tell(Aged(AGE))

    def _current(self) -> SagaStatus | None:
        """Return where the saga stands by the last write that the store accepted."""
        for happening in self._stage.happenings[self._read :]:
            if not isinstance(happening, Call) or happening.error is not None:
                continue
            request, answer = happening.request, happening.answer
            if isinstance(request, NewSaga) and answer.created:
                self._state, self._version = request.state, 1
            elif isinstance(request, Transition) and answer.version > self._version:
                self._state, self._version = request.state, answer.version
                self._follow(request.history)
        self._read = len(self._stage.happenings)
        return None if self._state is None else self._state.status

    def _follow(self, history: tuple[NewEntry, ...]) -> None:
        for entry in history:
            fact = json.loads(entry.output or "{}") if entry.kind is EntryKind.BRANCH else {}
            if "token" in fact:
                self._branches[entry.step_id or ""] = fact["token"]
            elif entry.kind.is_step_output or entry.kind is EntryKind.BRANCH:
                self._branches.pop(entry.step_id or "", None)

    # --- what they do ---------------------------------------------------------------------------

    def _start(self, process: Process) -> None:
        process = self._living(process)

        def start(_: int) -> Coroutine[Any, Any, Any]:
            return process.orchestrator.start(
                saga_name=self.kind,
                initial_data={"n": FIRST},
                saga_id=self.saga_id,
                aggregation_id=f"aggregate {self.saga_id}",
                delay=self.plan.begins or None,
                deadline=self.plan.deadline,
                wait=self.plan.driven,
            )

        self._ask(process, "start", start)

    def _look(self, process: Process) -> None:
        process = self._living(process)
        self._ask(process, "run_due", lambda _: process.orchestrator.run_due())

    def _renew(self, pick: int) -> None:
        holders = [each for each in (*self._workers, self._person) if each.holds and not each.dead]
        if holders:
            holder = holders[pick % len(holders)]
            self._ask(holder, "renew", lambda _: holder.renew())

    def _command(self, deal: Deal, pick: int) -> None:
        if self._current() is None:
            return
        self._person = person = self._living(self._person)
        state = self._state
        assert state is not None
        if deal is Deal.SIGNAL:
            self._signal(person, pick)
            return
        if deal is Deal.NOTIFY:
            token = uuid4() if pick == 7 or state.token is None else state.token
            if self._branches and pick % 4 > 1:
                token = UUID([*self._branches.values()][pick // 2 % len(self._branches)])
            self._ask(
                person,
                "notify",
                lambda number: person.orchestrator.notify(
                    saga_id=self.saga_id, token=token, event={"n": number}, wait=pick % 4 < 2
                ),
            )
            return
        # Waiting for another driver would be by the machine's clock.
        patient = state.status is not SagaStatus.RUNNING and pick % 4 < 2
        more: dict[str, Any] = {"wait": patient and deal not in (Deal.ABORT, Deal.PAUSE)}
        command: Callable[..., Coroutine[Any, Any, Any]] = getattr(person.admin, deal.value)

        named: int | None = None
        if self.plan.parallel and deal in _NAMING and (pick % 4 or deal is not Deal.RETRY):
            step_ids = [*self._branches] or ["step_0"]
            more["step_id"] = step_ids[pick // 2 % len(step_ids)]
            named = int(more["step_id"].removeprefix("step_"))

        def ask(number: int) -> Coroutine[Any, Any, Any]:
            if deal is Deal.EDIT:
                more["new_input"] = Slip(after=EDITED + number)
            if deal is Deal.BACK:
                more["step_id"] = f"step_{(pick // 2) % len(self.plan.steps)}"
            if deal is Deal.SKIP:
                more["mock_output"] = Receipt(serial=SKIPPED + number)
            return command(self.saga_id, actor=str(number), reason="planned", **more)

        self._ask(person, deal.value, ask, named)

    def _signal(self, person: Process, pick: int) -> None:
        wait = (
            self._wait
            if pick // 2 == FITTING // 2
            else WaitPlan(("Blue",) if pick // 2 else ("Red",))
        )
        again = self._sent[-1] if pick // 2 == 3 and self._sent else None

        def signal(number: int) -> Coroutine[Any, Any, Any]:
            self._sent.append(again or f"event {number}")
            address: dict[str, Any] = {"aggregation_id": f"aggregate {self.saga_id}"}
            return person.orchestrator.signal(
                **({"saga_id": self.saga_id} if number % 2 else address),
                event=EVENTS[wait.events[-1]](n=number),
                event_id=self._sent[-1],
                correlation_id=wait.correlation_id,
            )

        self._ask(person, "signal", signal)

    # --- the end --------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """Let everything go well from here on, and look once more when the saga rests."""
        looks = patience = 0
        for _ in range(LONGEST):
            await self._stage.quiet()
            if self._stage.points:
                self._cue(self._picked(0), Cue.GO)
            elif set(self._running().values()) - {self._person}:
                await asyncio.sleep(0.002)  # somebody polls
            elif self._plans or self._current() not in RESTING:
                await self._go_on(0)
                looks = 0
            elif self._running():
                await asyncio.sleep(0.002)  # the person waits for what is there by now
                patience += 1
                if patience % 50 == 0:  # or for a driver who has died
                    await self._pass_time()
                    self._look(self._idle_worker(patience))
            elif looks == 0:
                looks += 1
                await self._pass_time()
                self._look(self._idle_worker(looks))
            else:
                return
        self._stage.tell(Endless())
        for process in (*self._workers, self._person):
            self._stage.kill(process)
        await self._stage.quiet()

    async def _report(self) -> Ledger:
        record = await self._store.load(self.saga_id)
        return Ledger(
            happenings=self._stage.happenings,
            record=record,
            history=tuple(await self._store.history(self.saga_id, limit=1000)),
            inbox=tuple(await self._store.inbox(self.saga_id)),
        )


async def play(
    plan: SagaPlan, store: SagaStore, harness: StoreHarness, business: Business | None = None
) -> Ledger:
    """Play one saga, on a store that lends transactions with the rows that steps write."""
    world = World(plan, store, harness.age, business)
    ledger = await world.play()
    if business is not None:
        mine = f"{world.saga_id} "
        rows = await business.rows()
        ledger.rows = tuple(row.removeprefix(mine) for row in rows if row.startswith(mine))
    return ledger
