"""The random calls find bugs without having been told of them; the sound store passes."""

from __future__ import annotations

import asyncio

import pytest

from saga_testing.conformance.machine import play
from tests.kit.broken import BUGS, Bug
from tests.kit.running import KitHarness

NAMES = (
    "two creators of an aggregate both pass its check",
    "a new saga loses its trace",
    "no compare-and-set",
    "the time of the update stays",
    "KEEP renews the lease",
    "a claim leaves the version",
    "a time wins over a delay",
    "pages of the history overlap",
    "the inbox is read from the start",
    "a restored saga knows no commit",
    "a purge of nothing deletes all",
)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in NAMES], ids=str)
def test_random_calls_find_a_bug_and_say_how_to_play_them_again(bug: Bug) -> None:
    with pytest.raises(AssertionError) as found:
        asyncio.run(play(KitHarness(bug.store())))
    assert any("SAGA_MACHINE_SEED=" in note for note in found.value.__notes__)
