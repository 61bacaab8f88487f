"""`kill -9` at every boundary of a step in a transaction: rows and records agree, always.

The points are found by a dry run and kept in `points.txt`. To accept a changed list:

    SAGA_UPDATE_POINTS=1 python -m pytest tests/transactions/test_crash.py
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections import Counter
from pathlib import Path
from uuid import uuid4

from saga_core import SagaNotFoundError, SagaOrchestrator, SagaStatus
from saga_testing.conformance import StoreHarness
from saga_testing.ending import end_of
from tests.transactions.victim import EXPECTED, LEASE, NAME, Scene, build, live

GOLDEN = Path(__file__).parent / "points.txt"
FEWEST_POINTS = 48
SECONDS_TO_LIVE = 60

_processes = multiprocessing.get_context("forkserver")

_ROWS = {"completed": "do", "compensated": "undo"}


def same_harness(harness: StoreHarness, folder: Path) -> StoreHarness:
    """Return a harness on a store of its own, of the same kind."""
    if hasattr(harness, "_path"):
        folder.mkdir(parents=True)
        return type(harness)(folder / "sagas.db")  # type: ignore[call-arg]
    return type(harness)(harness._url)  # type: ignore[attr-defined, call-arg]


async def run_victim(scene: Scene) -> int:
    """Let the victim live and return its exit code: -9 if it was killed."""
    process = _processes.Process(target=live, args=(scene,))
    process.start()
    code = await end_of(process, SECONDS_TO_LIVE)
    assert code is not None, f"the victim hangs at {scene.kill_at}"
    return code


async def prepared(scene: Scene) -> Scene:
    async with scene.harness.business(), scene.harness.open():
        return scene


async def test_points_are_those_of_the_golden_file(harness: StoreHarness, tmp_path: Path) -> None:
    scene = await prepared(Scene(harness, uuid4(), tmp_path / "points", None))
    assert await run_victim(scene) == 0, scene.points.read_text()
    points = scene.points.read_text().splitlines()
    if os.environ.get("SAGA_UPDATE_POINTS"):
        GOLDEN.write_text("".join(f"{point}\n" for point in points))
    assert points == GOLDEN.read_text().splitlines()
    assert len(points) >= FEWEST_POINTS
    assert len(points) == len(set(points))
    assert await disagreement(scene) is None


async def test_rows_and_records_agree_wherever_the_driver_is_killed(
    harness: StoreHarness, tmp_path: Path
) -> None:
    points = GOLDEN.read_text().splitlines()
    counts: Counter[str] = Counter()
    gate = asyncio.Semaphore(3)

    async def crash_at(number: int, point: str) -> str | None:
        async with gate:
            own = same_harness(harness, tmp_path / str(number))
            scene = Scene(own, uuid4(), tmp_path / f"points-{number}", point)
            await prepared(scene)
            if await run_victim(scene) != -9:
                return f"{point}: the victim was not killed: {scene.points.read_text()}"
            wrong = await disagreement(scene)
            if wrong is None:
                wrong = await recovered(scene, counts) or await disagreement(scene)
            return None if wrong is None else f"{point}: {wrong}"

    verdicts = await asyncio.gather(*(crash_at(*each) for each in enumerate(points)))
    wrong = [verdict for verdict in verdicts if verdict is not None]
    print(f"{len(points)} points, {dict(counts)}")
    assert not wrong, "\n".join(wrong)
    assert counts["takeovers"] > 10  # otherwise the crashes have tested nothing


async def disagreement(scene: Scene) -> str | None:
    """Compare the rows of the business with what is on record; None if they agree."""
    async with scene.harness.open() as store, scene.harness.business() as business:
        history = await store.history(scene.saga_id)
        wanted = [
            f"{_ROWS[entry.kind]} {entry.step_id}" for entry in history if entry.kind in _ROWS
        ]
        rows = await business.rows()
    return None if rows == wanted else f"rows are {rows}, on record is {wanted}"


async def recovered(scene: Scene, counts: Counter[str]) -> str | None:
    """Let another driver end the saga; say what is wrong with how it ended."""
    async with scene.harness.open() as store, scene.harness.business() as business:
        orchestrator = SagaOrchestrator(store=store, execution_lease=LEASE)
        orchestrator.register(NAME, build(business, lambda _: None))
        try:
            record = await store.load(scene.saga_id)
        except SagaNotFoundError:
            await orchestrator.start(saga_name=NAME, initial_data={}, saga_id=scene.saga_id)
            record = await store.load(scene.saga_id)
        if not record.state.status.is_terminal:
            counts["takeovers"] += 1
            await scene.harness.age(scene.saga_id, LEASE)
            await orchestrator.run_due()
            record = await store.load(scene.saga_id)
        told = [(str(each.kind), each.step_id) for each in await store.history(scene.saga_id)]
    if record.state.status is not SagaStatus.COMPENSATED:
        return f"ended as {record.state.status}: {record.state.last_error}"
    return None if told == EXPECTED else f"history is {told}"
