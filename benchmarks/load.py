"""The load all contenders get: `lanes` loops, each starting one saga after the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

__all__ = ["measure"]

WARM_UP = 4
"""Sagas per lane before the clock starts: connections open, statements are prepared."""


async def measure(one_saga: Callable[[], Awaitable[object]], sagas: int, lanes: int) -> None:
    """Run the sagas and print the rate as one line of JSON."""

    async def lane(count: int) -> None:
        for _ in range(count):
            await one_saga()

    async def all_lanes(count: int) -> None:
        await asyncio.gather(*(lane(count) for _ in range(lanes)))

    await all_lanes(WARM_UP)
    each = max(sagas // lanes, 1)
    begun = time.perf_counter()
    await all_lanes(each)
    seconds = time.perf_counter() - begun
    print(json.dumps({"sagas": each * lanes, "seconds": seconds, "warm_up": WARM_UP * lanes}))
