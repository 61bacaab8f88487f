"""The end of a child process, awaited in an event loop."""

from __future__ import annotations

import asyncio
from multiprocessing.process import BaseProcess

__all__ = ["end_of"]


async def end_of(process: BaseProcess, patience: float) -> int | None:
    """Wait until a process of `multiprocessing` has ended; return its exit code.

    None if it still runs after `patience` seconds. No `join` in a thread: every start looks after
    all children, and of two threads that read how one ended the second learns nothing and takes
    it for 255. One waiter per process.
    """
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    loop.add_reader(process.sentinel, is_over.set)
    try:
        await asyncio.wait_for(is_over.wait(), patience)
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(process.sentinel)
    process.join()
    return process.exitcode
