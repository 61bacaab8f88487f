"""Play one planned queue on a store: starts, workers that die, calls that get lost, a person."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from saga_core import SagaStatus
from saga_core.records import HistoryEntry, Query, SagaRecord
from saga_core.store import SagaStore
from saga_testing.conformance import StoreHarness
from tests.campaign.crowd import Crowd
from tests.campaign.ledger import Aged, Call, Endless, Happening
from tests.campaign.stage import Cue, Process, Stage
from tests.campaign.turns.cast import TurnScript, definitions, kind_of
from tests.campaign.turns.line import QueueLine
from tests.campaign.turns.plan import Deal, Member, Move, QueuePlan
from tests.campaign.world import AGE

__all__ = ["Seen", "TurnLedger", "play"]

LONGEST = 900
"""Cues after which a queue that is left in peace must have been worked off."""

STARTING = "start"


@dataclass(frozen=True, slots=True)
class Seen:
    """How the sagas stood that waited for an aggregate that nobody had."""

    records: tuple[SagaRecord, ...]


@dataclass(slots=True)
class TurnLedger:
    """All that happened, and what the store holds in the end."""

    members: dict[UUID, Member]
    happenings: list[Happening | Seen] = field(default_factory=list)
    records: dict[UUID, SagaRecord] = field(default_factory=dict)
    histories: dict[UUID, tuple[HistoryEntry, ...]] = field(default_factory=dict)


class _World(Crowd):
    def __init__(self, plan: QueuePlan, store: SagaStore, harness: StoreHarness) -> None:
        self._plan = plan
        self._harness = harness
        self._name = str(uuid4())
        self._key = f"key {self._name}"
        self._members = {uuid4(): member for member in plan.members}
        self._ids = list(self._members)
        stage = Stage()
        made = definitions(TurnScript(self._members, stage))
        kinds = {f"{kind}-of-{self._name}": one for kind, one in made.items()}
        super().__init__(stage, store, kinds)
        self._begun = 0
        """How many sagas somebody has begun to start."""
        self._queue = QueueLine()
        self._read = 0
        self._helped: dict[UUID, int] = {}

    async def play(self) -> TurnLedger:
        """Make all moves, let the sagas come to an end, and return what happened."""
        self._start(self._workers[0], 0)
        for move in self._plan.moves:
            await self._quiet()
            self._make(move) if move.deal is not Deal.TIME else await self._pass_time()
        await self._come_to_rest()
        return await self._report()

    async def _quiet(self) -> None:
        """Wait until everybody does, and look at the queue of an aggregate that is free."""
        await self._stage.quiet()
        written = False
        for happening in self._stage.happenings[self._read :]:
            if isinstance(happening, Call):
                written = self._queue.follow(happening) is not None or written
        self._read = len(self._stage.happenings)
        if written and self._queue.queued and not self._queue.active:
            seen = [await self._store.load(saga_id) for saga_id in self._queue.queued]
            self._stage.tell(Seen(tuple(seen)))  # type: ignore[arg-type]

    # --- moves ----------------------------------------------------------------------------------

    def _make(self, move: Move) -> None:
        pick = move.pick
        match move.deal:
            case Deal.GO:
                self._go_on(pick)
            case Deal.LOSE_BEFORE | Deal.LOSE_AFTER:
                self._cue(self._picked(pick), Cue(move.deal.value))
            case Deal.CRASH | Deal.CRASH_APPLIED:
                self._crash(self._picked(pick), applied=move.deal is Deal.CRASH_APPLIED)
            case Deal.LOOK:
                self._look(self._idle_worker(pick))
            case Deal.START:
                self._start(self._idle_worker(pick), self._begun)
            case Deal.AGAIN:
                self._start(self._idle_worker(pick), pick % self._begun)
            case _:
                known = list(self._queue.states)
                # Now the one that has the aggregate, now any; one that has failed does not.
                chosen = self._queue.active if pick % 2 and move.deal != Deal.RETRY else known
                if chosen:
                    self._command(move.deal, chosen[pick // 2 % len(chosen)])

    def _go_on(self, pick: int) -> None:
        point = self._picked(pick)
        if point is not None:
            self._cue(point, Cue.GO)
        elif pick % 2 and self._begun < len(self._ids):
            self._start(self._idle_worker(pick), self._begun)
        else:
            self._look(self._idle_worker(pick))

    async def _pass_time(self) -> None:
        for saga_id in self._queue.states:
            await self._harness.age(saga_id, AGE)
        self._stage.tell(Aged(AGE))

    # --- what they do ---------------------------------------------------------------------------

    def _start(self, process: Process, number: int) -> None:
        if number >= len(self._ids):
            return
        self._begun = max(self._begun, number + 1)
        process = self._living(process)
        saga_id = self._ids[number]
        member = self._members[saga_id]

        def start(_: int) -> Coroutine[Any, Any, Any]:
            return process.orchestrator.start(
                saga_name=f"{kind_of(member)}-of-{self._name}",
                initial_data={"n": number},
                saga_id=saga_id,
                aggregation_id=self._key,
                delay=timedelta(hours=1) if member.delayed else None,
                on_conflict=member.on_conflict,
                wait=member.driven,
            )

        self._ask(process, STARTING, start, number)

    def _look(self, process: Process) -> None:
        process = self._living(process)
        self._ask(process, "run_due", lambda _: process.orchestrator.run_due())

    def _command(self, deal: Deal, saga_id: UUID) -> None:
        self._person = person = self._living(self._person)
        command: Callable[..., Coroutine[Any, Any, Any]] = getattr(person.admin, deal.value)
        self._ask(
            person,
            deal.value,
            lambda _: command(saga_id, actor="person", reason="planned", wait=False),
        )

    # --- the end --------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """Start who was not started yet, let everything go well, and ask nobody to hurry."""
        idle = 0
        helped = False
        for _ in range(LONGEST):
            await self._quiet()
            if self._stage.points:
                self._cue(self._picked(0), Cue.GO)
            elif self._running():
                await asyncio.sleep(0.002)  # somebody polls
            elif (missing := self._missing()) is not None:
                self._start(self._idle_worker(missing), missing)
            elif not helped and self._help():
                helped = True  # what was asked may wait for a driver who has died
            elif idle == 2:
                return
            else:
                helped = False
                idle += all(state.has_ended for state in self._queue.states.values())
                await self._pass_time()
                self._look(self._idle_worker(0))
        self._stage.tell(Endless())
        for process in (*self._workers, self._person):
            self._stage.kill(process)
        await self._stage.quiet()

    def _missing(self) -> int | None:
        """Return whose start nobody has made, or lost with the process that made it."""
        for number, (saga_id, member) in enumerate(self._members.items()):
            lost = member.on_conflict == "queue" and saga_id not in self._queue.states
            if number >= self._begun or lost:
                return number
        return None

    def _help(self) -> bool:
        """Let the person see to a saga that nobody else goes on with."""
        for saga_id, state in self._queue.states.items():
            if state.is_paused:
                self._command(Deal.RESUME, saga_id)
            elif state.status is SagaStatus.STUCK:
                tries = self._helped[saga_id] = self._helped.get(saga_id, 0) + 1
                gives_up = self._members[saga_id].aborted or tries > 1
                self._command(Deal.ABORT if gives_up else Deal.SKIP_UNDO, saga_id)
            else:
                continue
            return True
        return False

    async def _report(self) -> TurnLedger:
        ledger = TurnLedger(self._members, list(self._stage.happenings))
        page = await self._store.find(Query(aggregation_id=self._key))
        for found in page.records:
            record = await self._store.load(found.saga_id)
            ledger.records[record.saga_id] = record
            history = await self._store.history(record.saga_id, limit=1000)
            ledger.histories[record.saga_id] = tuple(history)
        return ledger


async def play(plan: QueuePlan, store: SagaStore, harness: StoreHarness) -> TurnLedger:
    """Play one queue to its end."""
    return await _World(plan, store, harness).play()
