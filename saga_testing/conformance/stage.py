"""Where the state machine plays: in a thread of its own, on handles that a loop has opened."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from itertools import count
from typing import Any, TypeVar

from saga_core.store import SagaStore
from saga_testing.conformance.harness import StoreHarness

__all__ = ["Stage"]

PATIENCE = 60.0
"""Seconds for one step on a machine that is busy."""

_T = TypeVar("_T")


class Stage:
    """A namespace with two handles on it, for one run after the other until one is red."""

    def __init__(self, harness: StoreHarness, loop: asyncio.AbstractEventLoop) -> None:
        self.harness = harness
        self.namespace = ""
        self._loop = loop
        self._numbers = count()
        self._session: Future[None] | None = None

    def enter(self) -> tuple[SagaStore, SagaStore]:
        if self._session is None:
            self.namespace = f"m{next(self._numbers)}"
            self._opened: Future[tuple[SagaStore, SagaStore]] = Future()
            self._done = asyncio.Event()
            self._session = asyncio.run_coroutine_threadsafe(self._stay_open(), self._loop)
        return self._opened.result(PATIENCE)

    def leave(self) -> None:
        """Close the handles; the next run gets others, in another namespace."""
        if self._session is not None:
            session, self._session = self._session, None
            self._loop.call_soon_threadsafe(self._done.set)
            session.result(PATIENCE)

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(PATIENCE)

    async def _stay_open(self) -> None:
        """Open and close in one task, as a context manager may ask for."""
        try:
            async with (
                self.harness.open(namespace=self.namespace) as one,
                self.harness.open(namespace=self.namespace) as two,
            ):
                self._opened.set_result((one, two))
                await self._done.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)
