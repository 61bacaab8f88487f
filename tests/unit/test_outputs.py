"""What counts of the steps that were done, and what a rollback has to undo."""

from __future__ import annotations

from saga_core.happening import Recorded
from saga_core.outputs import Outputs, thing_of
from saga_core.records import NewEntry, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus


def entry(kind: EntryKind, step_id: str = "pay", output: str = "1") -> NewEntry:
    return NewEntry(kind=kind, step_id=step_id, input="0", output=output)


DONE, VOIDED = EntryKind.COMPLETED, EntryKind.VOIDED
MAYBE, PROBED = EntryKind.MAYBE_DONE, EntryKind.PROBED


def told(outputs: Outputs) -> list[tuple[str, int, str]]:
    return [(each.step_id, each.number, each.recorded.output) for each in outputs.things]


def test_step_that_is_told_of_twice_was_done_once() -> None:
    outputs = Outputs()
    outputs["pay"] = Recorded("0", "1")
    outputs.hear([entry(DONE), entry(DONE, "ship", "2")])
    assert told(outputs) == [("pay", 0, "1"), ("ship", 0, "2")]
    assert (set(outputs), outputs.went_back) == ({"pay", "ship"}, False)


def test_what_was_voided_counts_no_more_and_is_still_a_thing_that_was_done() -> None:
    outputs = Outputs([entry(DONE), entry(DONE, "ship"), entry(VOIDED, "ship"), entry(VOIDED)])
    assert (dict(outputs), outputs.went_back) == ({}, True)
    outputs.hear([entry(DONE, output="3")])
    assert told(outputs) == [("pay", 0, "1"), ("ship", 0, "1"), ("pay", 1, "3")]
    assert outputs["pay"].output == "3"
    assert (outputs.times("pay"), outputs.times("ship"), outputs.times("else")) == (2, 1, 0)


def test_rollback_finds_the_thing_that_it_has_come_to() -> None:
    outputs = Outputs([entry(DONE), entry(VOIDED), entry(DONE, output="3")])
    for number, output in ((0, "1"), (1, "3")):
        state = SagaState(
            status=SagaStatus.COMPENSATING,
            direction=Direction.ROLLBACK,
            step_id="pay",
            generation=number,
        )
        assert thing_of(outputs, state).output == output


def test_probe_settles_the_newest_that_may_have_been_done() -> None:
    outputs = Outputs([entry(MAYBE, output="{}"), entry(VOIDED), entry(DONE, output="3")])
    outputs.hear([entry(PROBED, output="2")])
    assert told(outputs) == [("pay", 0, "2"), ("pay", 1, "3")]
    assert not outputs.things[0].recorded.maybe
    assert outputs["pay"].output == "3"


def test_what_comes_after_leaves_what_was_before() -> None:
    before = Outputs([entry(DONE)])
    later = before.after([entry(VOIDED), entry(DONE, output="3")])
    assert told(before) == [("pay", 0, "1")]
    assert told(later) == [("pay", 0, "1"), ("pay", 1, "3")]
    assert (before.went_back, later.went_back) == (False, True)


def test_probe_settles_what_it_was_asked_for_though_a_newer_one_was_not_done() -> None:
    old = NewEntry(kind=MAYBE, step_id="pay", input="7", output="{}")
    outputs = Outputs([old, entry(VOIDED), entry(MAYBE, output="{}")])
    outputs.hear([NewEntry(kind=PROBED, step_id="pay", input="7", output="2")])
    assert [(each.number, each.recorded.maybe) for each in outputs.things] == [
        (0, False),
        (1, True),
    ]
