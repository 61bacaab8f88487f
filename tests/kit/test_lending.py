"""The rules of stores that lend their transactions find every way in which rows may go astray."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from saga_core.records import Committed, Transition
from saga_testing.conformance.transactions import TransactionRules
from tests.kit.broken import Bug
from tests.kit.broken.lending import BUGS
from tests.kit.lending import LendingHarness, LendingStore
from tests.kit.running import failures, plain_rules

MOST_RULES = 5
MOST_LINES = 10
RULE_OF_TWO_METHODS = "test_asking_for_a_commit_waits_for_one_that_is_under_way"


class OwnCommitsOnly(LendingStore):
    """Knows which commits there were only if it has made them itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._own: set[UUID] = set()

    async def _commit_lent(self, unit: Any, transition: Transition) -> Committed:
        self._own.add(transition.commit_id)
        return await super()._commit_lent(unit, transition)

    async def recorded(self, saga_id: UUID, commit_id: UUID) -> Committed | None:
        return await super().recorded(saga_id, commit_id) if commit_id in self._own else None


def test_healthy_lender_keeps_every_rule_of_the_suite() -> None:
    assert not failures(LendingStore, LendingHarness)


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_bug_is_found_by_its_rule_and_by_few_others(bug: Bug) -> None:
    found = failures(bug.store(), LendingHarness, TransactionRules)
    assert list(found)[:1] == [bug.rule]
    assert len(found) <= MOST_RULES, list(found)
    for failure in found.values():
        assert failure.is_a_verdict, f"an accident: {failure}"


def test_lender_that_forgets_the_commits_of_others_is_found() -> None:
    found = failures(OwnCommitsOnly, LendingHarness, TransactionRules)
    assert list(found) == [RULE_OF_TWO_METHODS]


def test_each_rule_of_the_topic_finds_a_bug_before_all_others() -> None:
    first = [*(bug.rule for bug in BUGS), RULE_OF_TWO_METHODS]
    assert len(first) == len(set(first))
    assert set(first) == {rule.name for rule in plain_rules() if rule.topic is TransactionRules}


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_bug_is_a_small_diff_to_one_method(bug: Bug) -> None:
    assert 0 < bug.size <= MOST_LINES


def test_no_two_bugs_are_at_one_place() -> None:
    places: dict[str, list[range]] = {}
    for bug in BUGS:
        places.setdefault(bug.method, []).append(bug.place)
    for method, taken in places.items():
        taken.sort(key=lambda place: place.start)
        for one, two in pairwise(taken):
            assert one.stop <= two.start, method
