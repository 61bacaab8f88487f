"""Random lives of families: steps, hooks and children that fail, workers that die, commands."""

from __future__ import annotations

import contextlib
import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import Message, SagaAdminSnapshot, SagaError, SagaStatus, SagaStore
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, Number, Story, retry
from tests.behaviour.hooked import Outbox, hooked
from tests.behaviour.test_children import Died, Family

ROUNDS = 12
QUIET = 30
"""Rounds without any fault, after which every saga must have ended."""


class Life:
    """One family, driven by processes that die, until nothing goes wrong any more."""

    def __init__(self, store: SagaStore, harness: StoreHarness, seed: int) -> None:
        self.store, self.harness, self.seed = store, harness, seed
        self.saga_id = uuid4()
        self.outbox, self.story = Outbox(), Story()
        self.outbox.trouble = self._trouble
        self._chance = random.Random(seed)
        self._calm = False

    def likely(self, chance: float) -> bool:
        """Return True as often as that, and never once it is calm."""
        return not self._calm and self._chance.random() < chance

    def _trouble(self, message: Message) -> None:
        if self.likely(0.2):
            raise ConnectionError("the broker is down")

    def _flaky(self, _: Number, ctx: Any) -> None:
        if self.likely(0.25):
            raise ValueError("no luck")

    def family(self, on: SagaStore) -> Family:
        """Return the same family in another process."""
        steps = [self.story.step(self._flaky, undo=self._flaky) for _ in range(3)]
        policies: dict[str, Any] = {
            "retry_policy": retry(2),
            "compensation_retry_policy": retry(2),
        }
        child = hooked(*steps[:2], outbox=self.outbox, hook_policy=retry(2), **policies)
        parallel = self.seed % 2 == 0
        return Family(
            on, story=self.story, child=child, last=steps[2], parallel=parallel, **policies
        )

    async def go_wrong(self) -> None:
        """Let a process work on the family and die at some call to its store, or not."""
        last = self._chance.randrange(1, 25) if self.likely(0.6) else None
        calls = 0

        def probe(method: str, ordinal: int, when: str) -> None:
            nonlocal calls
            calls += 1
            if last is not None and calls >= last:
                raise Died

        family = self.family(FaultyStore(self.store, probe=probe))
        with contextlib.suppress(Died, SagaError):
            await family.start(saga_id=self.saga_id, wait=self.likely(0.5))
            if self.likely(0.1):
                await family.admin.cancel(self.saga_id, wait=False)  # a driver may be dead
            await self.turn(family, helps=0.7)

    async def settle(self) -> list[SagaAdminSnapshot]:
        """Let nothing go wrong any more; return how the family stands, the parent first."""
        self._calm = True
        family = self.family(self.store)
        await family.start(saga_id=self.saga_id, wait=False)
        for _ in range(QUIET):
            await self.turn(family, helps=1.0)
            after = [await family.admin.get_saga(one) for one in await self.everyone(family)]
            if all(one.status.is_terminal for one in after):
                return after
        raise AssertionError((self.seed, await family.admin.explain(self.saga_id)))

    async def turn(self, family: Family, *, helps: float) -> None:
        """Let time pass, help what is stuck, and drive what is due."""
        for one in await self.everyone(family):
            await self.harness.age(one, 2 * HOUR)
            stuck = (await family.admin.get_saga(one)).status is SagaStatus.STUCK
            if stuck and (self._calm or self.likely(helps)):
                await family.admin.retry_step(one, wait=False)
        await family.orchestrator.run_due()

    async def everyone(self, family: Family) -> list[UUID]:
        """Return the ids of the parent and of all children that it has had."""
        parent = await family.admin.get_saga(self.saga_id)
        return [self.saga_id, *(child.saga_id for child in parent.children)]


@pytest.mark.parametrize("seed", [1, 4, 8, 10])
async def test_family_ends_as_one_and_each_end_is_told(
    store: SagaStore, harness: StoreHarness, seed: int
) -> None:
    life = Life(store, harness, seed)
    for _ in range(ROUNDS):
        await life.go_wrong()
    parent, *children = await life.settle()
    ends = [child.status for child in children]
    assert parent.status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
    if parent.status is SagaStatus.COMPLETED:
        assert ends.count(SagaStatus.COMPLETED) == 1, (seed, ends)
    else:
        assert set(ends) <= {SagaStatus.COMPENSATED}, (seed, ends)
    for child in children:
        told = {message.topic for _, message in life.outbox.sent if message.key == str(child.id)}
        assert child.status.value in told, (seed, child.status, told)
