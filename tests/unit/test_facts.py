"""What an entry's output is: put out by its step, or a fact about the saga."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from saga_core import SagaSnapshot
from saga_core.records import NewEntry, NewSaga, SagaRecord, SagaState
from saga_core.status import EntryKind, SagaStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def record_with(*entries: NewEntry) -> SagaRecord:
    new = NewSaga(
        saga_id=uuid4(),
        saga_name="order",
        definition_version="1",
        fingerprint="f",
        data="1",
        state=SagaState(status=SagaStatus.RUNNING, step_id="pay"),
    )
    outputs = tuple(
        entry.as_entry(seq=seq, version=1, at=NOW + timedelta(seconds=seq))
        for seq, entry in enumerate(entries, start=1)
    )
    return replace(new.as_record(now=NOW, due_at=NOW), outputs=outputs)


@pytest.mark.parametrize("kind", [EntryKind.COMPLETED, EntryKind.SKIPPED])
def test_done_and_skipped_steps_have_outputs(kind: EntryKind) -> None:
    record = record_with(NewEntry(kind=kind, step_id="pay", output="7"))
    assert SagaSnapshot.of(record).outputs == {"pay": 7}


@pytest.mark.parametrize(
    "kind",
    [kind for kind in EntryKind if kind.value not in ("completed", "skipped", "upcast", "voided")],
)
def test_output_of_any_other_entry_is_no_output_of_its_step(kind: EntryKind) -> None:
    done = NewEntry(kind=EntryKind.COMPLETED, step_id="pay", output="7")
    kin = f'"saga_id":"{uuid4()}","saga_name":"x","step_id":"pay","depth":1'
    fact = f'{{{kin},"status":"RUNNING","direction":1,"token":"{uuid4()}"}}'
    record = record_with(done, NewEntry(kind=kind, step_id="pay", output=fact))
    assert SagaSnapshot.of(record).outputs == {"pay": 7}
    assert list(record.step_outputs.values()) == [record.outputs[0]]


def test_output_that_was_voided_counts_no_more_until_the_step_is_done_again() -> None:
    done = NewEntry(kind=EntryKind.COMPLETED, step_id="pay", output="7")
    other = NewEntry(kind=EntryKind.COMPLETED, step_id="ship", output="8")
    voided = NewEntry(kind=EntryKind.VOIDED, step_id="pay", output="null")
    assert SagaSnapshot.of(record_with(done, other, voided)).outputs == {"ship": 8}
    again = NewEntry(kind=EntryKind.COMPLETED, step_id="pay", output="9")
    assert SagaSnapshot.of(record_with(done, other, voided, again)).outputs == {
        "ship": 8,
        "pay": 9,
    }
