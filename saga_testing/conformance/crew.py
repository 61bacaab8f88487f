"""Other processes that open the harness's store and do what a rule tells them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from saga_testing.conformance.harness import StoreHarness
from saga_testing.ending import end_of

__all__ = ["Crew", "Report"]

PATIENCE = 30.0
"""Seconds that a process may take for one answer on a machine that is busy."""

Report = Callable[[Any], None]
"""Sends one value to the rule, and does not wait."""
Deed = Callable[..., Awaitable[None]]
"""A function of a module, so that it can be sent: takes the store, the report and arguments."""

# As clean as a spawned one, and begun sooner after `multiprocessing.set_forkserver_preload`.
_processes = multiprocessing.get_context("forkserver")


class Crew:
    """Some processes, each with a handle of its own on the store. Leaves none behind."""

    def __init__(self, harness: StoreHarness, size: int) -> None:
        """The harness travels to the processes by pickle; what cannot travel fails here."""
        try:
            self._parcel = pickle.dumps(harness)
        except Exception as error:
            raise TypeError(
                f"{type(harness).__name__} declares {', '.join(sorted(harness.capabilities))}, so "
                "other processes open its store, and it travels to them by pickle: keep in it "
                "what names the store (a path, a URL), open nothing in it, and define it in a "
                f"module rather than in a function ({error})"
            ) from error
        self._harness = harness
        self._size = size
        self._members: list[_Member] = []

    async def __aenter__(self) -> Crew:
        # Making a schema from several processes at once is no part of the contract.
        async with self._harness.open():
            pass
        try:
            # All are told to come before the first is waited for.
            self._members = [_Member(self._parcel) for _ in range(self._size)]
            for member in self._members:
                await member.answer()
        except BaseException:
            self._dismiss()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._dismiss()

    async def do(self, deed: Deed, *args: Any) -> list[Any]:
        """Have all do a deed at once; return what each reported, in one list per process."""
        for member in self._members:
            member.tell(deed, args)
        return [[each async for each in member.answers()] for member in self._members]

    def start(self, deed: Deed, *args: Any, member: int = 0) -> AsyncIterator[Any]:
        """Have one process begin a deed; yield what it reports."""
        self._members[member].tell(deed, args)
        return self._members[member].answers()

    async def kill(self, member: int = 0) -> None:
        """End one process with SIGKILL, and wait until it is gone."""
        await self._members[member].kill()

    def _dismiss(self) -> None:
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.close()


class _Member:
    """One process and the line to it."""

    def __init__(self, parcel: bytes) -> None:
        self._line, theirs = _processes.Pipe()
        self.process = _processes.Process(target=_serve, args=(theirs, parcel), daemon=True)
        self.process.start()
        theirs.close()

    def tell(self, deed: Deed, args: tuple[Any, ...]) -> None:
        self._line.send((deed, args))

    async def answer(self) -> Any:
        """Return what comes next. Raises `AssertionError` with the process's own traceback."""
        try:
            word, value = await asyncio.to_thread(self._receive)
        except EOFError:
            code = await end_of(self.process, PATIENCE)
            raise AssertionError(f"another process of the store ended (exit code {code})") from None
        if word == "failed":
            raise AssertionError(f"in another process of the store:\n{value}")
        return None if word == "done" else (value,)

    async def answers(self) -> AsyncIterator[Any]:
        """Yield what is reported until the deed is done."""
        while (answer := await self.answer()) is not None:
            yield answer[0]

    async def kill(self) -> None:
        self.process.kill()
        await end_of(self.process, PATIENCE)

    def close(self) -> None:
        self.process.join()
        self.process.close()
        self._line.close()

    def _receive(self) -> tuple[str, Any]:
        if not self._line.poll(PATIENCE):
            raise AssertionError(f"another process of the store gave no answer in {PATIENCE} s")
        answer: tuple[str, Any] = self._line.recv()
        return answer


def _serve(line: Connection, parcel: bytes) -> None:
    """Run in the other process."""
    try:
        asyncio.run(_serve_with(line, pickle.loads(parcel)))  # noqa: S301 - the parent wrote it
    except BaseException:
        with suppress(OSError):
            line.send(("failed", traceback.format_exc()))
        os._exit(1)


async def _serve_with(line: Connection, harness: StoreHarness) -> None:
    async with harness.open() as store:
        line.send(("done", None))
        while True:
            deed, args = await asyncio.to_thread(line.recv)
            await deed(store, lambda value: line.send(("report", value)), *args)
            line.send(("done", None))
