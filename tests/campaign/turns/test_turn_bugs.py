"""The judge of queues catches what is planted, for the right reason, and accuses nobody else."""

from __future__ import annotations

import re

import pytest

from tests.campaign.bug import Bug
from tests.campaign.turns.bugs import TURN_BUGS
from tests.campaign.turns.tour import Tour
from tests.conformance.test_memory import MemoryHarness

QUEUES = 300
"""Within which each bug must be caught, and without it nothing be said."""

LOT = 25


@pytest.mark.parametrize("bug", TURN_BUGS, ids=lambda bug: bug.name)
async def test_judge_catches_a_bug_in_the_queue(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    said: list[str] = []
    for lot in range(QUEUES // LOT):
        harness = MemoryHarness()
        async with harness.open() as store:
            verdicts = await Tour(seed=lot, size=LOT).run(store, harness)
        said += [line for verdict in verdicts for line in verdict.violations]
        if any(re.search(bug.verdict, line) for line in said):
            return
    pytest.fail(f"{bug.name} was not caught; what was said instead: {sorted(set(said))[:10]}")


def test_bugs_are_planted_in_queues() -> None:
    assert len({bug.name for bug in TURN_BUGS}) >= 12


async def test_no_false_alarm_in_clean_queues() -> None:
    """The plans of the planted bugs, without the bugs."""
    for lot in range(QUEUES // LOT):
        harness = MemoryHarness()
        async with harness.open() as store:
            tour = Tour(seed=lot, size=LOT)
            report = tour.report("memory", await tour.run(store, harness))
        assert not report, report
