"""Random calls of two workers, alone and at once, compared with the model after each step.

`SAGA_MACHINE_EXAMPLES=n` plays n runs of a new seed and shrinks what fails; a failure names the
seed, and `SAGA_MACHINE_SEED` plays it again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any, TypeVar
from uuid import UUID, uuid4

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from saga_core.errors import SagaError, SagaNotFoundError
from saga_core.records import LeaseAction, Query, SagaExport, SagaRecord, Transition
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness
from saga_testing.conformance.modelled import Saga
from saga_testing.conformance.moves import (
    KEYS,
    KINDS,
    Claim,
    Commit,
    Create,
    Move,
    Release,
    Renew,
    RepeatCommit,
    Send,
    moves,
)
from saga_testing.conformance.past import Call, Past
from saga_testing.conformance.repeatable import repeatable
from saga_testing.conformance.sagas import HOUR, entry
from saga_testing.conformance.sagas import state as state_of
from saga_testing.conformance.stage import Stage
from saga_testing.conformance.topic import Topic

__all__ = ["MachineRules", "StoreMachine", "play"]

EXAMPLES = 20
STEPS = 25
SEED = 57
"""Of the everyday run, which is the same each time."""

_T = TypeVar("_T")
_MOVES = moves()
_AT_ONCE = st.one_of(
    *(_MOVES[kind] for kind in (Commit, Commit, Claim, Claim, Renew, Release, Send, RepeatCommit))
)
_WORKER = st.integers(0, 1)
_SAGA = st.integers(0, 7)
_NAMES = tuple(kind.saga_name for kind in KINDS)
_QUERY = st.fixed_dictionaries(
    {},
    optional={
        "statuses": st.sampled_from(
            ((SagaStatus.RUNNING,), (SagaStatus.STUCK, SagaStatus.COMPLETED))
        ),
        "saga_name": st.sampled_from(_NAMES),
        "aggregation_id": st.sampled_from(KEYS),
        "tag": st.sampled_from(("red", "big")),
        "error_code": st.just("ValueError"),
        "overdue_by": st.integers(0, 2).map(lambda hours: hours * HOUR),
    },
)
_SHARES: dict[st.SearchStrategy[Any], int] = {
    **{
        st.tuples(st.just("one"), _MOVES[kind]): share
        for kind, share in (
            (Create, 3),
            (Commit, 8),
            (RepeatCommit, 3),
            (Claim, 6),
            (Renew, 1),
            (Release, 1),
            (Send, 3),
        )
    },
    st.tuples(st.just("both"), _SAGA, _AT_ONCE, _AT_ONCE): 4,
    st.tuples(st.just("create_both"), _MOVES[Create], _MOVES[Create]): 1,
    st.tuples(st.just("age"), _SAGA, st.integers(1, 3)): 4,
    st.tuples(
        st.just("purge"),
        _WORKER,
        st.integers(0, 2),
        st.integers(0, 3),
        st.booleans(),
        st.none() | st.sampled_from(_NAMES),
    ): 1,
    st.tuples(st.just("read"), _WORKER, _SAGA, st.integers(0, 3), st.integers(0, 3)): 1,
    st.tuples(
        st.just("find"), _WORKER, _QUERY, st.none() | st.integers(0, 2), st.integers(1, 3)
    ): 2,
}
"""How often each kind of step comes, beside the others."""
_STEPS = st.sampled_from([step for step, share in _SHARES.items() for _ in range(share)]).flatmap(
    lambda step: step
)


class MachineRules(Topic):
    async def test_random_calls_of_two_workers_keep_to_the_model(
        self, harness: StoreHarness
    ) -> None:
        await play(harness)


async def play(harness: StoreHarness) -> None:
    """Drive the harness's store at random. Raises what the first run raises that fails.

    Hypothesis is not asynchronous: it runs in a thread of its own, and each step of it in the
    loop that opened the store.
    """
    asked = os.environ.get("SAGA_MACHINE_EXAMPLES")
    examples = int(asked or EXAMPLES)
    number = int(os.environ.get("SAGA_MACHINE_SEED") or (random.getrandbits(32) if asked else SEED))
    replay = f"SAGA_MACHINE_EXAMPLES={examples} SAGA_MACHINE_SEED={number}"
    if asked:
        print(f"played with {replay}")  # pytest shows it with a failure
    stage = Stage(harness, asyncio.get_running_loop())

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(stage)

    how = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        derandomize=False,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if asked else (Phase.generate,),
        suppress_health_check=(HealthCheck.too_slow,),
        print_blob=False,
        report_multiple_bugs=False,
    )
    try:
        with repeatable():
            await asyncio.to_thread(run_state_machine_as_test, seed(number)(Machine), settings=how)
    except BaseException as error:
        error.add_note(f"to play it again and shrink it: {replay}")
        raise
    finally:
        await asyncio.to_thread(stage.leave)


class StoreMachine(RuleBasedStateMachine):
    """One run: an empty namespace, two handles on it, and the model of what was done."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._stores = stage.enter()
        self._past = Past()
        self._is_red = False

    def teardown(self) -> None:
        """Compare everything once more and leave nothing, unless a step was red already."""
        try:
            if not self._is_red:
                self._compare(self._past.model.sagas)
                self._end_all()
        except BaseException:
            self._is_red = True
            raise
        finally:
            if self._is_red:
                self._stage.leave()

    def _end_all(self) -> None:
        """End and purge what there is: the next run finds the namespace as this one did."""
        store, sagas = self._stores[0], self._past.model.sagas
        for saga_id, saga in sagas.items():
            if saga.state.active:
                self._run(store.commit(_end(saga_id, saga.version)))
        purged = self._run(store.purge(finished_for=timedelta(0), limit=1000))
        assert purged == len(sagas), f"of {len(sagas)} ended sagas {purged} were purged"

    # --- calls ----------------------------------------------------------------------------------

    @initialize(first=_MOVES[Create], second=_MOVES[Create])
    def begin(self, first: Create, second: Create) -> None:
        for move in (first, second):
            self._play(replace(move, how="due", key=None, again=False))

    @rule(step=_STEPS)
    def step(self, step: tuple[Any, ...]) -> None:
        """One rule for all: Hypothesis would leave whole rules out of a run, and runs are few."""
        name, *values = step
        getattr(self, name)(*values)

    def one(self, move: Move) -> None:
        """A call of one worker."""
        self._play(move)

    def both(self, saga: int, first: Move, second: Move) -> None:
        """Two calls at once, about one saga where they are about one, by a worker each."""
        self._play(_by(0, saga, first), _by(1, saga, second))

    def create_both(self, first: Create, second: Create) -> None:
        """Two sagas for one aggregate."""
        self._play(first, replace(second, worker=1 - first.worker, key=first.key))

    # --- time, and what is read -----------------------------------------------------------------

    def age(self, saga: int, hours: int) -> None:
        saga_id, known = self._past.pick(saga)
        if known is not None:
            by = hours * HOUR
            self._run(self._stage.harness.age(saga_id, by, namespace=self._stage.namespace))
            known.age(by)
            self._compare([saga_id])

    def purge(
        self, worker: int, hours: int, limit: int, restores: bool, saga_name: str | None
    ) -> None:
        """Delete what ended, and perhaps bring it back from the exports of before."""
        store, model = self._stores[worker], self._past.model
        before = {saga_id: saga for saga_id, saga in model.sagas.items() if not saga.state.active}
        exports = self._run(self._exports(before if restores else ()))
        age = hours * HOUR
        gone = self._run(store.purge(finished_for=age, limit=limit, saga_name=saga_name))
        left = {record.saga_id for record in self._listed(store, Query())}
        model.purge(age, limit, gone, left, saga_name)
        for saga_id, export in exports.items():
            if export is None or saga_id in left:
                continue
            self._run(store.restore(export))
            model.sagas[saga_id] = replace(before[saga_id], claim_id=None)
        self._compare(exports)

    def read(self, worker: int, saga: int, after: int, limit: int) -> None:
        """Read a page of the history, and the inbox from there on."""
        saga_id, known = self._past.pick(saga)
        store = self._stores[worker]
        entries = self._run(store.history(saga_id, after=after, limit=limit))
        signals = self._run(store.inbox(saga_id, after=after))
        story, inbox = ([], []) if known is None else (known.history, known.inbox)
        assert [(one.seq, one.version, one.kind) for one in entries] == [
            (seq, version, entry.kind)
            for seq, (version, _, entry) in enumerate(story, start=1)
            if after < seq <= after + limit
        ], f"history of {saga_id}, {limit} after {after}"
        assert [(one.seq, one.event_id) for one in signals] == [
            (seq, one.event_id) for seq, (one, _) in enumerate(inbox, start=1) if seq > after
        ], f"inbox of {saga_id} after {after}"

    def find(self, worker: int, query: dict[str, Any], older: int | None, limit: int) -> None:
        store, model = self._stores[worker], self._past.model
        wanted = Query(**query, limit=limit)
        if older is not None and model.sagas:
            now = self._run(store.load(next(iter(model.sagas)))).now
            wanted = replace(wanted, created_before=now - older * HOUR - HOUR / 2)
        records = self._listed(store, wanted)
        places = [(record.created_at, record.saga_id) for record in records]
        assert places == sorted(set(places)), "not by creation, oldest first, each once"
        expected = {
            saga_id
            for saga_id, saga in model.sagas.items()
            if _matches(saga, wanted)
            and (wanted.created_before is None or saga.created < -(older or 0) * HOUR - HOUR / 2)
        }
        assert {record.saga_id for record in records} == expected, "other sagas match"
        assert self._run(store.count(wanted)) == len(expected), "the count is another"
        for record in records:
            model.same_record(record, listed=True)

    # --- pieces ---------------------------------------------------------------------------------

    def _play(self, *drawn: Move) -> None:
        """Send one call, or two at once; some order of them must lead to what is there then."""
        calls = [move.call(self._past) for move in drawn]
        answers = self._run(self._send(calls))
        pairs = list(zip(calls, answers, strict=True))
        touched = {saga_id for call, answer in pairs for saga_id in call.touched(answer)}
        found = self._run(self._exports(touched))
        refused: list[AssertionError] = []
        for order in permutations(pairs):
            model = self._past.model.copy()
            try:
                for call, answer in order:
                    call.check(model, answer)
                _same(model.sagas, model.same_export, found)
            except AssertionError as error:
                refused.append(error)
            else:
                self._past.model = model
                return
        self._is_red = True
        if len(refused) == 1:
            raise refused[0]
        said = "\n".join(f"  {error}" for error in refused)
        raise AssertionError(f"no order of the two calls explains the answers {answers}:\n{said}")

    def _compare(self, saga_ids: Collection[UUID]) -> None:
        model = self._past.model
        _same(model.sagas, model.same_export, self._run(self._exports(saga_ids)))

    def _listed(self, store: SagaStore, query: Query) -> list[SagaRecord]:
        found: list[SagaRecord] = []
        while True:
            page = self._run(store.find(query))
            assert len(page.records) <= query.limit, "a page is too long"
            found += page.records
            if page.cursor is None:
                return found
            assert page.records, "an empty page has a cursor"
            query = replace(query, cursor=page.cursor)

    async def _send(self, calls: list[Call]) -> list[Any]:
        async def send(call: Call) -> Any:
            try:
                return await call.send(self._stores[call.worker])
            except SagaError as refusal:
                return refusal

        return await asyncio.gather(*(send(call) for call in calls))

    async def _exports(self, saga_ids: Collection[UUID]) -> dict[UUID, SagaExport | None]:
        found: dict[UUID, SagaExport | None] = {}
        for saga_id in saga_ids:
            try:
                found[saga_id] = await self._stores[0].export(saga_id)
            except SagaNotFoundError:
                found[saga_id] = None
        return found

    def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        try:
            return self._stage.run(call)
        except BaseException:
            self._is_red = True
            raise


def _end(saga_id: UUID, version: int) -> Transition:
    return Transition(
        saga_id=saga_id,
        expected_version=version,
        commit_id=uuid4(),
        state=state_of(SagaStatus.COMPLETED),
        lease=LeaseAction.RELEASE,
        seen=0,
        history=(entry(),),
    )


def _by(worker: int, saga: int, move: Any) -> Move:
    changes = {"worker": worker, "saga": saga}
    moved: Move = replace(
        move, **{key: value for key, value in changes.items() if key in vars(move)}
    )
    return moved


def _same(
    sagas: Collection[UUID],
    compare: Callable[[SagaExport], None],
    found: dict[UUID, SagaExport | None],
) -> None:
    for saga_id, export in found.items():
        assert (export is not None) is (saga_id in sagas), f"{saga_id} is there, or is not"
        if export is not None:
            compare(export)


def _matches(saga: Saga, query: Query) -> bool:
    overdue = query.overdue_by
    return (
        (not query.statuses or saga.state.status in query.statuses)
        and query.saga_name in (None, saga.new.saga_name)
        and query.aggregation_id in (None, saga.new.aggregation_id)
        and (query.tag is None or query.tag in saga.tags)
        and query.error_code in (None, saga.state.error_code)
        and (overdue is None or (saga.due is not None and saga.due <= -overdue))
    )
