"""`retention`: how long claims take, with a worker beside them that deletes what has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from benchmarks.steps import no_op_saga
from saga_core import SagaOrchestrator, SagaStore, SagaWorker, open_store
from saga_core.records import Claims, Query
from saga_core.status import SagaStatus
from saga_testing.servers import postgresql_server

__all__ = ["RetentionFigures", "retention"]

NAME = "three_steps"
DAY = timedelta(days=1)
STEPS = 3


@dataclass(frozen=True)
class RetentionFigures:
    """What a run has measured; times in milliseconds."""

    without: tuple[float, ...]
    """Of claims before and after the deletion."""
    beside: tuple[float, ...]
    """Of claims beside it."""
    seconds: float
    """How long the deletion took."""
    rate: float
    """Sagas/s that were driven beside it."""

    @property
    def ratio(self) -> float:
        return percentile(self.beside, 99) / percentile(self.without, 99)


def percentile(times: tuple[float, ...], of_hundred: int) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) * of_hundred // 100, len(ordered) - 1)]


async def retention(finished: int, per_second: float, seconds: float) -> RetentionFigures:
    """Delete `finished` sagas beside a load of so many starts per second.

    `seconds` is for how long claims are timed before, and again after.
    """
    with postgresql_server(durable=True) as server:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(server.url, create_schema=True))
            await _fill(server.url, finished)
            timed: list[float] = []
            gone = _Gone(finished)
            orchestrator = SagaOrchestrator(store=_watched(store, timed, gone))
            orchestrator.register(NAME, no_op_saga(STEPS))
            starting = asyncio.ensure_future(_start_for_ever(orchestrator, per_second))
            worker = SagaWorker(orchestrator, concurrency=16)
            await stack.enter_async_context(worker)
            await asyncio.sleep(min(seconds, 3.0))  # warm up
            without = await _while(timed, lambda: asyncio.sleep(seconds))
            begun = time.perf_counter()
            before = await _completed(store)
            async with SagaWorker(orchestrator, concurrency=1, retain=DAY):
                beside = await _while(timed, gone.wait)
            took = time.perf_counter() - begun
            rate = (await _completed(store) - before + finished) / took
            without += await _while(timed, lambda: asyncio.sleep(seconds))
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    return RetentionFigures(without, beside, took, rate)


async def _while(timed: list[float], wait: Callable[[], Awaitable[object]]) -> tuple[float, ...]:
    timed.clear()
    await wait()
    return tuple(timed)


async def _start_for_ever(orchestrator: SagaOrchestrator, per_second: float) -> None:
    due = time.perf_counter()
    while True:
        due += 1 / per_second
        await orchestrator.start(saga_name=NAME, initial_data={"n": 1}, wait=False)
        await asyncio.sleep(max(due - time.perf_counter(), 0))


def _watched(store: SagaStore, timed: list[float], gone: _Gone) -> Any:
    """Return the store with the claims that find something timed, and deletions counted."""

    class Watched(type(store)):  # type: ignore[misc]
        async def claim_due(self, *args: Any, **more: Any) -> Claims:
            begun = time.perf_counter()
            found: Claims = await super().claim_due(*args, **more)
            if found.records:
                timed.append((time.perf_counter() - begun) * 1000)
            return found

        async def purge(self, **more: Any) -> int:
            deleted: int = await super().purge(**more)
            gone.count(deleted)
            return deleted

    watched = object.__new__(Watched)
    watched.__dict__.update(store.__dict__)
    return watched


class _Gone:
    """Waits until so many sagas are deleted."""

    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self._over = asyncio.Event()

    def count(self, deleted: int) -> None:
        self._left -= deleted
        if self._left <= 0:
            self._over.set()

    async def wait(self) -> None:
        await self._over.wait()


async def _completed(store: SagaStore) -> int:
    return await store.count(Query(statuses=(SagaStatus.COMPLETED,)))


async def _fill(url: str, finished: int) -> None:
    """Write sagas that ended two days ago, each with the history of three steps."""
    connection: Any = await asyncpg.connect(url)
    await connection.execute(
        "INSERT INTO saga.saga (namespace, saga_id, saga_name, definition_version, fingerprint, "
        "data, status, direction, active, step_index, generation, attempt, version, fence, "
        "entries, created_at, updated_at) SELECT 'default', gen_random_uuid(), 'old', '1', 'f', "
        "'{\"n\":1}', 'COMPLETED', 1, false, 3, 0, 0, 4, 1, 3, now() - interval '2 d', "
        f"now() - interval '2 d' FROM generate_series(1, {int(finished)})"
    )
    await connection.execute(
        "INSERT INTO saga.saga_history (namespace, saga_id, seq, commit_id, version, fence, at, "
        "kind, step_id, attempt, input, output) SELECT namespace, saga_id, n, gen_random_uuid(), "
        "n + 1, 1, updated_at, 'completed', 'step_' || n, 1, '{\"n\":1}', '{\"n\":2}' "
        f"FROM saga.saga, generate_series(1, {STEPS}) AS n"
    )
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()
