"""The judge catches what is planted, for the right reason, and accuses nobody else."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from saga_testing.conformance import StoreHarness
from tests.campaign import (
    bugs_in_branches,
    bugs_in_engine,
    bugs_in_going_back,
    bugs_in_hooks,
    bugs_in_orders,
    bugs_in_rules,
    bugs_in_store,
    bugs_in_timing,
    bugs_in_transactions,
    bugs_in_undoing,
    bugs_in_waiting,
)
from tests.campaign.bug import BUGS, Bug
from tests.campaign.campaign import Campaign
from tests.campaign.test_campaign import QuickSqlSqliteHarness
from tests.conformance.test_memory import MemoryHarness

SAGAS = 1000
"""Within which each bug must be caught; most are within the first 100."""

CLEAN = 1000

LOT = 25


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
async def test_judge_catches_a_planted_bug(
    bug: Bug, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bug.plant(monkeypatch)
    said: list[str] = []
    for lot in range(SAGAS // LOT):
        harness: StoreHarness = MemoryHarness()
        if bug.lends:
            harness = QuickSqlSqliteHarness(tmp_path / f"{lot}.db")
        async with harness.open() as store:
            verdicts = await Campaign(seed=lot, size=LOT).run(store, harness)
        said += [line for verdict in verdicts for line in verdict.violations]
        if any(re.search(bug.verdict, line) for line in said):
            return
    pytest.fail(f"{bug.name} was not caught; what was said instead: {sorted(set(said))[:10]}")


@pytest.mark.parametrize(
    ("module", "least"),
    [
        (bugs_in_engine, 10),
        (bugs_in_rules, 10),
        (bugs_in_store, 10),
        (bugs_in_undoing, 5),
        (bugs_in_timing, 5),
        (bugs_in_orders, 5),
        (bugs_in_waiting, 5),
        (bugs_in_branches, 8),
        (bugs_in_hooks, 3),
        (bugs_in_going_back, 5),
        (bugs_in_transactions, 3),
    ],
)
def test_bugs_are_planted_everywhere(module: ModuleType, least: int) -> None:
    planted = [bug for bug in BUGS if bug.plant.__module__ == module.__name__]
    assert len({bug.name for bug in planted}) >= least


async def test_no_false_alarm_in_clean_runs() -> None:
    """The plans of the planted bugs, without the bugs."""
    for lot in range(CLEAN // LOT):
        harness = MemoryHarness()
        async with harness.open() as store:
            campaign = Campaign(seed=lot, size=LOT)
            report = campaign.report("memory", await campaign.run(store, harness))
        assert not report, report
