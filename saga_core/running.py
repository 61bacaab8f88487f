"""Drive what is due, once: the body of `run_due`."""

from __future__ import annotations

import asyncio
import logging
from uuid import uuid4

from saga_core.engine import SagaEngine
from saga_core.errors import SagaDefinitionError, SagaError
from saga_core.records import Claims, SagaRecord
from saga_core.refusals import TakenUp
from saga_core.status import Direction
from saga_core.suspects import is_suspect

__all__ = ["run_due"]

logger = logging.getLogger("saga_core")

AT_ONCE = 10
"""Sagas driven side by side: no more are claimed than are driven, so no lease ages in a queue."""

CLAIM_TRIES = 3

CLAIM_PAUSE = 0.05
"""Seconds until a claim without an answer is sent again."""


async def run_due(engine: SagaEngine, *, limit: int) -> int:
    """Claim and drive up to `limit` due sagas; return how many."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise SagaDefinitionError(f"limit must be a whole number of at least 1, got {limit!r}")
    driven = 0
    favour = Direction.ROLLBACK
    while driven < limit:
        claims, since = await _claim(engine, min(AT_ONCE, limit - driven), favour)
        favour = Direction(1 - favour)
        if not claims.records:
            break
        drivers = [
            asyncio.ensure_future(_drive(engine, record, since))
            for record in _suspects_last(claims.records)
        ]
        try:
            await asyncio.wait(drivers)
        except asyncio.CancelledError:
            # Each has begun by now; a task that is cancelled before would give nothing back.
            for driver in drivers:
                driver.cancel()
            await asyncio.wait(drivers)
            raise
        for driver in drivers:
            driver.exception()  # seen by us, also where it is another's that is raised
        outcomes = [driver.result() for driver in drivers]
        moved = outcomes.count(TakenUp.DRIVEN)
        if not moved and TakenUp.REFUSED not in outcomes:
            break  # all are suspects, and one is being driven by somebody else here
        driven += moved
    return driven


def _suspects_last(records: tuple[SagaRecord, ...]) -> list[SagaRecord]:
    return sorted(records, key=is_suspect)


async def _claim(engine: SagaEngine, limit: int, favour: Direction) -> tuple[Claims, float]:
    claim_id = uuid4()
    attempt = 1
    while True:
        try:
            return await engine.claim(claim_id=claim_id, limit=limit, favour=favour)
        except SagaError:
            if attempt == CLAIM_TRIES:
                raise
        attempt += 1
        await asyncio.sleep(CLAIM_PAUSE)


async def _drive(engine: SagaEngine, record: SagaRecord, since: float) -> TakenUp:
    try:
        return await engine.take_up(record, since=since, patient=False)
    except Exception as error:
        engine.outage.undriven(record.saga_id, error)
        return TakenUp.DRIVEN
