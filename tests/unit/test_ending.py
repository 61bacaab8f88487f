"""How a child process ended is told to the event loop, once it has ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time

from saga_testing.ending import end_of

PATIENCE = 60.0

_processes = multiprocessing.get_context("forkserver")


async def test_each_child_ends_with_its_own_code_though_others_start_beside_it() -> None:
    children = []
    ends = []
    for code in range(4):
        child = _processes.Process(target=os._exit, args=(code,))
        child.start()
        children.append(child)
        ends.append(asyncio.ensure_future(end_of(child, PATIENCE)))
        await asyncio.sleep(0)
    assert await asyncio.gather(*ends) == [0, 1, 2, 3]
    assert await end_of(children[3], PATIENCE) == 3


async def test_child_that_still_runs_has_no_end_yet() -> None:
    child = _processes.Process(target=time.sleep, args=(PATIENCE,))
    child.start()
    assert await end_of(child, 0.001) is None
    child.kill()
    assert await end_of(child, PATIENCE) == -signal.SIGKILL
