"""The judge of hooks: which part of a history is about one, and whether an end came without it.

What is left of a commit is for `course` or `fleet`: to them a saga has ended as soon as its end is
decided, and its hook is nothing that it does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from saga_core.records import NewEntry, NewSaga, SagaState, Transition
from saga_core.status import Direction, EntryKind, Hook, SagaStatus
from tests.campaign.ledger import Rang
from tests.campaign.plan import Outcome, SagaPlan

__all__ = ["Bells", "Part"]

HOOKS = frozenset(hook.value for hook in Hook)

_ENDS = (SagaStatus.STUCK, SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED)

_TURNS = (
    EntryKind.COMPENSATION_REQUESTED,
    EntryKind.COMPENSATION_SKIPPED,
    EntryKind.WENT_BACK,
    EntryKind.MAYBE_DONE,
    EntryKind.ABORTED,
)
"""With these a person takes a saga that is about to be STUCK out of its hook."""

_OVER = (EntryKind.HOOK_DONE, EntryKind.HOOK_SKIPPED, EntryKind.ABORTED)


@dataclass(frozen=True, slots=True)
class Part:
    """What of a commit is about the saga itself."""

    history: tuple[NewEntry, ...]
    state: SagaState | None
    """Where it is left but for a hook; None if only a hook goes on."""


class Bells:
    """Follows the hooks of a saga."""

    def __init__(self, plan: SagaPlan) -> None:
        self._wanted = plan.hooks is not None
        self.inside = False
        """Whether the saga is in a hook."""
        self._pending: SagaStatus | None = None
        self._endings = 0
        self._keys: dict[str, int] = {}
        self._rung: dict[int, tuple[str, int, str]] = {}
        """By serial, the hooks that have run: the worker, its fence, the hook."""
        self._used: set[int] = set()
        self.outcomes: dict[int, Outcome | None] = {}

    def rings(self, rang: Rang, state: SagaState | None, *, rightful: bool) -> Iterator[str]:
        """Judge a hook that is entered. `state` is what is on record."""
        self._rung[rang.serial] = (rang.worker, rang.fence, rang.hook)
        if not rightful:
            return
        if state is None or state.step_id != rang.hook or not self.inside:
            yield f"the hook {rang.hook} ran, and was not on record"
        if self._keys.setdefault(rang.key, self._endings) != self._endings:
            yield f"two ends were told of with one idempotency key, {rang.key}"

    def parts(self, request: NewSaga | Transition, worker: str, fence: int) -> Iterator[str | Part]:
        """Judge what a commit says of hooks, and yield the rest."""
        history: list[NewEntry] = []
        over, pretended = False, None
        was_inside = self.inside
        for entry in request.history:
            if entry.kind is EntryKind.ENDING:
                fact = json.loads(entry.output or "{}")
                self._endings += not fact.get("again")
                pretended = None if self.inside else _state(fact)
                self._pending = SagaStatus(fact["status"])
                self.inside = True
            elif self.inside and entry.step_id in HOOKS:
                over = over or entry.kind in _OVER
                if entry.kind is EntryKind.HOOK_DONE:
                    yield from self._done(entry, worker, fence)
            else:
                if self.inside and entry.kind in _TURNS:
                    self.inside, pretended = False, None
                history.append(entry)
        state = request.state
        if state.step_id in HOOKS:
            yield Part(tuple(history), pretended)
            return
        if self.inside and not over:
            yield f"the saga was left {state.status} in the midst of its hook"
        if self.inside and over and state.status is not self._pending:
            yield f"the saga was left {state.status}, it was about to be {self._pending}"
        told = self.inside and over
        if self._wanted and state.status in _ENDS and not told and not _rests_on(request):
            yield f"the saga was left {state.status}, and its hook had not run"
        self.inside = False
        yield Part(tuple(history), None if was_inside and told and not history else state)

    def _done(self, entry: NewEntry, worker: str, fence: int) -> Iterator[str]:
        for serial, (who, under, hook) in self._rung.items():
            mine = (who, under, hook) == (worker, fence, entry.step_id)
            well = self.outcomes.get(serial) is Outcome.OK and serial not in self._used
            if mine and well:
                self._used.add(serial)
                return
        yield f"the hook {entry.step_id} is said to be done, which it was not"


def _rests_on(request: NewSaga | Transition) -> bool:
    """Tell whether a commit only says something of a saga that had ended before."""
    told = (EntryKind.COMMAND_IGNORED, EntryKind.DEADLINE)
    return all(entry.kind in told for entry in request.history)


def _state(fact: dict[str, object]) -> SagaState:
    texts = {name: fact.get(name) for name in ("step_id", "waiting_for", "last_error")}
    attempt = fact["attempt"]
    assert isinstance(attempt, int)
    return SagaState(
        status=SagaStatus(str(fact["status"])),
        direction=Direction(int(str(fact["direction"]))),
        active=bool(fact["active"]),
        attempt=attempt,
        **texts,  # type: ignore[arg-type]
    )
