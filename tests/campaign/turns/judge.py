"""What must hold whatever befalls a queue, told from the outside alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from saga_core import ActiveSagaAlreadyExistsError, StoreUnavailableError
from saga_core.records import Claims, NewSaga, Transition
from saga_core.status import EntryKind
from tests.campaign.ledger import Asked, Began, Call, Crashed, Endless, Replied
from tests.campaign.turns.cast import HOOK
from tests.campaign.turns.line import QueueLine
from tests.campaign.turns.plan import Member
from tests.campaign.turns.world import STARTING, Seen, TurnLedger

__all__ = ["judge", "tally"]


def judge(ledger: TurnLedger) -> list[str]:
    """Return what is wrong with what happened, a sentence each."""
    trial = _Trial(ledger)
    said = list(trial.said())
    return said + list(_wrong_in_the_end(ledger, trial.queue))


def tally(ledger: TurnLedger) -> Counter[str]:
    """Count what was met."""
    trial = _Trial(ledger)
    for _ in trial.said():
        pass
    return trial.met


class _Trial:
    """One reading of what happened, in its order."""

    def __init__(self, ledger: TurnLedger) -> None:
        self._ledger = ledger
        self._names = {saga_id: f"saga {n}" for n, saga_id in enumerate(ledger.members)}
        self._ids = list(ledger.members)
        self.queue = QueueLine()
        self.met: Counter[str] = Counter()
        self._asked: dict[int, Asked] = {}
        self._refused: dict[tuple[str, UUID], UUID | None] = {}
        """By worker and saga, who had the aggregate when the start was refused last."""
        self._given_back: set[UUID] = set()
        """What workers have claimed and given back: it is looked at, may it begin or not."""

    def said(self) -> Iterator[str]:
        freed_by: str | None = None
        for happening in self._ledger.happenings:
            match happening:
                case Call():
                    queued, active = self.queue.queued, self.queue.active
                    yield from self._call(happening)
                    freed = bool(active and queued and not self.queue.active)
                    freed_by = happening.worker if freed else None
                    if freed and not happening.heard:
                        self.met["freeing commits not heard"] += 1
                case Crashed(worker):
                    if worker == freed_by:
                        self.met["crashes right after a freeing commit"] += 1
                case Seen():
                    yield from self._seen(happening)
                case Began():
                    yield from self._began(happening)
                case Asked():
                    self._asked[happening.number] = happening
                case Replied():
                    yield from self._replied(happening)
                case Endless():
                    yield "the queue is never worked off"
                case _:
                    pass

    def _name(self, saga_id: UUID | None) -> str:
        return "nobody" if saga_id is None else self._names.get(saga_id, "an unknown saga")

    # --- calls ----------------------------------------------------------------------------------

    def _call(self, call: Call) -> Iterator[str]:
        if isinstance(call.error, ActiveSagaAlreadyExistsError):
            yield from self._refusal(call, call.error)
        request = call.request
        if isinstance(call.answer, Claims):
            for record in call.answer.records:
                self._given_back.discard(record.saga_id)
                if record.reclaimed and record.state.active:
                    self.met["takeovers of the holder"] += 1
                elif record.reclaimed and record.state.is_queued:
                    self.met["takeovers in the queue"] += 1
        if call.method == "release" and call.error is None:
            self._given_back |= {one.saga_id for one in request[0]}
        before = dict(self.queue.states)
        queued, active = self.queue.queued, self.queue.active
        written = self.queue.follow(call)
        if written is None:
            return
        self._given_back.discard(written)
        was, now = before.get(written), self.queue.states[written]
        who = self._name(written)
        if len(self.queue.active) > 1:
            names = " and ".join(self._name(one) for one in self.queue.active)
            yield f"{names} are active at one time"
        if isinstance(request, NewSaga):
            member = self._ledger.members.get(written)
            if member is not None and now.is_queued != (member.on_conflict == "queue"):
                yield f"{who}, started with {member.on_conflict}, was created {now.status}"
            if now.is_queued and (active or queued):
                self.met["queued"] += 1
        if was is None:
            return
        if was.is_queued and now.active:
            self.met["admitted"] += 1
            if queued[0] != written:
                yield f"{who} took the aggregate before {self._name(queued[0])}"
        elif was.is_queued and not now.is_queued:
            self.met[f"{now.status} in the queue"] += 1
        elif was.has_ended and now.active:
            self.met["revived"] += 1
        elif was.active and not now.active and queued:
            self.met[f"turn passed after {now.status}"] += 1
            if not now.has_ended:
                yield f"{who} gave the aggregate up and has not ended"

    def _refusal(self, call: Call, error: ActiveSagaAlreadyExistsError) -> Iterator[str]:
        request = call.request
        if not isinstance(request, NewSaga | Transition):
            return
        who, active, queued = self._name(request.saga_id), self.queue.active, self.queue.queued
        state = self.queue.states.get(request.saga_id)
        before = [one for one in active if one != request.saga_id]
        if not before and state is not None and state.is_queued and queued[0] != request.saga_id:
            before = queued[:1]
        if isinstance(request, NewSaga):
            self._refused[call.worker, request.saga_id] = error.saga_id
            self.met["starts refused"] += 1
            if request.state.is_queued:
                yield f"{who} was refused a place in the queue"
        if not before:
            yield f"{who} was refused an aggregate that was free"
        elif error.saga_id != before[0]:
            yield (
                f"{who} was told that {self._name(error.saga_id)} has the aggregate, "
                f"and it is {self._name(before[0])}"
            )

    # --- the queue of an aggregate that is free -------------------------------------------------

    def _seen(self, seen: Seen) -> Iterator[str]:
        first, *others = seen.records
        called = first.worker is not None or (
            first.due_at is not None and first.due_at <= first.now
        )
        if not called:
            yield f"the aggregate is free, and {self._name(first.saga_id)}, the first, is not due"
        for record in others:
            # Somebody looks at what was sent to it, or at what was given back.
            looked_at = record.saga_id in self._given_back or record.signals > record.seen
            if record.worker is None and record.due_at is not None and not looked_at:
                yield f"{self._name(record.saga_id)} is due, and it is not its turn"

    # --- steps and replies ----------------------------------------------------------------------

    def _began(self, began: Began) -> Iterator[str]:
        saga_id = began.context.saga_id
        if began.step == HOOK:
            self.met["hooks"] += 1
            return
        state = self.queue.states.get(saga_id)
        if state is None or not state.active:
            holder = self._name(next(iter(self.queue.active), None))
            yield (f"{began.what} of {self._name(saga_id)} began while {holder} had the aggregate")

    def _replied(self, reply: Replied) -> Iterator[str]:
        asked = self._asked[reply.number]
        if asked.what != STARTING or asked.step is None:
            self.met[f"{asked.what} {'refused' if reply.error else 'granted'}"] += 1
            return
        saga_id = self._ids[asked.step]
        member: Member = self._ledger.members[saga_id]
        who = self._name(saga_id)
        refused = self._refused.pop((asked.worker, saga_id), None)
        if isinstance(reply.error, StoreUnavailableError):
            return
        if isinstance(reply.error, ActiveSagaAlreadyExistsError):
            self.met["starts that raised"] += 1
            if member.on_conflict != "raise":
                yield f"the start of {who} raised, and was to {member.on_conflict}"
            if reply.error.saga_id != refused:
                yield f"the start of {who} named {self._name(reply.error.saga_id)}"
        elif reply.error is not None:
            yield f"the start of {who} raised {reply.error!r}"
        elif reply.answer != saga_id:
            self.met["starts that returned another"] += 1
            if member.on_conflict != "return":
                yield f"the start of {who} returned {self._name(reply.answer)}"
            if reply.answer != refused:
                yield f"the start of {who} returned {self._name(reply.answer)} by mistake"
        elif saga_id not in self.queue.states:
            yield f"the start of {who} returned its id, and it was never written"


def _wrong_in_the_end(ledger: TurnLedger, queue: QueueLine) -> Iterator[str]:
    names = {saga_id: f"saga {n}" for n, saga_id in enumerate(ledger.members)}
    for saga_id, member in ledger.members.items():
        if member.on_conflict == "queue" and saga_id not in queue.states:
            yield f"{names[saga_id]} was to queue, and was never written"
    for saga_id in ledger.records.keys() - queue.states.keys():
        yield f"{names.get(saga_id, 'an unknown saga')} is in the store, and nobody wrote it"
    for saga_id, state in queue.states.items():
        record = ledger.records.get(saga_id)
        if record is None:
            yield f"{names[saga_id]} is gone"
            continue
        if record.state != state:
            yield f"{names[saga_id]} is not as it was written last"
        if not record.state.has_ended:
            yield f"{names[saga_id]} was forgotten as {record.state.status}"
        began = [one.kind for one in ledger.histories[saga_id]].count(EntryKind.ADMITTED)
        if began > 1:
            yield f"{names[saga_id]} was admitted {began} times"
    created = [ledger.records[one].created_at for one in queue.states if one in ledger.records]
    if created != sorted(created):
        yield "the sagas are not on record in the order of their starts"
