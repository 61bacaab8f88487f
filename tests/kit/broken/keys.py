"""Bugs in the queues of aggregates."""

from __future__ import annotations

from tests.kit.broken.bug import Bug

__all__ = ["BUGS"]

BUGS = (
    Bug(
        "the end of a holder calls nobody",
        "_follow_up",
        "frees or ",
        "",
        "test_end_of_the_holder_makes_the_first_in_the_queue_due",
    ),
    Bug(
        "who leaves the queue calls nobody",
        "_follow_up",
        "queued or ",
        "",
        "test_saga_that_leaves_the_queue_lets_the_next_come",
    ),
    Bug(
        "who comes to a free aggregate is not called",
        "_follow_up",
        "record.state.is_queued:",
        "(record.state.is_queued and record.version > 1):",
        "test_saga_queued_for_a_free_aggregate_is_due_at_once",
    ),
    Bug(
        "the first is called whoever has the aggregate",
        "_call_next",
        " or (self.namespace, key) in self.data.aggregates",
        "",
        "test_queued_saga_takes_no_aggregate_and_is_not_due",
    ),
    Bug(
        "a saga that somebody holds is called",
        "_call_next",
        "record.worker is None and ",
        "",
        "test_queued_saga_may_be_created_with_a_lease",
    ),
    Bug(
        "a saga with a deadline is not called before it",
        "_call_next",
        "(record.due_at is None or record.due_at > now)",
        "record.due_at is None",
        "test_first_in_the_queue_is_due_before_the_time_at_which_it_is_due_anyway",
    ),
    Bug(
        "nobody is woken for the first in the queue",
        "_call_next",
        "        self._wake()\n",
        "",
        "test_first_in_the_queue_wakes",
    ),
    Bug(
        "the queue is no order",
        "_check_transition",
        "row.record.state.is_queued and after.state.active",
        "False",
        "test_nobody_takes_the_aggregate_before_the_first_in_the_queue",
    ),
    Bug(
        "a signal makes a queued saga due",
        "signal",
        " and not record.state.is_queued",
        "",
        "test_signal_to_a_queued_saga_is_kept_and_wakes_nobody",
    ),
    Bug(
        "a spawned saga is not called",
        "commit",
        "self._follow_up(self._insert(new))",
        "self._insert(new)",
        "test_spawned_saga_may_be_queued",
    ),
    Bug(
        "a restored saga is not called",
        "restore",
        "if record.state.is_queued:",
        "if False:",
        "test_queued_saga_restored_alone_is_due",
    ),
)
