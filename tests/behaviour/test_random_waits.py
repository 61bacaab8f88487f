"""Random lives of a saga that waits: each event is used once, in order, by whoever comes to it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from saga_core import AwaitEvent, EntryKind, SagaError, SagaStatus, Sleep, StepContext
from saga_core.status import Direction
from saga_testing import Fault, FaultyStore, ManualClock, MemoryStore
from tests.behaviour.cast import HOUR, Number, Story, retry, saga

LEASE = timedelta(minutes=5)
MOST_ATTEMPTS = 100
IN_VAIN = -1


class Left(BaseModel):
    n: int


class Right(BaseModel):
    n: int


KINDS: tuple[type[Left] | type[Right], ...] = (Left, Right)


class Play:
    """Steps that fail as the plan says, and never keep an event to themselves."""

    def __init__(self, failures: list[bool]) -> None:
        self._failures = failures
        self.met: Counter[str] = Counter()

    def _stumble(self, ctx: StepContext) -> None:
        if self._failures and self._failures.pop():
            self.met[f"failures after {ctx.waits} waits"] += 1
            raise ValueError("no")

    def one(self, inp: Number, ctx: StepContext) -> Any:
        self._stumble(ctx)
        return Number(n=ctx.event.n) if ctx.waits else AwaitEvent(Left)

    def two(self, inp: Number, ctx: StepContext) -> Any:
        self._stumble(ctx)
        if ctx.waits == 3:
            left, right = ctx.events
            assert (type(left), type(right)) == (Left, Right)
            return Number(n=1000 * left.n + right.n)
        return (AwaitEvent(Left), Sleep(HOUR), AwaitEvent(Right))[ctx.waits]

    def three(self, inp: Number, ctx: StepContext) -> Any:
        self._stumble(ctx)
        if ctx.waits:
            return Number(n=ctx.event.n)
        return AwaitEvent(Right, timeout=HOUR, on_timeout=Number(n=IN_VAIN))

    def saga(self, store: Any) -> saga:
        story = Story()
        steps = (story.step(self.one), story.step(self.two), story.step(self.three))
        return saga(store, *steps, retry_policy=retry(MOST_ATTEMPTS, timedelta(minutes=1)))


signals = st.tuples(st.just("signal"), st.integers(0, 1), st.integers(0, 6))
moves = st.one_of(
    signals,
    signals,
    st.tuples(st.just("run"), st.just(0), st.just(0)),
    st.tuples(st.just("run"), st.just(0), st.just(0)),
    st.tuples(st.just("overtake"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("meanwhile"), st.integers(0, 1), st.integers(0, 6)),
    st.tuples(st.just("die"), st.just(0), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just("time"), st.sampled_from([1, 5, 59, 61]), st.just(0)),
)


class World:
    """One saga, the events that were sent to it, and what befell its drivers."""

    def __init__(self, play: Play) -> None:
        self.clock = ManualClock()
        self.inner = MemoryStore(clock=self.clock)
        self.store = FaultyStore(self.inner)
        self.play = play
        self.saga = play.saga(self.store)
        self.saga_id = uuid4()
        self.sent: dict[str, tuple[str, int]] = {}
        """What lies in the inbox by rights: name and content by event id, in order."""

    async def make(self, move: tuple[str, int, int]) -> None:
        what, one, two = move
        if what == "signal":
            await self.send(one, f"e{two}", two)
        elif what == "run":
            await self.run()
        elif what == "overtake":
            self.store.between("commit", self.store.calls_of("commit") + one, self.overtake)
        elif what == "meanwhile":
            ordinal = self.store.calls_of("commit") + 1 + two % 3
            self.store.between("commit", ordinal, lambda: self.send(one, f"e{two}", two))
        elif what == "die":
            await self.inner.claim_due(
                "dead",
                claim_id=uuid4(),
                limit=1,
                lease=LEASE,
                only=self.saga.orchestrator.engine.registry.claimable,
                favour=Direction.FORWARD,
            )
        elif what == "lose":
            method = ("commit", "signal", "inbox")[one]
            fault = (Fault.BEFORE, Fault.AFTER)[two]
            self.store.fail(method, self.store.calls_of(method) + 1, fault)
        else:
            self.clock.advance(timedelta(minutes=one))

    async def send(self, kind: int, event_id: str, n: int) -> None:
        event = KINDS[kind](n=n)
        for _ in range(2):
            try:
                await self.saga.orchestrator.signal(
                    saga_id=self.saga_id, event=event, event_id=event_id
                )
            except SagaError:
                if (await self.inner.load(self.saga_id)).state.status.is_terminal:
                    return
                continue  # its answer was lost
            break
        self.sent.setdefault(event_id, (KINDS[kind].__name__, n))

    async def run(self) -> None:
        for _ in range(2):
            try:
                await self.saga.orchestrator.run_due()
            except SagaError:
                continue
            break

    async def overtake(self) -> None:
        self.play.met["overtaken"] += 1
        self.clock.advance(LEASE)
        await self.play.saga(self.inner).orchestrator.run_due()

    async def finish(self) -> None:
        self.store.heal()
        for number in range(10, 60):
            self.clock.advance(timedelta(minutes=61))
            while await self.saga.orchestrator.run_due():
                pass
            state = (await self.inner.load(self.saga_id)).state
            if state.status.is_terminal:
                return
            for kind, model in enumerate(KINDS):
                if state.waiting_for == f"event:{model.__name__}":
                    await self.check_unanswered(model, state.step_id)
                    await self.send(kind, f"e{number}", number)

    async def check_unanswered(self, model: type[BaseModel], step_id: str | None) -> None:
        """A saga that rests has none of what it waits for, but what came too late."""
        payloads = [
            json.loads(one.payload)
            for one in await self.inner.inbox(self.saga_id)
            if not one.consumed
        ]
        there = [each for each in payloads if each["type"] == model.__name__]
        assert step_id == "step_2" or not there, f"nobody gives it what it waits for: {there}"

    async def judge(self) -> None:
        after = await self.saga.see(self.saga_id)
        assert after.status is SagaStatus.COMPLETED, after.last_error
        inbox = await self.inner.inbox(self.saga_id)
        kept = [(one.event_id, json.loads(one.payload)) for one in inbox]
        found = {
            event_id: (part["type"], json.loads(part["event"])["n"]) for event_id, part in kept
        }
        assert found == self.sent, "each event is there once, as it was sent first"
        of = {
            kind.__name__: [n for name, n in found.values() if name == kind.__name__]
            for kind in KINDS
        }
        first, second, third = (after.outputs[f"step_{number}"]["n"] for number in range(3))
        rights = [second % 1000, *([] if third == IN_VAIN else [third])]
        assert [first, second // 1000] == of["Left"][:2], "the oldest that fit, in order"
        assert rights[0] == of["Right"][0], "the oldest that fits"
        assert rights == [n for n in of["Right"] if n in rights], "in order, each once"
        used = sorted([first, second // 1000, *rights])
        consumed = [one.event_id for one in inbox if one.consumed]
        assert sorted(found[event_id][1] for event_id in consumed) == used
        done = [item.step_id for item in after.step_history if item.kind is EntryKind.COMPLETED]
        assert done == ["step_0", "step_1", "step_2"], "each step is done once"


async def live(failures: list[bool], plan: list[tuple[str, int, int]]) -> Counter[str]:
    world = World(Play(failures))
    await world.saga.start(saga_id=world.saga_id)
    for move in plan:
        await world.make(move)
    await world.finish()
    await world.judge()
    return world.play.met


@settings(max_examples=150, deadline=None)
@given(failures=st.lists(st.booleans(), max_size=8), plan=st.lists(moves, max_size=25))
def test_events_are_used_once_and_in_order_whatever_happens(
    failures: list[bool], plan: list[tuple[str, int, int]]
) -> None:
    asyncio.run(live(failures, plan))
