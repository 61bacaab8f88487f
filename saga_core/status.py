"""The words for where a saga stands."""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = [
    "ACTIVE",
    "ENDED",
    "END_HOOKS",
    "Direction",
    "EntryKind",
    "Hook",
    "SagaStatus",
    "SignalKind",
]


class SagaStatus(StrEnum):
    """Where a saga stands, as its store holds it.

    Terminal: `COMPLETED`, `COMPENSATED`, `FAILED`. Active, and so holding its aggregate id: all
    others.
    """

    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    """Forward work waits: for a retry, a time or an event."""
    COMPENSATING = "COMPENSATING"
    """The rollback has begun and not ended, its waits included."""
    STUCK = "STUCK"
    """Needs a person; `last_error` says why."""
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED})
ACTIVE = tuple(status for status in SagaStatus if not status.is_terminal)
ENDED = tuple(status for status in SagaStatus if status.is_terminal)


class Direction(IntEnum):
    """Which way a saga goes. The number is also its lane in `WorkQueue.claim_due`."""

    ROLLBACK = 0
    FORWARD = 1


class Hook(StrEnum):
    """What runs before a saga's first step, or before its end is recorded: also the step's id."""

    ON_START = "on_start"
    ON_COMPLETED = "on_completed"
    ON_COMPENSATED = "on_compensated"
    ON_FAILED = "on_failed"
    ON_STUCK = "on_stuck"
    TELL_PARENT = "@parent"
    """Made by the engine: a child tells its parent, after its own hook."""

    @classmethod
    def of(cls, status: SagaStatus) -> Hook:
        """Return the hook of an end."""
        return _HOOKS[status]


_HOOKS = {
    SagaStatus.COMPLETED: Hook.ON_COMPLETED,
    SagaStatus.COMPENSATED: Hook.ON_COMPENSATED,
    SagaStatus.FAILED: Hook.ON_FAILED,
    SagaStatus.STUCK: Hook.ON_STUCK,
}


END_HOOKS = frozenset[str | None](Hook) - {Hook.ON_START}
"""Where a saga is that has come to its end and has not recorded it."""


class EntryKind(StrEnum):
    """What one entry of a saga's history tells."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The step failed for good."""
    RETRYING = "retrying"
    """An attempt failed and another will follow."""
    SKIPPED = "skipped"
    WAITING = "waiting"
    """The step rests until an event or a time; the entry's output says for what, as JSON."""
    WOKEN = "woken"
    """What the step waits for came while its wait was being written."""
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    """The compensation failed for good; the saga is STUCK."""
    COMPENSATION_RETRYING = "compensation_retrying"
    COMPENSATION_SKIPPED = "compensation_skipped"
    """A person let the rollback go on without it. Has an output, so that it is not forgotten."""
    MAYBE_DONE = "maybe_done"
    """The rollback begins with a step that may have been done; its output tells how to ask."""
    PROBED = "probed"
    """A probe answered: with the step's output, or without one if the step had not been done."""
    EVENT = "event"
    """`notify` was accepted."""
    SUSPECTED = "suspected"
    """Workers were lost with it; from here on it is driven apart from other suspects."""
    STUCK = "stuck"
    RETRY_REQUESTED = "retry_requested"
    COMPENSATION_REQUESTED = "compensation_requested"
    INPUT_EDITED = "input_edited"
    """A person gave the step another input, with which it is tried anew."""
    WENT_BACK = "went_back"
    """A person let the saga go on from this step once more."""
    VOIDED = "voided"
    """What the step has put out counts no more; a rollback undoes it still. Has an output."""
    PAUSED = "paused"
    """A person lets it rest; the entry's output says how it goes on afterwards, as JSON."""
    RESUMED = "resumed"
    ABORTED = "aborted"
    REVIVED = "revived"
    """A person brought a FAILED saga back; it holds its aggregate id again."""
    SCHEDULED = "scheduled"
    """The saga is to begin later; when, `output` says."""
    QUEUED = "queued"
    """The saga waits until it is the first of those that wait for its aggregate id."""
    ADMITTED = "admitted"
    """The turn of a queued saga has come: it holds its aggregate id."""
    BEGUN = "begun"
    """The time of a saga that was to begin later has come."""
    DEADLINE = "deadline"
    """The saga has a deadline, or has none any more; `output` says."""
    COMMAND_IGNORED = "command_ignored"
    """A command reached a saga whose state no longer allowed it."""
    ENDING = "ending"
    """The saga has come to its end, which is recorded after a hook; the output says which end."""
    PARENT = "parent"
    """The saga was started by a step of another; the output says by which."""
    CHILD = "child"
    """The step has started another saga; the output says which."""
    HOOK_DONE = "hook_done"
    HOOK_SKIPPED = "hook_skipped"
    """A person let the saga go on without it."""
    BRANCH = "branch"
    """Where a step of a parallel saga stands since; the entry's output says, as JSON."""
    UPCAST = "upcast"
    """The saga was moved to another version of its definition; the entry's output says how."""

    @property
    def is_step_output(self) -> bool:
        """Whether an entry's output is what its step has put out, not a fact about the saga."""
        return self in _STEP_OUTPUTS


_STEP_OUTPUTS = frozenset({EntryKind.COMPLETED, EntryKind.SKIPPED})


class SignalKind(StrEnum):
    """What lies in a saga's inbox."""

    EVENT = "event"
    """What `notify` brought."""
    TYPED_EVENT = "typed_event"
    """An event with its type, kept until a wait that it fits."""
    ABORT = "abort"
    COMPENSATE = "compensate"
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SKIP_COMPENSATION = "skip_compensation"
    RETRY_FROM = "retry_from"
    EDIT_INPUT = "edit_input"
    RECALL = "recall"
    """A child is to be rolled back, because its parent is."""
