"""What a saga's steps have put out, and all that a rollback has to undo of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from saga_core.child import ParentLink
from saga_core.happening import Recorded
from saga_core.pending import PendingEnd
from saga_core.records import NewEntry, SagaState
from saga_core.status import EntryKind

__all__ = ["Outputs", "Thing", "thing_of"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One time that a step was done, or may have been."""

    step_id: str
    number: int
    """How often the step was done before, with what counts no more."""
    recorded: Recorded


class Outputs(dict[str, Recorded]):
    """What counts of each step, by step id; a saga that went back has done more than that."""

    def __init__(self, entries: Iterable[NewEntry] = ()) -> None:
        super().__init__()
        self.things: list[Thing] = []
        """All that was done, oldest first, also what counts no more."""
        self.went_back = False
        """Whether some of it counts no more."""
        self._newest: dict[str, int] = {}
        self._ends: tuple[NewEntry, ...] = ()
        self._parent: NewEntry | None = None
        self._children: tuple[NewEntry, ...] = ()
        self.hear(entries)

    def __setitem__(self, step_id: str, recorded: Recorded) -> None:
        if step_id in self:
            # The same thing, told in other words.
            at = self._newest[step_id]
            self.things[at] = Thing(step_id, self.things[at].number, recorded)
        else:
            number = self.times(step_id)
            self._newest[step_id] = len(self.things)
            self.things.append(Thing(step_id, number, recorded))
        super().__setitem__(step_id, recorded)

    def hear(self, entries: Iterable[NewEntry]) -> None:
        """Follow the entries of a history, in their order."""
        for entry in entries:
            if entry.step_id is None:
                if entry.kind is EntryKind.PARENT:
                    self._parent = entry
                continue
            if entry.kind is EntryKind.VOIDED:
                self.went_back = True
                self.pop(entry.step_id, None)
                continue
            if entry.kind is EntryKind.CHILD:
                self._children += (entry,)
                continue
            if entry.kind is EntryKind.ENDING:
                self._ends += (entry,)
                continue
            recorded = Recorded.of(entry)
            if recorded is None:
                continue
            if entry.kind is EntryKind.COMPLETED and recorded == self.get(entry.step_id):
                continue  # a driver has assumed it before it was on record
            at = self._asked_for(entry) if entry.kind is EntryKind.PROBED else None
            if at is None or self.things[at].recorded is self.get(entry.step_id):
                self[entry.step_id] = recorded
            else:
                self.things[at] = Thing(entry.step_id, self.things[at].number, recorded)

    def forget(self, step_id: str) -> None:
        """Take back what was assumed last of a step."""
        if self.pop(step_id, None) is None:
            return
        del self.things[self._newest.pop(step_id)]
        self._newest = {thing.step_id: at for at, thing in enumerate(self.things)}

    def after(self, entries: Iterable[NewEntry]) -> Outputs:
        """Return what they are once more entries are on record."""
        later = Outputs()
        later._copy(self)
        later.hear(entries)
        return later

    def _copy(self, other: Outputs) -> None:
        self.update(other)
        self.things = list(other.things)
        self.went_back = other.went_back
        self._newest = dict(other._newest)
        self._ends = other._ends
        self._parent = other._parent
        self._children = other._children

    def times(self, step_id: str) -> int:
        """Return how often a step was done."""
        at = self._newest.get(step_id)
        return 0 if at is None else self.things[at].number + 1

    @property
    def parent(self) -> ParentLink | None:
        """Who has started the saga, if another one has."""
        return None if self._parent is None else ParentLink.decode(self._parent.output or "")

    def has_started(self, child_id: UUID) -> bool:
        """Tell whether a child saga was created."""
        return any(str(child_id) in (each.output or "") for each in self._children)

    @property
    def pending(self) -> PendingEnd | None:
        """The end that the saga has come to last, recorded by now or not."""
        return PendingEnd.decode(self._ends[-1].output or "") if self._ends else None

    def times_ended(self, hook: str) -> int:
        """Return how often a hook has begun."""
        ends = (PendingEnd.decode(each.output or "") for each in self._ends)
        return sum(end.hook == hook and not end.again for end in ends)

    def _asked_for(self, entry: NewEntry) -> int | None:
        """Return where that is which a probe has found: the newest with the input it was asked for.

        Newer ones with another input were not done, which leaves them as they are.
        """
        for at in range(len(self.things) - 1, -1, -1):
            thing = self.things[at]
            asked = thing.step_id == entry.step_id and thing.recorded.input == entry.input
            if asked and thing.recorded.maybe:
                return at
        return None


def thing_of(outputs: Mapping[str, Recorded], state: SagaState) -> Recorded:
    """Return what a saga in its rollback is about to undo."""
    step_id = state.step_id or ""
    if isinstance(outputs, Outputs) and outputs.went_back:
        for thing in outputs.things:
            if (thing.step_id, thing.number) == (step_id, state.generation):
                return thing.recorded
    return outputs[step_id]
