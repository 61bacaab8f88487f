"""`kill -9` at every store call, before and after, and inside every step: the saga still ends.

The points are found by a dry run and kept in `points.txt`. To accept a changed list:

    SAGA_UPDATE_POINTS=1 python -m pytest tests/crash/test_boundaries.py
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis

from saga_core import SagaNotFoundError, SagaOrchestrator, SagaStatus, SagaStore, open_store
from saga_testing.ending import end_of
from saga_testing.servers import PostgresqlServer, RedisServer
from tests.conformance.test_redis import AGE
from tests.crash.booking import EXPECTED_HISTORY, NAME, ORDERS, STEPS, build
from tests.crash.ledger import Deed, Ledger
from tests.crash.victim import LEASE, Scene, live

GOLDEN = Path(__file__).parent / "points.txt"
FEWEST_POINTS = 60
SECONDS_TO_LIVE = 60

_processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Stage:
    """A store to crash on."""

    name: str
    url: Callable[[Path], str]


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def stage(request: pytest.FixtureRequest) -> Stage:
    if request.param == "sqlite":
        return Stage("sqlite", lambda folder: f"sqlite:///{folder / 'sagas.db'}")
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        return Stage("redis", lambda _: redis.url)
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return Stage("postgresql", lambda _: server.url)


def scene_at(stage: Stage, folder: Path, kill_at: str | None) -> Scene:
    folder.mkdir()
    return Scene(
        url=stage.url(folder),
        namespace=f"crash_{uuid4().hex[:12]}",
        saga_id=uuid4(),
        ledger=folder / "ledger",
        points=folder / "points",
        kill_at=kill_at,
    )


async def run_victim(scene: Scene) -> int:
    """Let the victim live and return its exit code: -9 if it was killed."""
    process = _processes.Process(target=live, args=(scene,))
    process.start()
    code = await end_of(process, SECONDS_TO_LIVE)
    assert code is not None, f"the victim hangs at {scene.kill_at}"
    return code


async def prepared(scene: Scene) -> Scene:
    async with open_store(scene.url, create_schema=True, namespace=scene.namespace):
        return scene


async def points_of(stage: Stage, folder: Path) -> list[str]:
    scene = await prepared(scene_at(stage, folder / "dry", None))
    assert await run_victim(scene) == 0
    return scene.points.read_text().splitlines()


async def test_points_are_those_of_the_golden_file(stage: Stage, tmp_path: Path) -> None:
    points = await points_of(stage, tmp_path)
    if os.environ.get("SAGA_UPDATE_POINTS"):
        GOLDEN.write_text("".join(f"{point}\n" for point in points))
    assert points == GOLDEN.read_text().splitlines()
    assert len(points) >= FEWEST_POINTS
    assert len(points) == len(set(points))


async def test_saga_ends_wherever_its_driver_is_killed(stage: Stage, tmp_path: Path) -> None:
    points = GOLDEN.read_text().splitlines()
    counts: Counter[str] = Counter()
    gate = asyncio.Semaphore(3)

    async def crash_at(number: int, point: str) -> str | None:
        async with gate:
            scene = await prepared(scene_at(stage, tmp_path / str(number), point))
            if await run_victim(scene) != -9:
                return f"{point}: the victim was not killed: {scene.points.read_text()}"
            verdict = await judged(stage, scene, counts)
            return None if verdict is None else f"{point}: {verdict}"

    verdicts = await asyncio.gather(*(crash_at(*each) for each in enumerate(points)))
    wrong = [verdict for verdict in verdicts if verdict is not None]
    print(f"{stage.name}: {len(points)} points, {dict(counts)}")
    assert not wrong, "\n".join(wrong)
    # Otherwise the crashes have tested nothing.
    assert counts["takeovers"] > 10
    assert counts["repeated steps"] > 10


async def judged(stage: Stage, scene: Scene, counts: Counter[str]) -> str | None:
    """Recover the saga as another process would, and say what is wrong with how it ended."""
    ledger = Ledger(scene.ledger)
    async with open_store(scene.url, namespace=scene.namespace) as store:
        committed = await history_of(store, scene)
        before = ledger.read()
        await recover(stage, scene, store, counts)
        record = await store.load(scene.saga_id)
        history = await history_of(store, scene)
    if record.state.status is not SagaStatus.COMPENSATED:
        return f"ended as {record.state.status}: {record.state.last_error}"
    if history != EXPECTED_HISTORY:
        return f"history is {history}"
    return unjust_deed(committed, before, ledger.read(), counts)


async def history_of(store: SagaStore, scene: Scene) -> list[tuple[str, str | None]]:
    return [(str(entry.kind), entry.step_id) for entry in await store.history(scene.saga_id)]


def unjust_deed(
    committed: list[tuple[str, str | None]],
    before: list[Deed],
    deeds: list[Deed],
    counts: Counter[str],
) -> str | None:
    """Compare what steps did with what was on record when the driver died."""
    after = deeds[len(before) :]
    kinds = {"do": "completed", "probe": "probed", "undo": "compensated"}
    for direction, kind in kinds.items():
        for step_id in STEPS:
            again = [
                deed for deed in after if (deed.direction, deed.step_id) == (direction, step_id)
            ]
            if again and (kind, step_id) in committed:
                return f"{direction} {step_id} ran again although it was on record as {kind}"
        began = [deed for deed in deeds if deed.direction == direction and deed.began]
        order = list(dict.fromkeys(deed.step_id for deed in began))
        expected = list(ORDERS[direction])
        if order != expected:
            return f"{direction} went {order}, not {expected}"
        runs = Counter((deed.step_id, deed.attempt) for deed in began)
        if max(runs.values()) > 2:
            return f"one crash, but an attempt ran {max(runs.values())} times: {runs}"
        counts["repeated steps"] += sum(count - 1 for count in runs.values())
    fences = [deed.fence for deed in deeds]
    if fences != sorted(fences):
        return f"a step saw a lower fence than an earlier one: {fences}"
    return None


async def recover(stage: Stage, scene: Scene, store: SagaStore, counts: Counter[str]) -> None:
    orchestrator = SagaOrchestrator(store=store, execution_lease=LEASE)
    orchestrator.register(NAME, build(Ledger(scene.ledger), lambda _: None))
    for _ in range(20):
        try:
            record = await store.load(scene.saga_id)
        except SagaNotFoundError:
            # The starter got no answer, so it starts again with the same id.
            await orchestrator.start(
                saga_name=NAME, initial_data={}, saga_id=scene.saga_id, wait=False
            )
            continue
        state = record.state
        if state.status.is_terminal:
            return
        if record.worker is not None:
            counts["takeovers"] += 1
            await age(stage, scene, LEASE)
        elif state.status is SagaStatus.SUSPENDED and state.step_id == "approve":
            assert state.token is not None
            await orchestrator.notify(
                saga_id=scene.saga_id, token=state.token, event={"approved": True}
            )
            continue
        elif state.status is SagaStatus.SUSPENDED:
            await age(stage, scene, timedelta(seconds=1))
        await orchestrator.run_due()


async def age(stage: Stage, scene: Scene, by: timedelta) -> None:
    micros = by // timedelta(microseconds=1)
    if stage.name == "redis":
        async with Redis.from_url(scene.url) as client:
            prefix = f"saga:{{{scene.namespace}}}:"
            await client.eval(AGE, 1, prefix, str(scene.saga_id), micros)
        return
    if stage.name == "sqlite":
        with suppress(sqlite3.Error):
            database = sqlite3.connect(scene.url.removeprefix("sqlite:///"), timeout=10)
            with database:
                database.execute("UPDATE saga SET due_at = due_at - ?", (micros,))
            database.close()
        return
    connection = await asyncpg.connect(scene.url)
    await connection.execute(
        "UPDATE saga.saga SET due_at = due_at - $1::interval WHERE namespace = $2",
        by,
        scene.namespace,
    )
    await connection.close()
