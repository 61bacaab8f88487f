"""Run many planned sagas side by side on one store, and tell what the judge says.

`SAGA_CAMPAIGN=full python -m pytest tests/campaign` plays 5,000 sagas a store, by a new seed;
`SAGA_SEED=7` those of one seed again; `SAGA_SEED=7 SAGA_ONLY=12` one of these alone, told call by
call if it breaks a rule.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from saga_core import Capability, intervention, running, writing
from saga_core.store import SagaStore
from saga_testing.conformance import StoreHarness
from tests.campaign.drawing import LOT, drawn
from tests.campaign.judge import judge, tally
from tests.campaign.ledger import Ledger
from tests.campaign.plan import SagaPlan, sagas
from tests.campaign.stage import Killed
from tests.campaign.telling import tell
from tests.campaign.world import play

__all__ = ["Campaign", "Verdict", "patient", "tallied"]

EVERYDAY = 300
FULL = 5000
EVERYDAY_SEED = 2026
"""The everyday run must not fail by chance; the full one looks for what nobody has seen."""

AT_ONCE = 40
"""Sagas that are played side by side."""

TEST = "tests/campaign/test_campaign.py::test_every_saga_ends_as_it_should"


_VARYING = re.compile(r"\S*\d\S*")
"""What differs between sentences that say the same of different sagas."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one saga."""

    number: int
    plan: SagaPlan
    ledger: Ledger
    violations: list[str]


@dataclass(frozen=True, slots=True)
class Campaign:
    """Which sagas to run."""

    seed: int
    size: int
    only: int | None = None

    @classmethod
    def wanted(cls) -> Campaign:
        """Return what the environment asks for."""
        full = os.environ.get("SAGA_CAMPAIGN") == "full"
        number = os.environ.get("SAGA_SEED")
        drawn = random.randrange(2**32) if full else EVERYDAY_SEED
        only = os.environ.get("SAGA_ONLY")
        return cls(
            seed=drawn if number is None else int(number),
            size=FULL if full else EVERYDAY,
            only=None if only is None else int(only),
        )

    async def run(self, store: SagaStore, harness: StoreHarness) -> list[Verdict]:
        """Play all sagas; return a verdict on each."""
        chosen = list(enumerate(drawn(sagas(), str(self.seed), self.size, self.only)))
        if self.only is not None:
            chosen = [(self.only, chosen[self.only % LOT][1])]
        verdicts: list[Verdict] = []
        async with AsyncExitStack() as stack:
            stack.enter_context(patient())
            business = None
            if Capability.TRANSACTION in harness.capabilities:
                business = await stack.enter_async_context(harness.business())
            for first in range(0, len(chosen), AT_ONCE):
                group = chosen[first : first + AT_ONCE]
                ledgers = await asyncio.gather(
                    *(play(plan, store, harness, business) for _, plan in group)
                )
                verdicts += [
                    Verdict(number, plan, ledger, judge(plan, ledger))
                    for (number, plan), ledger in zip(group, ledgers, strict=True)
                ]
        return verdicts

    def report(self, backend: str, verdicts: Sequence[Verdict]) -> str:
        """Say what was wrong, and how to see it again; empty if nothing was."""
        guilty = [verdict for verdict in verdicts if verdict.violations]
        if not guilty:
            return ""
        first = guilty[0]
        full = "SAGA_CAMPAIGN=full " if self.size == FULL else ""
        lines = [
            f"{len(guilty)} of {len(verdicts)} sagas on {backend} broke a rule (seed {self.seed}).",
            "To see the first of them alone, again:",
            f"    {full}SAGA_SEED={self.seed} SAGA_ONLY={first.number} "
            f"python -m pytest '{TEST}[{backend}]'",
            *_kinds(guilty),
            "",
            f"no. {first.number} was planned as",
            *(f"    {step}" for step in first.plan.steps),
        ]
        if self.only is not None:
            lines += ["and went like this:", *tell(first.ledger.happenings)]
        return "\n".join(lines)


def _kinds(guilty: Sequence[Verdict]) -> Iterator[str]:
    """Say each kind of thing that was wrong once, with the first saga where it was."""
    said: dict[str, list[tuple[int, str]]] = {}
    for each in guilty:
        for line in each.violations:
            said.setdefault(_VARYING.sub("~", line), []).append((each.number, line))
    for alike in said.values():
        number, line = alike[0]
        sagas = len({one for one, _ in alike})
        yield f"no. {number}: {line}" + (f" (and {sagas - 1} more like it)" if sagas > 1 else "")


def tallied(verdicts: Sequence[Verdict]) -> Counter[str]:
    """Add up what was met."""
    total: Counter[str] = Counter()
    for verdict in verdicts:
        total += tally(verdict.plan, verdict.ledger)
    return total


@contextmanager
def patient() -> Iterator[None]:
    """Let no pause of the library take real time, and no process that died complain."""
    pauses: list[tuple[Any, str]] = [
        (writing, "FIRST_PAUSE"),
        (running, "CLAIM_PAUSE"),
        (intervention, "PAUSE"),
    ]
    before = [getattr(module, name) for module, name in pauses]
    log = logging.getLogger("saga_core")
    level = log.level
    asyncio.get_running_loop().set_exception_handler(_ignore_the_dead)
    log.setLevel(logging.CRITICAL)
    try:
        for module, name in pauses:
            setattr(module, name, 0.0)
        yield
    finally:
        log.setLevel(level)
        for (module, name), value in zip(pauses, before, strict=True):
            setattr(module, name, value)


def _ignore_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Killed):
        loop.default_exception_handler(context)
