"""Lead a family through a life: processes that die, lost calls, failures, and people.

`SAGA_CAMPAIGN=full python -m pytest tests/campaign/kin` leads 1,000 families a store;
`SAGA_SEED=7` those of one seed again; `SAGA_SEED=7 SAGA_ONLY=12` one of these alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

from saga_core import SagaAdminSnapshot, SagaError, SagaStatus, SagaStore
from saga_core.records import HistoryEntry
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.campaign.campaign import patient
from tests.campaign.kin.household import Diary, Household, Plan
from tests.campaign.stage import Killed

__all__ = ["Families", "Fate", "Member"]

EVERYDAY, FULL = 30, 1000
EVERYDAY_SEED = 2026
AT_ONCE = 20
ROUNDS = 8
QUIET = 25
"""Rounds without any fault, after which every saga must have ended."""

AGE = timedelta(hours=2)
TEST = "tests/campaign/kin/test_kin.py::test_every_family_ends_as_one"


@dataclass(frozen=True, slots=True)
class Member:
    """One saga of a family, as the store holds it in the end."""

    snapshot: SagaAdminSnapshot
    history: tuple[HistoryEntry, ...]

    @property
    def status(self) -> SagaStatus:
        return self.snapshot.status


@dataclass(slots=True)
class Fate:
    """All that became of a family."""

    number: int
    plan: Plan
    diary: Diary
    members: dict[UUID, Member] = field(default_factory=dict)
    """The parent first, then all sagas that are linked to it or to one of these."""
    met: Counter[str] = field(default_factory=Counter)


class _Life:
    def __init__(self, store: SagaStore, harness: StoreHarness, seed: int, number: int) -> None:
        self._store, self._harness = store, harness
        self._chance = random.Random(f"{seed}/{number}")
        self.saga_id = UUID(int=self._chance.getrandbits(128), version=4)
        self._kind = f"kin-{uuid4()}"
        self._calm = False
        self.fate = Fate(number, Plan.drawn(self._chance), Diary())

    async def lead(self) -> Fate:
        for _ in range(ROUNDS):
            await self._go_wrong()
        self._calm = True
        family = self._family(self._store)
        await family.start(self.saga_id, wait=False)
        for _ in range(QUIET):
            await self._turn(family)
            everyone = await self._everyone(family)
            if all(one.status.is_terminal for one in everyone):
                break
        for one in everyone:
            history = tuple(await self._store.history(one.saga_id, limit=1000))
            self.fate.members[one.saga_id] = Member(one, history)
        return self.fate

    def _likely(self, chance: float) -> bool:
        """Return True as often as that, and never once it is calm."""
        return not self._calm and self._chance.random() < chance

    def _trouble(self) -> None:
        if self._likely(0.15):
            self.fate.met["failures"] += 1
            raise ValueError("no luck")

    def _family(self, on: SagaStore) -> Household:
        return Household(on, self._kind, self.fate.plan, self.fate.diary, self._trouble)

    async def _go_wrong(self) -> None:
        """Let a process work on the family, which loses calls and may die at one of them."""
        last = self._chance.randrange(1, 30) if self._likely(0.6) else None
        calls = 0

        def probe(method: str, ordinal: int, when: str) -> None:
            nonlocal calls
            calls += 1
            if last is not None and calls >= last:
                raise Killed

        rate = 0.04 if self._likely(0.5) else 0.0
        faulty = FaultyStore(self._store, probe=probe, rate=rate, seed=self._chance.getrandbits(32))
        family = self._family(faulty)
        try:
            with contextlib.suppress(SagaError):
                await family.start(self.saga_id, wait=self._likely(0.5))
                await self._ask(family)
                await self._turn(family)
        except Killed:
            self.fate.met["deaths"] += 1
        self.fate.met["lost calls"] += sum(call.fault is not None for call in faulty.calls)

    async def _ask(self, family: Household) -> None:
        """Let a person cancel or pause one of the family, now and then."""
        if not self._likely(0.15):
            return
        one = self._chance.choice(await self._everyone(family))
        ask = family.admin.cancel if self._chance.random() < 0.6 else family.admin.pause
        with contextlib.suppress(SagaError):
            await ask(one.saga_id, wait=False)  # a driver may be dead
            self.fate.met["asked"] += 1

    async def _turn(self, family: Household) -> None:
        """Let time pass, help what is stuck or paused, and drive what is due."""
        for one in await self._everyone(family):
            await self._harness.age(one.saga_id, AGE)
            if not self._calm and not self._likely(0.7):
                continue
            with contextlib.suppress(SagaError):
                if one.status is SagaStatus.STUCK:
                    self.fate.met["helped"] += 1
                    await family.admin.retry_step(one.saga_id, wait=False)
                elif one.waiting_for == "resume":
                    await family.admin.resume(one.saga_id, wait=False)
        await family.orchestrator.run_due()

    async def _everyone(self, family: Household) -> list[SagaAdminSnapshot]:
        """Return the parent and all that are linked to it, or to one of these."""
        found = [await family.admin.get_saga(self.saga_id)]
        for one in found:
            found += [await family.admin.get_saga(link.saga_id) for link in one.children]
        return found


@dataclass(frozen=True, slots=True)
class Families:
    """Which families to lead."""

    seed: int
    size: int
    only: int | None = None

    @classmethod
    def wanted(cls) -> Families:
        """Return what the environment asks for."""
        full = os.environ.get("SAGA_CAMPAIGN") == "full"
        number, only = os.environ.get("SAGA_SEED"), os.environ.get("SAGA_ONLY")
        drawn = random.randrange(2**32) if full else EVERYDAY_SEED
        return cls(
            seed=drawn if number is None else int(number),
            size=FULL if full else EVERYDAY,
            only=None if only is None else int(only),
        )

    async def lead(self, store: SagaStore, harness: StoreHarness) -> list[Fate]:
        """Lead all of them through their lives."""
        numbers = range(self.size) if self.only is None else [self.only]
        lives = [_Life(store, harness, self.seed, number) for number in numbers]
        fates: list[Fate] = []
        with patient():
            for first in range(0, len(lives), AT_ONCE):
                group = lives[first : first + AT_ONCE]
                fates += await asyncio.gather(*(life.lead() for life in group))
        return fates

    def report(self, backend: str, accused: Sequence[tuple[Fate, list[str]]]) -> str:
        """Say what was wrong, and how to see it again; empty if nothing was."""
        guilty = [(fate, said) for fate, said in accused if said]
        if not guilty:
            return ""
        first, _ = guilty[0]
        full = "SAGA_CAMPAIGN=full " if self.size == FULL else ""
        return "\n".join(
            [
                f"{len(guilty)} of {len(accused)} families on {backend} (seed {self.seed}).",
                "To see the first of them alone, again:",
                f"    {full}SAGA_SEED={self.seed} SAGA_ONLY={first.number} "
                f"python -m pytest '{TEST}[{backend}]'",
                f"no. {first.number} is {first.plan}",
                *(f"no. {fate.number}: {line}" for fate, said in guilty[:5] for line in said[:3]),
            ]
        )
