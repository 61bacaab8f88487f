"""Bugs of `signal` and `inbox`."""

from __future__ import annotations

from tests.kit.broken.bug import Bug

__all__ = ["BUGS"]

BUGS = (
    Bug(
        "a signal disturbs the holder",
        "signal",
        "not is_held and ",
        "",
        "test_signal_does_not_disturb_the_holder",
    ),
    Bug(
        "a signal wakes a stuck saga",
        "signal",
        "waits = record.due_at is not None",
        "waits = True",
        "test_signal_is_kept_for_a_stuck_saga_and_does_not_wake_it",
    ),
    Bug(
        "a signal wakes only what has a time",
        "signal",
        " or record.state.waiting_for is not None",
        "",
        "test_signal_wakes_a_saga_that_waits_for_a_named_thing",
    ),
    Bug(
        "a signal raises the version of a waiting saga",
        "signal",
        "signals=record.signals + 1, due_at=due_at)",
        "signals=record.signals + 1, due_at=due_at, version=record.version + (not is_held))",
        "test_signal_wakes_a_waiting_saga",
    ),
    Bug(
        "event ids are not looked at",
        "signal",
        "known.event_id == signal.event_id",
        "known == signal",
        "test_known_event_id_changes_nothing",
    ),
    Bug(
        "event ids are unique within the namespace",
        "signal",
        "for known in row.inbox",
        "for other in self._rows() for known in other.inbox",
        "test_event_ids_are_unique_within_a_saga_only",
    ),
    Bug(
        "an ended saga goes on accepting",
        "signal",
        "if record.state.has_ended:",
        "if False:",
        "test_ended_saga_accepts_nothing",
    ),
    Bug(
        "the end comes before the event id",
        "signal",
        "    if any(",
        "    if record.state.active and any(",
        "test_repeated_signal_is_a_duplicate_after_the_saga_has_ended",
    ),
    Bug(
        "the receipt does not tell of the holder",
        "signal",
        "    return Receipt(accepted=True, duplicate=False, held=is_held)",
        "    return Receipt(accepted=True, duplicate=False, held=False)",
        "test_receipt_tells_whether_somebody_holds_the_saga",
    ),
    Bug(
        "a cancelled signal is in the inbox and not in the count",
        "signal",
        "    self._append_signal(row, signal, consumed=False)\n",
        "    self._append_signal(row, signal, consumed=False)\n    await asyncio.sleep(0)\n",
        "test_signals_of_many_senders_are_all_kept",
    ),
    Bug(
        "the inbox is read from the start",
        "inbox",
        "row.inbox[after:]",
        "row.inbox[:]",
        "test_inbox_is_read_on_from_a_number",
    ),
    Bug(
        "every signal is an event",
        "_append_signal",
        "kind=signal.kind",
        "kind=type(signal.kind).EVENT",
        "test_kind_of_a_signal_is_kept",
    ),
    Bug(
        "an expired lease is nobody's for a signal",
        "signal",
        "is_held = record.worker is not None",
        "is_held = record.worker is not None and record.due_at > self._now()",
        "test_signal_leaves_an_expired_lease_to_its_holder",
    ),
    Bug(
        "event ids are without case",
        "signal",
        "    record = row.record\n",
        "    record = row.record\n    signal = replace(signal, event_id=signal.event_id.lower())\n",
        "test_event_ids_are_compared_to_the_letter",
    ),
    Bug(
        "a signal has the time of the last commit",
        "_append_signal",
        "at=self._now()",
        "at=row.record.updated_at",
        "test_signal_has_the_time_at_which_it_came",
    ),
    Bug(
        "a commit takes in the first of many signals",
        "_apply",
        "in transition.signals_in:",
        "in transition.signals_in[:250]:",
        "test_inbox_is_brought_whole_however_long",
    ),
)
