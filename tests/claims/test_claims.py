"""Many worker processes on one store: no saga is claimed twice under one fence, none is left.

The everyday form is small. The full one, 1,000 sagas and 16 processes (8 on one SQLite file):

    SAGA_CAMPAIGN=full python -m pytest -s tests/claims
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from saga_core import Query, SagaStatus, SagaStore
from saga_core.records import SagaRecord
from saga_testing.ending import end_of
from saga_testing.servers import PostgresqlServer, RedisServer
from tests.claims.evidence import Deed, Line, read, repeated_steps, takeovers, wrongs
from tests.claims.workforce import (
    BEGIN,
    END,
    GO_ON,
    NAME,
    STEPS,
    Post,
    Store,
    opened,
    orchestrator_of,
    work,
)

FULL = os.environ.get("SAGA_CAMPAIGN") == "full"
SAGAS = 1000 if FULL else 150
PATIENCE = 300.0 if FULL else 60.0
LONG = timedelta(minutes=5)
"""No lease runs out while all are well: whatever a process claims is claimed once."""
SHORT = timedelta(seconds=2)
DEATHS = (("claimed", 1), ("begun", 2), ("ended", 2), ("begun", 5), ("ended", 5), ("claimed", 3))
"""How the processes that die do so."""
ON_ONE_FILE = ("sqlite", "sql-sqlite")
AT_REST = (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED, SagaStatus.STUCK)
MOST_EXTRA = 2000
"""Sagas started beyond the first, so that those that are to die find something to do."""

_processes = multiprocessing.get_context("forkserver")


@pytest.fixture(params=["sqlite", "postgresql", "redis", "sql-postgresql", "sql-sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    namespace = f"claims_{uuid4().hex[:12]}"
    if request.param in ON_ONE_FILE:
        return Store(request.param, f"sqlite:///{tmp_path / 'sagas.db'}", namespace)
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        return Store("redis", redis.url, namespace)
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return Store(request.param, server.url, namespace)


def size_of(place: Store) -> int:
    """Return how many processes work on it: writers of one SQLite file wait for each other."""
    if FULL:
        return 8 if place.kind in ON_ONE_FILE else 16
    return 4 if place.kind in ON_ONE_FILE else 6


@dataclass(frozen=True)
class Hand:
    """A process at work, and the line to it."""

    post: Post
    process: ForkServerProcess
    line: Connection

    @property
    def died(self) -> bool:
        return self.process.exitcode is not None

    def say(self, word: str) -> None:
        with suppress(BrokenPipeError):  # it is one of those that die
            self.line.send(word)

    async def hear(self) -> None:
        assert await asyncio.to_thread(self.line.poll, PATIENCE), "a process is silent"
        self.line.recv()


@asynccontextmanager
async def at_work(posts: Sequence[Post]) -> AsyncIterator[list[Hand]]:
    """Start the processes, let them begin together, and end them."""
    hands = []
    try:
        for post in posts:
            ours, theirs = _processes.Pipe()
            process = _processes.Process(target=work, args=(post, theirs))
            process.start()
            theirs.close()
            hands.append(Hand(post, process, ours))
        for hand in hands:
            await hand.hear()
        for hand in hands:
            hand.say(BEGIN)
        yield hands
        for hand in hands:
            hand.say(END)
        for hand in hands:
            await end_of(hand.process, PATIENCE)
    finally:
        for hand in hands:
            if not hand.died:
                hand.process.kill()
            hand.process.join()


async def start(store: SagaStore, count: int) -> None:
    orchestrator = orchestrator_of(store, lease=LONG)
    for _ in range(count):
        await orchestrator.start(saga_name=NAME, initial_data={}, wait=False)


async def all_ended(store: SagaStore, folder: Path) -> None:
    """Wait until no saga is left; if one is, say what the notes say of it."""
    active = Query(statuses=tuple(status for status in SagaStatus if status not in AT_REST))
    try:
        async with asyncio.timeout(PATIENCE):
            while await store.count(active):  # noqa: ASYNC110 - done by other processes
                await asyncio.sleep(0.05)
    except TimeoutError:
        notes = read(folder)
        left = f"{await store.count(active)} sagas are left after {takeovers(notes)} takeovers"
        pytest.fail("\n".join([left, *wrongs(notes)]))


async def records_of(store: SagaStore) -> list[SagaRecord]:
    page = await store.find(Query())
    records = [*page.records]
    while page.cursor is not None:
        page = await store.find(Query(cursor=page.cursor))
        records += page.records
    return records


def told(
    place: Store, hands: Sequence[Hand], records: Sequence[SagaRecord], notes: list[Line]
) -> str:
    claims = Counter(line.process for line in notes if line.deed is Deed.CLAIMED)
    killed = sum(hand.process.exitcode == -signal.SIGKILL for hand in hands)
    return (
        f"{place.kind}: {len(records)} sagas, {len(hands)} processes, {killed} killed: "
        f"{claims.total()} claims, {min(claims[hand.post.number] for hand in hands)} to "
        f"{max(claims.values())} a process; {takeovers(notes)} takeovers, "
        f"{repeated_steps(notes)} repeated steps"
    )


async def test_each_saga_is_claimed_once_and_none_is_left(place: Store, tmp_path: Path) -> None:
    posts = [Post(place, number, tmp_path, LONG) for number in range(size_of(place))]
    async with opened(place) as store:
        await start(store, SAGAS)
        async with at_work(posts) as hands:
            for hand in hands:  # each holds sagas while all the others do
                await hand.hear()
            for hand in hands:
                hand.say(GO_ON)
            await all_ended(store, tmp_path)
        records = await records_of(store)
    notes = read(tmp_path)
    print(told(place, hands, records, notes))

    assert [hand.process.exitcode for hand in hands] == [0] * len(hands)
    assert wrongs(notes) == []
    assert Counter(record.state.status for record in records) == {SagaStatus.COMPLETED: SAGAS}
    claims = [line for line in notes if line.deed is Deed.CLAIMED]
    assert Counter(line.saga_id for line in claims) == dict.fromkeys(ids(records), 1)
    begun = Counter((line.saga_id, line.what) for line in notes if line.deed is Deed.BEGUN)
    assert begun == {(saga_id, step): 1 for saga_id in ids(records) for step in STEPS}
    # Every version above that of the creation was made by somebody who wrote it down.
    made = {(line.saga_id, line.version) for line in notes if line.deed is not Deed.BEGUN}
    assert made == {
        (record.saga_id, version) for record in records for version in range(2, record.version + 1)
    }
    assert {line.process for line in claims} == set(range(len(posts)))


async def test_no_fence_is_given_twice_while_workers_are_killed(
    place: Store, tmp_path: Path
) -> None:
    size = size_of(place)
    doomed = DEATHS[: size // 2]
    fates = [*doomed, *[None] * (size - len(doomed))]
    posts = [Post(place, number, tmp_path, SHORT, dies=fate) for number, fate in enumerate(fates)]
    async with opened(place) as store:
        await start(store, SAGAS)
        async with at_work(posts) as hands:
            for hand in hands:
                hand.say(GO_ON)
            extra = 0
            async with asyncio.timeout(PATIENCE):
                while not all(hand.died for hand in hands[: len(doomed)]):
                    await start(store, 1)
                    extra += 1
                    assert extra < MOST_EXTRA, "those that are to die do no work"
            await all_ended(store, tmp_path)
        records = await records_of(store)
    notes = read(tmp_path)
    print(told(place, hands, records, notes))

    ends = [-signal.SIGKILL if fate else 0 for fate in fates]
    assert [hand.process.exitcode for hand in hands] == ends
    assert wrongs(notes) == []
    assert Counter(record.state.status for record in records) == {
        SagaStatus.COMPLETED: SAGAS + extra
    }
    begun = {(line.saga_id, line.what) for line in notes if line.deed is Deed.BEGUN}
    assert begun == {(saga_id, step) for saga_id in ids(records) for step in STEPS}
    # Who died held at least one saga; who died in a step had begun it and not committed it.
    assert takeovers(notes) >= len(doomed)
    assert repeated_steps(notes) >= sum(point != "claimed" for point, _ in doomed)


def ids(records: Sequence[SagaRecord]) -> set[UUID]:
    return {record.saga_id for record in records}
