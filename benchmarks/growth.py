"""`growth` and `idle`: what must not get slower as a saga, or a store, gets longer."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks.steps import no_op_saga
from saga_core import Direction, SagaOrchestrator, SagaStore, open_store
from saga_core.records import Registered
from saga_testing.servers import postgresql_server, redis_server

__all__ = ["growth", "idle"]

SHORT, LONG = 5, 200


@asynccontextmanager
async def _opened(backend: str) -> AsyncIterator[tuple[SagaStore, str]]:
    if backend == "postgresql":
        with postgresql_server(durable=True) as server:
            async with open_store(server.url, create_schema=True, wakeup=False) as store:
                yield store, server.url
    elif backend == "sqlite":
        with tempfile.TemporaryDirectory(prefix="saga-bench-") as folder:
            async with open_store(f"sqlite:///{folder}/sagas.db") as store:
                yield store, ""
    elif backend == "redis":
        with redis_server("--loglevel", "warning") as redis:
            async with open_store(redis.url) as store:
                yield store, redis.url
    else:
        async with open_store("memory://") as store:
            yield store, ""


async def growth(backend: str, rounds: int) -> tuple[float, float, float]:
    """Return steps/s of sagas with 5 and with 200 steps, and the median ratio round by round."""
    rates: dict[int, list[float]] = {SHORT: [], LONG: []}
    async with _opened(backend) as (store, _):
        orchestrator = SagaOrchestrator(store=store)
        for steps in (SHORT, LONG):
            orchestrator.register(f"steps_{steps}", no_op_saga(steps))
        for number in range(rounds + 1):
            for steps in (SHORT, LONG):
                begun = time.perf_counter()
                for _ in range(LONG * 2 // steps):
                    await orchestrator.start(saga_name=f"steps_{steps}", initial_data={"n": 1})
                if number:  # the first round warms up
                    rates[steps].append(LONG * 2 / (time.perf_counter() - begun))
    ratio = statistics.median(
        long / short for short, long in zip(rates[SHORT], rates[LONG], strict=True)
    )
    return statistics.median(rates[SHORT]), statistics.median(rates[LONG]), ratio


async def idle(waiting: int) -> tuple[float, str]:
    """Return the median milliseconds of a poll that finds nothing, and the plan of its query."""
    async with _opened("postgresql") as (store, url):
        connection: Any = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO saga.saga (namespace, saga_id, saga_name, definition_version, "
            "fingerprint, data, status, direction, active, step_index, generation, attempt, "
            "version, fence, due_at, created_at, updated_at) SELECT 'default', gen_random_uuid(), "
            "'order', '1', 'f', '{}', 'SUSPENDED', 1, true, 0, 0, 0, 1, 0, now() + interval '1 d', "
            f"now(), now() FROM generate_series(1, {int(waiting)})"
        )
        await connection.execute("ANALYZE saga.saga")
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            await store.claim_due(
                "bench",
                claim_id=uuid4(),
                limit=10,
                lease=timedelta(seconds=30),
                only=[Registered("order", "1", "f")],
                favour=Direction.FORWARD,
            )
            times.append((time.perf_counter() - begun) * 1000)
        rows = await connection.fetch(
            "EXPLAIN SELECT 1 FROM saga.saga WHERE namespace = 'default' AND direction = 1 "
            "AND due_at <= (SELECT clock_timestamp()) ORDER BY due_at LIMIT 10"
        )
        await connection.close()
    return statistics.median(times), "\n".join(row[0] for row in rows)
