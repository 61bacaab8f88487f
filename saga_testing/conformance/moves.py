"""What the state machine draws: one call of a worker each, told in small values that print well.

A move says which saga by a number, and what it does to the version, fence or id that is right; a
`Call` is what is sent for it, together with what the model says of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID, uuid4

from hypothesis import strategies as st

from saga_core.records import (
    Claims,
    Created,
    Held,
    Lease,
    LeaseAction,
    NewSaga,
    Registered,
    Signal,
    Transition,
)
from saga_core.status import Direction, EntryKind, SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.model import Model
from saga_testing.conformance.modelled import Saga
from saga_testing.conformance.past import Call, Past
from saga_testing.conformance.sagas import HOUR, ME, OTHER, entry, event, new_saga
from saga_testing.conformance.sagas import state as state_of

__all__ = [
    "KEYS",
    "KINDS",
    "WORKERS",
    "Claim",
    "Commit",
    "Create",
    "Move",
    "Release",
    "Renew",
    "RepeatCommit",
    "Send",
    "moves",
]

WORKERS = (ME, OTHER)
KINDS = (Registered("order", "1", "one"), Registered("refund", "2", "two"))
KEYS = ("a", "b", "c")

_worker = st.sampled_from((0, 1))
_saga = st.integers(0, 7)
_hours = st.integers(0, 3)
_at = st.none() | st.integers(0, 3)
_back = st.booleans()
_tags = st.sampled_from(((), ("red",), ("red", "big")))
_seldom = st.sampled_from((False, False, False, True))


class Move(Protocol):
    """One thing that a worker does."""

    def call(self, past: Past) -> Call:
        """Return the call that this is by now, and note it."""
        ...


@dataclass(frozen=True)
class Create:
    worker: int
    how: str
    kind: int
    key: str | None
    tags: tuple[str, ...]
    back: bool
    hours: int
    at: int | None
    again: bool

    def new(self, past: Past) -> NewSaga:
        status = {"stuck": SagaStatus.STUCK, "ended": SagaStatus.FAILED}.get(
            self.how, SagaStatus.COMPENSATING if self.back else SagaStatus.RUNNING
        )
        waiting_for = "event:paid" if self.how == "waiting" else None
        direction = Direction.ROLLBACK if self.back else Direction.FORWARD
        leased, due = self.how == "leased", past.due(self.hours, self.at)
        kind = KINDS[self.kind]
        return new_saga(
            saga_name=kind.saga_name,
            definition_version=kind.definition_version,
            fingerprint=kind.fingerprint,
            aggregation_id=self.key,
            tags=self.tags,
            state=state_of(status, direction=direction, waiting_for=waiting_for),
            lease=Lease(WORKERS[self.worker], HOUR) if leased else None,
            due=due if self.how == "due" else None,
            trace_id=self.key,
            history=(entry(),) if self.back else (),
        )

    def child(self, parent: UUID, past: Past) -> NewSaga:
        """Return a saga to be spawned: one that is there already stays as it is."""
        others = [saga_id for saga_id in past.model.sagas if saga_id != parent]
        known = self.again and others and self.how != "stranded"
        return replace(self.new(past), saga_id=others[-1]) if known else self.new(past)

    def call(self, past: Past) -> Call:
        new = self.new(past)
        if self.again and past.sagas:
            new = replace(new, saga_id=past.sagas[-1].saga_id)
        else:
            past.sagas.append(new)

        async def send(store: SagaStore) -> Created:
            return await store.create(new)

        return Call(
            self.worker, send, lambda model, answer: model.create(new, answer), _only(new.saga_id)
        )


@dataclass(frozen=True)
class Commit:
    worker: int
    saga: int
    late: int
    lease: str
    status: SagaStatus
    back: bool
    hours: int
    at: int | None
    due: bool
    waits: bool
    unseen: bool
    arrives: str
    consumes: bool
    tags: tuple[str, ...] | None
    spawns: Create | None

    def call(self, past: Past) -> Call:
        saga_id, saga = past.pick(self.saga)
        known = [] if saga is None else [signal.event_id for signal, _ in saga.inbox]
        arrived: tuple[Signal, ...] = ()
        if self.arrives:
            again = self.arrives == "again" and known
            arrived = (event(known[0] if again else None),)
        mine, theirs = WORKERS[self.worker], WORKERS[1 - self.worker]
        hours = self.hours * HOUR
        leases: dict[str, LeaseAction | Lease] = {
            "keep": LeaseAction.KEEP,
            "release": LeaseAction.RELEASE,
            "mine": Lease(mine, hours),
            "theirs": Lease(theirs, hours),
        }
        spawned = () if self.spawns is None else (self.spawns.child(saga_id, past),)
        past.sagas += spawned
        sent = Transition(
            saga_id=saga_id,
            expected_version=(1 if saga is None else saga.version) - self.late,
            commit_id=uuid4(),
            state=state_of(
                self.status,
                direction=Direction.ROLLBACK if self.back else Direction.FORWARD,
                waiting_for="event:paid" if self.waits else None,
                generation=self.hours,
                error_code="ValueError" if self.status is SagaStatus.STUCK else None,
            ),
            lease=leases[self.lease],
            due=past.due(self.hours, self.at) if self.due else None,
            seen=0 if saga is None or self.unseen else len(saga.inbox),
            history=(entry(), entry(EntryKind.RETRYING))[: 1 + self.back],
            signals_in=arrived,
            consumed=tuple(known[:1]) if self.consumes else (),
            spawn=spawned,
            tags=self.tags,
        )
        past.commits.append(sent)
        return _commit(self.worker, sent)


@dataclass(frozen=True)
class RepeatCommit:
    """The same commit again, perhaps by the other worker's handle, of all so far."""

    worker: int
    number: int

    def call(self, past: Past) -> Call:
        if not past.commits:
            return Renew(self.worker, 0, 0, 0).call(past)
        return _commit(self.worker, past.commits[-1 - self.number % len(past.commits)])


@dataclass(frozen=True)
class Claim:
    worker: int
    limit: int
    only: tuple[int, ...]
    favour: Direction
    hours: int
    repeats: bool

    def call(self, past: Past) -> Call:
        asked: dict[str, Any] = {
            "claim_id": uuid4(),
            "limit": self.limit,
            "lease": self.hours * HOUR,
            "only": tuple(KINDS[number] for number in self.only),
            "favour": self.favour,
        }
        before = [one for worker, one in past.claims if worker == self.worker]
        if self.repeats and before:
            asked = before[-1]
        else:
            past.claims.append((self.worker, asked))
        worker = WORKERS[self.worker]

        async def send(store: SagaStore) -> Claims:
            return await store.claim_due(worker, **asked)

        def check(model: Model, answer: Any) -> None:
            assert isinstance(answer, Claims), f"a claim was refused: {answer!r}"
            model.claim(worker, **asked, answer=answer)

        def touched(answer: Any) -> Collection[UUID]:
            return {record.saga_id for record in getattr(answer, "records", ())}

        return Call(self.worker, send, check, touched)


@dataclass(frozen=True)
class Renew:
    worker: int
    saga: int
    late: int
    hours: int

    def call(self, past: Past) -> Call:
        saga_id, saga = past.pick(self.saga)
        worker, held = WORKERS[self.worker], _held(saga_id, saga, self.late)

        async def send(store: SagaStore) -> Any:
            return await store.renew(worker, held, self.hours * HOUR)

        def check(model: Model, answer: Any) -> None:
            model.renew(worker, held, self.hours * HOUR, answer)

        return Call(self.worker, send, check, _only(saga_id))


@dataclass(frozen=True)
class Release:
    worker: int
    saga: int
    late: int
    hours: int

    def call(self, past: Past) -> Call:
        saga_id, saga = past.pick(self.saga)
        worker, held = WORKERS[self.worker], _held(saga_id, saga, self.late)

        async def send(store: SagaStore) -> None:
            await store.release(worker, held, delay=self.hours * HOUR)

        def check(model: Model, answer: Any) -> None:
            assert answer is None, f"a release was refused: {answer!r}"
            model.release(worker, held, self.hours * HOUR)

        return Call(self.worker, send, check, _only(saga_id))


@dataclass(frozen=True)
class Send:
    """A signal, now and then one that came before."""

    worker: int
    saga: int
    again: bool

    def call(self, past: Past) -> Call:
        saga_id, saga = past.pick(self.saga)
        known = [] if saga is None else [one.event_id for one, _ in saga.inbox]
        sent = event(known[-1] if self.again and known else None, f'{{"n":{len(known)}}}')

        async def send(store: SagaStore) -> Any:
            return await store.signal(saga_id, sent)

        return Call(
            self.worker,
            send,
            lambda model, answer: model.signal(saga_id, sent, answer),
            _only(saga_id),
        )


def moves() -> dict[type, st.SearchStrategy[Any]]:
    """Return how each kind of move is drawn."""
    hows = (*("leased", "due") * 4, "waiting", "waiting", "stuck", "ended", "stranded")
    create = st.builds(
        Create,
        worker=_worker,
        how=st.sampled_from(hows),
        kind=_worker,
        key=st.sampled_from((None, None, *KEYS)),
        tags=_tags,
        back=_back,
        hours=_hours,
        at=_at,
        again=_seldom,
    )
    late = st.sampled_from((0, 0, 0, 0, 1, -1))
    commit = st.builds(
        Commit,
        worker=_worker,
        saga=_saga,
        late=late,
        lease=st.sampled_from(("keep", "release", "release", "mine", "theirs")),
        status=st.sampled_from((*SagaStatus, *(SagaStatus.RUNNING, SagaStatus.SUSPENDED) * 3)),
        back=_back,
        hours=_hours,
        at=_at,
        due=st.booleans(),
        waits=_seldom,
        unseen=_seldom,
        arrives=st.sampled_from(("", "", "", "new", "again")),
        consumes=st.booleans(),
        tags=st.none() | _tags,
        spawns=st.none() | st.none() | create,
    )
    only = st.sampled_from(((0, 1), (0, 1), (0,), (1,)))
    claim = st.builds(
        Claim,
        worker=_worker,
        limit=st.integers(1, 3),
        only=only,
        favour=st.sampled_from(Direction),
        hours=st.integers(1, 3),
        repeats=_seldom,
    )
    held = {"worker": _worker, "saga": _saga, "late": late, "hours": _hours}
    return {
        Create: create,
        Commit: commit,
        RepeatCommit: st.builds(RepeatCommit, worker=_worker, number=st.integers(0, 3)),
        Claim: claim,
        Renew: st.builds(Renew, **held),
        Release: st.builds(Release, **held),
        Send: st.builds(Send, worker=_worker, saga=_saga, again=_seldom),
    }


def _commit(worker: int, sent: Transition) -> Call:
    async def send(store: SagaStore) -> Any:
        return await store.commit(sent)

    touched = (sent.saga_id, *(new.saga_id for new in sent.spawn))
    return Call(worker, send, lambda model, answer: model.commit(sent, answer), _only(*touched))


def _held(saga_id: UUID, saga: Saga | None, late: int) -> tuple[Held, ...]:
    return (Held(uuid4(), 1), Held(saga_id, (1 if saga is None else saga.fence) - late))


def _only(*saga_ids: UUID) -> Callable[[Any], Collection[UUID]]:
    return lambda answer: saga_ids
