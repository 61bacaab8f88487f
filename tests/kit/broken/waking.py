"""Bugs of wake-ups: nothing is wrong but that nobody hears of it."""

from __future__ import annotations

from tests.kit.broken.bug import Bug

__all__ = ["BUGS"]

BUGS = (
    Bug(
        "a created saga wakes nobody",
        "_insert",
        "        self._wake()\n",
        "        pass\n",
        "test_created_saga_wakes",
    ),
    Bug(
        "a signal wakes nobody",
        "signal",
        "        self._wake()\n",
        "        pass\n",
        "test_signal_to_a_waiting_saga_wakes",
    ),
    Bug(
        "a commit wakes nobody",
        "commit",
        "        self._wake()\n",
        "        pass\n",
        "test_commit_that_makes_its_saga_due_wakes",
    ),
    Bug(
        "a release wakes nobody",
        "release",
        "            self._wake()\n",
        "            pass\n",
        "test_released_saga_wakes",
    ),
)
