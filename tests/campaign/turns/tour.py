"""Run many planned queues side by side on one store, and tell what the judge says.

As for the campaign of single sagas: `SAGA_CAMPAIGN=full python -m pytest tests/campaign/turns`
plays 5,000 queues a store, by a new seed; `SAGA_SEED=7` those of one seed again; `SAGA_SEED=7
SAGA_ONLY=12` one of these alone, told call by call if it breaks a rule.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saga_core.store import SagaStore
from saga_testing.conformance import StoreHarness
from tests.campaign.campaign import AT_ONCE, FULL, Campaign, patient
from tests.campaign.drawing import drawn
from tests.campaign.telling import tell
from tests.campaign.turns.judge import judge, tally
from tests.campaign.turns.plan import QueuePlan, queues
from tests.campaign.turns.world import TurnLedger, play

__all__ = ["Tour", "Verdict", "tallied"]

EVERYDAY = 120

TEST = "tests/campaign/turns/test_turns.py::test_every_queue_is_worked_off_in_turn"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one queue."""

    number: int
    plan: QueuePlan
    ledger: TurnLedger
    violations: list[str]


@dataclass(frozen=True, slots=True)
class Tour:
    """Which queues to run."""

    seed: int
    size: int
    only: int | None = None

    @classmethod
    def wanted(cls) -> Tour:
        """Return what the environment asks for."""
        asked = Campaign.wanted()
        size = FULL if asked.size == FULL else EVERYDAY
        return cls(asked.seed, size, asked.only)

    async def run(self, store: SagaStore, harness: StoreHarness) -> list[Verdict]:
        """Play all queues; return a verdict on each."""
        chosen = list(enumerate(drawn(queues(), f"turns {self.seed}", self.size)))
        if self.only is not None:
            chosen = [chosen[self.only]]
        verdicts: list[Verdict] = []
        with patient():
            for first in range(0, len(chosen), AT_ONCE):
                group = chosen[first : first + AT_ONCE]
                ledgers = await asyncio.gather(*(play(plan, store, harness) for _, plan in group))
                verdicts += [
                    Verdict(number, plan, ledger, judge(ledger))
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
            f"{len(guilty)} of {len(verdicts)} queues on {backend} broke a rule "
            f"(seed {self.seed}).",
            "To see the first of them alone, again:",
            f"    {full}SAGA_SEED={self.seed} SAGA_ONLY={first.number} "
            f"python -m pytest '{TEST}[{backend}]'",
            *(f"no. {each.number}: {line}" for each in guilty[:8] for line in each.violations[:3]),
            "",
            f"no. {first.number} was planned as",
            *(f"    {member}" for member in first.plan.members),
        ]
        if self.only is not None:
            lines += ["and went like this:", *tell(first.ledger.happenings)]
        return "\n".join(lines)


def tallied(verdicts: Sequence[Verdict]) -> Counter[str]:
    """Add up what was met."""
    total: Counter[str] = Counter()
    for verdict in verdicts:
        total += tally(verdict.ledger)
    return total
