"""What an upcaster may return, and what becomes of the saga then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from saga_core import (
    DoneStep,
    PayloadError,
    PayloadLimits,
    SagaDefinitionError,
    SagaInFlight,
    Upcaster,
)
from saga_core.happening import Recorded
from saga_core.live import LiveSaga
from saga_core.outputs import Outputs
from saga_core.records import HistoryEntry, NewEntry, NewSaga, SagaRecord, SagaState
from saga_core.registry import Registry
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.timing import AT_START
from saga_core.upcasting import bring_to_life
from saga_core.versions import Move, as_driven, tag_of, was_upcast
from tests.behaviour.cast import Story, definition

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = UUID(int=9)
OLD = definition(*(Story().step() for _ in range(3)))
NEW = definition(*(Story().step() for _ in range(4)))
LIMITS = PayloadLimits()

Change = Callable[[SagaInFlight], Any]


def record_at(
    step: int = 1, *, back: bool = False, done: int | None = None, **state: Any
) -> SagaRecord:
    """Return a saga of `OLD` at a step; in a rollback `done` steps were done."""
    count = step if done is None else done
    history = tuple(
        NewEntry(
            kind=EntryKind.COMPLETED,
            step_id=f"step_{number}",
            input=f'{{"n":{number}}}',
            output=f'{{"n":{number + 1}}}',
        )
        for number in range(count)
    )
    new = NewSaga(
        saga_id=UUID(int=7),
        saga_name="story",
        definition_version="1",
        fingerprint=OLD.fingerprint,
        data='{"n": 0}',
        tags=("mine",),
        history=history,
        state=replace(
            SagaState(
                status=SagaStatus.COMPENSATING if back else SagaStatus.RUNNING,
                direction=Direction.ROLLBACK if back else Direction.FORWARD,
                step_id=f"step_{step}",
                step_index=step,
                step_input=None if back else f'{{"n":{step}}}',
                token=TOKEN,
                attempt=2,
                generation=3,
            ),
            **state,
        ),
    )
    return new.as_record(now=NOW, due_at=NOW)


def upcast(record: SagaRecord, change: Change, *, into: Any = NEW) -> LiveSaga:
    registry = Registry()
    registry.add("story", OLD, version="1", max_crashes=3)
    registry.add("story", into, version="2", max_crashes=3, upcast={"1": change})
    return bring_to_life(record, registry, LIMITS)


def refused(record: SagaRecord, change: Change, told: str) -> None:
    with pytest.raises(SagaDefinitionError, match=told) as error:
        upcast(record, change)
    assert error.value.saga_id == record.saga_id
    assert "'story' to version '2'" in str(error.value)


def written(live: LiveSaga) -> NewEntry:
    assert live.unwritten is not None
    (entry,) = live.unwritten.history
    return entry


def stored(record: SagaRecord, live: LiveSaga) -> SagaRecord:
    """Return the record as a store gives it after the upcast was committed."""
    entry = written(live).as_entry(seq=9, version=2, at=NOW)
    return replace(record, state=live.state, outputs=(*record.outputs, entry))


# --- what follows --------------------------------------------------------------------------------


def test_upcaster_that_changes_nothing_keeps_input_attempts_key_and_token() -> None:
    record = record_at(1)
    live = upcast(record, lambda saga: saga)
    assert live.state == record.state
    assert live.definition is NEW
    assert live.unwritten is not None
    assert live.unwritten.tags == ("mine", "upcast:2")
    move = Move.decode(written(live).output)
    assert (move.data, move.outputs) == (None, {"step_0": None})
    assert move.from_fingerprint == OLD.fingerprint


def test_saga_read_back_is_the_saga_that_was_written() -> None:
    record = record_at(2)

    def change(saga: SagaInFlight) -> SagaInFlight:
        done = {**saga.done, "step_1": replace(saga.done["step_1"], output={"n": 50})}
        return replace(saga, initial_data=["new"], done=done)

    live = upcast(record, change)
    driven = as_driven(stored(record, live))
    assert (driven.definition_version, driven.fingerprint) == ("2", NEW.fingerprint)
    assert driven.data == '["new"]'
    texts = {step: (entry.input, entry.output) for step, entry in driven.step_outputs.items()}
    assert texts == {
        "step_0": ('{"n":0}', '{"n":1}'),
        "step_1": ('{"n":1}', '{"n":50}'),
    }
    assert {step: (one.input, one.output) for step, one in live.outputs.items()} == texts
    assert not any(entry.kind is EntryKind.UPCAST for entry in driven.outputs)


def test_what_is_put_out_after_an_upcast_counts_and_facts_stay() -> None:
    record = record_at(1)
    live = upcast(record, lambda saga: saga)
    after = stored(record, live)
    later = HistoryEntry(
        kind=EntryKind.COMPLETED, step_id="step_1", input="1", output="2", seq=10, version=3, at=NOW
    )
    fact = replace(later, kind=EntryKind.WAITING, output="{}")
    driven = as_driven(replace(after, outputs=(fact, *after.outputs, later)))
    assert list(driven.step_outputs) == ["step_0", "step_1"]
    assert fact in driven.outputs


def test_step_that_was_done_again_comes_last_of_what_is_to_be_undone() -> None:
    live = upcast(record_at(2), lambda saga: saga)
    after = stored(record_at(2), live)
    again = HistoryEntry(
        kind=EntryKind.COMPLETED, step_id="step_0", input="1", output="2", seq=10, version=3, at=NOW
    )
    driven = as_driven(replace(after, outputs=(*after.outputs, again)))
    assert list(driven.step_outputs) == ["step_1", "step_0"]


def test_record_without_an_upcast_is_left_alone() -> None:
    record = record_at(1)
    assert as_driven(record) is record
    assert not was_upcast(record)
    assert was_upcast(replace(record, tags=("a", tag_of("2"))))


def test_another_step_begins_at_its_first_attempt_with_a_mapped_input() -> None:
    def change(saga: SagaInFlight) -> SagaInFlight:
        return replace(
            saga, done={**saga.done, "step_1": DoneStep(output={"n": 7})}, step_id="step_2"
        )

    state = upcast(record_at(1), change).state
    assert (state.step_id, state.step_index, state.step_input) == ("step_2", 2, '{"n":7}')
    assert (state.attempt, state.generation, state.token) == (0, 0, TOKEN)


def test_step_that_an_upcaster_made_up_has_nothing_to_undo() -> None:
    def change(saga: SagaInFlight) -> SagaInFlight:
        return replace(
            saga, done={**saga.done, "step_1": DoneStep(output={"n": 7})}, step_id="step_2"
        )

    live = upcast(record_at(1), change)
    assert live.outputs["step_1"].input is None
    assert as_driven(stored(record_at(1), live)).step_outputs["step_1"].kind is EntryKind.SKIPPED


def test_another_input_of_the_same_step_keeps_the_generation() -> None:
    state = upcast(record_at(1), lambda saga: replace(saga, step_input={"n": 5})).state
    assert (state.step_input, state.generation, state.attempt) == ('{"n":5}', 3, 2)


def test_input_returned_as_none_is_mapped_anew() -> None:
    def change(saga: SagaInFlight) -> SagaInFlight:
        done = {"step_0": replace(saga.done["step_0"], output={"n": 40})}
        return replace(saga, done=done, step_input=None)

    assert upcast(record_at(1), change).state.step_input == '{"n":40}'


def test_input_that_could_not_be_mapped_stays_to_be_mapped_on_request() -> None:
    record = record_at(1, status=SagaStatus.STUCK, step_input=None)
    live = upcast(record, lambda saga: saga)
    assert live.state == record.state


def test_change_in_place_is_seen() -> None:
    def change(saga: SagaInFlight) -> SagaInFlight:
        saga.initial_data["n"] = 5
        return saga

    assert Move.decode(written(upcast(record_at(1), change)).output).data == '{"n":5}'


def test_rollback_shows_what_is_yet_to_be_undone() -> None:
    shown: list[SagaInFlight] = []

    def change(saga: SagaInFlight) -> SagaInFlight:
        shown.append(saga)
        return saga

    state = upcast(record_at(1, back=True, done=3), change).state
    assert list(shown[0].done) == ["step_0", "step_1"]
    assert (state.step_id, state.direction, state.step_input) == (
        "step_1",
        Direction.ROLLBACK,
        None,
    )


def doubtful(*more: NewEntry) -> SagaRecord:
    """Return a saga in whose rollback the current step may have been done."""
    doubt = NewEntry(
        kind=EntryKind.MAYBE_DONE, step_id="step_1", input='{"n":1}', output='{"generation":3}'
    )
    record = record_at(1, back=True, done=1)
    entries = (each.as_entry(seq=seq, version=2, at=NOW) for seq, each in enumerate((doubt, *more)))
    return replace(record, outputs=(*record.outputs, *entries))


def test_step_that_may_have_been_done_is_undone_by_the_new_version_where_it_was() -> None:
    record = doubtful()
    live = upcast(record, lambda saga: saga)
    assert live.state.step_id == "step_1"
    assert live.outputs["step_1"] == Recorded('{"n":1}', '{"generation":3}', maybe=True)
    refused(record, lambda saga: replace(saga, step_id="step_0"), "must leave it there")


def test_upcaster_sees_and_converts_what_may_have_been_done() -> None:
    shown: list[SagaInFlight] = []

    def change(saga: SagaInFlight) -> SagaInFlight:
        shown.append(saga)
        return replace(saga, maybe_done={"step_1": {"n": 100}})

    record = doubtful()
    live = upcast(record, change)
    assert (shown[0].maybe_done, list(shown[0].done)) == ({"step_1": {"n": 1}}, ["step_0"])
    there = Recorded('{"n":100}', '{"generation":3}', maybe=True)
    assert live.outputs["step_1"] == there
    driven = as_driven(stored(record, live))
    assert Outputs(driven.outputs)["step_1"] == there


def test_step_that_a_probe_has_found_is_done_and_may_be_converted() -> None:
    found = NewEntry(kind=EntryKind.PROBED, step_id="step_1", input='{"n":1}', output='{"n":2}')
    shown: list[SagaInFlight] = []

    def change(saga: SagaInFlight) -> SagaInFlight:
        shown.append(saga)
        done = DoneStep(input={"n": 100}, output={"n": 200}, ran=True)
        return replace(saga, done={**saga.done, "step_1": done})

    record = doubtful(found)
    kept = upcast(record, lambda saga: saga)
    assert kept.outputs["step_1"] == Recorded('{"n":1}', '{"n":2}')
    assert Outputs(as_driven(stored(record, kept)).outputs)["step_1"] == Recorded(
        '{"n":1}', '{"n":2}'
    )
    live = upcast(record, change)
    assert (list(shown[0].done), shown[0].maybe_done) == (["step_0", "step_1"], {})
    for outputs in (live.outputs, Outputs(as_driven(stored(record, live)).outputs)):
        assert outputs["step_1"] == Recorded('{"n":100}', '{"n":200}')


def test_saga_that_has_not_begun_may_begin_at_another_step() -> None:
    record = record_at(0, status=SagaStatus.SUSPENDED, waiting_for=AT_START)
    done = {"step_0": DoneStep(output={"n": 5})}
    live = upcast(record, lambda saga: replace(saga, done=done, step_id="step_1"))
    assert (live.state.step_id, live.state.waiting_for) == ("step_1", AT_START)


def test_saga_that_has_no_step_is_never_upcast() -> None:
    record = record_at(1, status=SagaStatus.COMPLETED, active=False, step_id=None)
    live = upcast(record, lambda saga: saga)
    assert live.unwritten is None
    assert live.definition is OLD


# --- what is refused -----------------------------------------------------------------------------


async def _coroutine() -> None:
    return None


REFUSED: dict[str, tuple[SagaRecord, Change, str]] = {
    "raising": (
        record_at(),
        lambda saga: saga.done["nobody"],
        "upcaster raised KeyError: 'nobody'",
    ),
    "nothing": (record_at(), lambda saga: None, "returned NoneType; it must return"),
    "a dict": (record_at(), lambda saga: {}, "returned dict"),
    "a coroutine": (record_at(), lambda saga: _coroutine(), "returned coroutine"),
    "another saga": (record_at(), lambda saga: replace(saga, saga_id=TOKEN), "another saga"),
    "another direction": (
        record_at(),
        lambda saga: replace(saga, direction=Direction.ROLLBACK),
        "another direction",
    ),
    "data that is no JSON": (
        record_at(),
        lambda saga: replace(saga, initial_data={"x": object()}),
        "initial_data.x is a object",
    ),
    "no mapping": (record_at(), lambda saga: replace(saga, done=[]), "`done` must be a mapping"),
    "no DoneStep": (
        record_at(),
        lambda saga: replace(saga, done={"step_0": {"n": 1}}),
        "must be a DoneStep, got dict",
    ),
    "an unknown step done": (
        record_at(),
        lambda saga: replace(saga, done={**saga.done, "step_9": DoneStep(output=1)}),
        "step 'step_9' is done, and version '2' has no such step",
    ),
    "an output of another type": (
        record_at(),
        lambda saga: replace(saga, done={"step_0": replace(saga.done["step_0"], output="x")}),
        "the output of step 'step_0' is not a valid Number",
    ),
    "an input of another type": (
        record_at(),
        lambda saga: replace(saga, done={"step_0": replace(saga.done["step_0"], input="x")}),
        "the input of step 'step_0' is not a valid Number",
    ),
    "a current input of another type": (
        record_at(),
        lambda saga: replace(saga, step_input="x"),
        "the input of step 'step_1' is not a valid Number",
    ),
    "an unknown position": (
        record_at(),
        lambda saga: replace(saga, step_id="step_9"),
        "it is at step 'step_9', and version '2' has no such step",
    ),
    "a step skipped in silence": (
        record_at(),
        lambda saga: replace(saga, step_id="step_2"),
        "step 'step_1' comes before step 'step_2', where the saga is, and is not done",
    ),
    "a step to be done twice": (
        record_at(),
        lambda saga: replace(saga, step_id="step_0"),
        "step 'step_0' is done and comes not before step 'step_0'",
    ),
    "a map that raises": (
        record_at(0),
        lambda saga: replace(saga, initial_data={}, step_input=None),
        "the input map of step 'step_0' raised KeyError",
    ),
    "a step that would not be undone": (
        record_at(1, back=True),
        lambda saga: replace(
            saga, step_id="step_0", done={**saga.done, "step_1": DoneStep(output={"n": 1})}
        ),
        "step 'step_1' is yet to be undone and comes after step 'step_0'",
    ),
    "nothing to undo": (
        record_at(1, back=True, done=2),
        lambda saga: replace(saga, done={"step_0": saga.done["step_0"]}),
        "step 'step_1' is to be undone and has no output",
    ),
    "what may have been done, as not": (
        doubtful(),
        lambda saga: replace(saga, maybe_done={}),
        "'step_1' may have been done, and that its upcaster cannot change",
    ),
    "what may have been done, made up": (
        record_at(1),
        lambda saga: replace(saga, maybe_done={"step_0": {"n": 1}}),
        "no step may have been done, and that its upcaster cannot change",
    ),
    "what may have been done with an input of another type": (
        doubtful(),
        lambda saga: replace(saga, maybe_done={"step_1": "x"}),
        "the input of step 'step_1' is not a valid Number",
    ),
    "no mapping of what may have been done": (
        record_at(1),
        lambda saga: replace(saga, maybe_done=["step_0"]),
        "`maybe_done` must be a mapping",
    ),
    "a wait at another step": (
        record_at(1, status=SagaStatus.SUSPENDED, waiting_for="event:Paid"),
        lambda saga: replace(saga, done={}, step_id="step_0"),
        "it waits for event:Paid at step 'step_1'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_upcaster_is_refused_that_returns(name: str) -> None:
    record, change, told = REFUSED[name]
    refused(record, change, told)


def test_upcast_that_nobody_wrote_is_an_error_of_ours() -> None:
    entry = NewEntry(kind=EntryKind.UPCAST, step_id="step_1", output='{"outputs":[]}')
    record = record_at()
    forged = replace(record, outputs=(entry.as_entry(seq=2, version=2, at=NOW),))
    with pytest.raises(PayloadError, match="not one that this library wrote"):
        as_driven(forged)
    with pytest.raises(SagaDefinitionError, match="not one that this library wrote"):
        upcast(forged, lambda saga: saga)


def test_refusal_does_not_tell_payload_values() -> None:
    def change(saga: SagaInFlight) -> SagaInFlight:
        return replace(saga, step_input={"n": "4111 1111"})

    with pytest.raises(SagaDefinitionError) as error:
        upcast(record_at(), change)
    assert "4111" not in str(error.value)


def test_payload_over_the_limit_is_refused() -> None:
    registry = Registry()
    registry.add("story", OLD, version="1", max_crashes=3)
    big = lambda saga: replace(saga, initial_data="x" * 100)  # noqa: E731
    registry.add("story", NEW, version="2", max_crashes=3, upcast={"1": big})
    with pytest.raises(SagaDefinitionError, match="initial_data has 102 bytes"):
        bring_to_life(record_at(), registry, PayloadLimits(max_bytes=50, warn_bytes=50))


# --- registering ---------------------------------------------------------------------------------


def test_upcaster_of_an_unregistered_version_needs_fingerprints() -> None:
    registry = Registry()
    with pytest.raises(SagaDefinitionError, match="register that version before, or use Upcaster"):
        registry.add("story", NEW, version="2", max_crashes=3, upcast={"1": lambda saga: saga})
    assert registry.claimable == ()
    upcaster = Upcaster(lambda saga: saga, fingerprints=("a", "b"))
    registry.add("story", NEW, version="2", max_crashes=3, upcast={"1": upcaster})
    claimed = {(each.definition_version, each.fingerprint) for each in registry.claimable}
    assert claimed == {("2", NEW.fingerprint), ("1", "a"), ("1", "b")}


@pytest.mark.parametrize(
    ("upcast", "told"),
    [
        ({"2": lambda saga: saga}, "cannot be upcast to itself"),
        ({1: lambda saga: saga}, "names the version 1, which is none"),
        ({"1": 3}, "must be a plain function"),
        ({"1": _coroutine}, "must be a plain function"),
        ([], "must map versions to functions"),
    ],
)
def test_nonsense_is_refused_when_it_is_registered(upcast: Any, told: str) -> None:
    registry = Registry()
    registry.add("story", OLD, version="1", max_crashes=3)
    with pytest.raises(SagaDefinitionError, match=told):
        registry.add("story", NEW, version="2", max_crashes=3, upcast=upcast)
    assert registry.versions("story") == ("1",)


@pytest.mark.parametrize("fingerprints", ["abc", ["abc"], ("",), (1,)])
def test_fingerprints_are_a_tuple_of_strings(fingerprints: Any) -> None:
    with pytest.raises(SagaDefinitionError, match="must be a tuple of strings"):
        Upcaster(lambda saga: saga, fingerprints=fingerprints)


def test_versions_do_not_lead_in_a_circle() -> None:
    registry = Registry()
    registry.add("story", OLD, version="1", max_crashes=3)
    registry.add("story", NEW, version="2", max_crashes=3, upcast={"1": lambda saga: saga})
    third = definition(Story().step())
    registry.add("story", third, version="3", max_crashes=3, upcast={"2": lambda saga: saga})
    with pytest.raises(SagaDefinitionError, match="version '1' is upcast to version '3' already"):
        registry.add("story", OLD, version="1", max_crashes=3, upcast={"3": lambda saga: saga})


def test_last_registered_upcaster_of_a_version_counts() -> None:
    registry = Registry()
    registry.add("story", OLD, version="1", max_crashes=3)
    registry.add("story", NEW, version="2", max_crashes=3, upcast={"1": lambda saga: saga})
    third = definition(*(Story().step() for _ in range(3)), Story().final())
    registry.add("story", third, version="3", max_crashes=3, upcast={"1": lambda saga: saga})
    assert bring_to_life(record_at(), registry, LIMITS).definition is third
