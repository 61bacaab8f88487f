"""Families on every store: whatever befalls them, parent and children end as one."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from saga_testing.conformance import StoreHarness
from tests.campaign.kin.bugs import BUGS, Plant
from tests.campaign.kin.judge import judge
from tests.campaign.kin.life import Families
from tests.campaign.test_campaign import backend, harness
from tests.conformance.test_memory import MemoryHarness

__all__ = ["backend", "harness"]

MET = (
    *("deaths", "lost calls", "failures", "asked", "helped", "recalled"),
    *("parent COMPLETED", "parent COMPENSATED", "child COMPLETED", "child COMPENSATED"),
    *("grandchild COMPLETED", "grandchild COMPENSATED"),
)
"""What the lives must have met, or they have proved little."""


@pytest.mark.timeout(3600)
async def test_every_family_ends_as_one(backend: str, harness: StoreHarness) -> None:
    families = Families.wanted()
    async with harness.open() as store:
        fates = await families.lead(store, harness)
    report = families.report(backend, [(fate, judge(fate)) for fate in fates])
    assert not report, report
    met: Counter[str] = Counter()
    for fate in fates:
        met += fate.met
    print(f"{len(fates)} families on {backend}, seed {families.seed}: {dict(met)}")
    if families.only is None:
        assert not [name for name in MET if not met[name]], met


FAMILIES = 200
"""Within which each bug must be caught."""

LOT = 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("plant", "verdict"), BUGS, ids=lambda each: getattr(each, "__name__", ""))
async def test_judge_catches_a_planted_bug(
    plant: Plant, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    said: set[str] = set()
    for lot in range(FAMILIES // LOT):
        harness = MemoryHarness()
        async with harness.open() as store:
            fates = await Families(seed=lot, size=LOT).lead(store, harness)
        said |= {line for fate in fates for line in judge(fate)}
        if any(re.search(verdict, line) for line in said):
            return
    pytest.fail(f"{plant.__name__} was not caught; what was said instead: {sorted(said)[:5]}")
