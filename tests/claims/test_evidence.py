"""The verdict sees what must never be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from tests.claims.evidence import (
    Deed,
    Line,
    Notebook,
    read,
    repeated_steps,
    takeovers,
    wrongs,
)

SAGA = UUID(int=1)
CLAIM = Line(0, Deed.CLAIMED, SAGA, 1, 2, "claim-a")
STEP = Line(0, Deed.BEGUN, SAGA, 1, 0, "fetch")
COMMIT = Line(0, Deed.COMMITTED, SAGA, 1, 3, "commit-a")
TAKEOVER = Line(1, Deed.CLAIMED, SAGA, 2, 4, "claim-b", again=True)
STEP_AGAIN = Line(1, Deed.BEGUN, SAGA, 2, 0, "fetch")
HEALTHY = [CLAIM, STEP, COMMIT, TAKEOVER, STEP_AGAIN]


def test_a_takeover_is_not_wrong() -> None:
    assert wrongs(HEALTHY) == []
    assert takeovers(HEALTHY) == 1
    assert repeated_steps(HEALTHY) == 1


def test_an_answer_that_was_given_twice_is_not_wrong() -> None:
    assert wrongs([*HEALTHY, CLAIM, COMMIT]) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (replace(CLAIM, process=1, what="claim-c", version=5), "fence 1 was given to 2 claims"),
        (replace(CLAIM, what="claim-c", version=5), "fence 1 was given to 2 claims"),
        (replace(COMMIT, process=1, what="commit-b"), "version 3 was made by 2 writes"),
        (replace(COMMIT, what="commit-b", version=5), "a later version has a lower fence"),
        (replace(STEP_AGAIN, process=0), "began in process 0 under fence 2"),
        (replace(STEP_AGAIN, fence=7), "began in process 1 under fence 7"),
    ],
)
def test_what_must_never_be_is_seen(line: Line, words: str) -> None:
    (wrong, *_) = [wrong for wrong in wrongs([*HEALTHY, line]) if words in wrong]
    assert str(SAGA) in wrong


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for line in HEALTHY:
        Notebook(tmp_path, line.process).note(
            line.deed, line.saga_id, line.fence, line.version, line.what, again=line.again
        )
    assert read(tmp_path) == HEALTHY
