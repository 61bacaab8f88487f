"""The processes of a planned run, and a person at a console: who lives, is lost, or is asked."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any

from saga_core.definition import SagaDefinition
from saga_core.store import SagaStore
from tests.campaign.ledger import Asked, Replied
from tests.campaign.stage import PROCESS, Cue, Killed, Point, Process, Stage

__all__ = ["WORKERS", "Crowd"]

WORKERS = 3


class Crowd:
    """Workers and a person on one store. What they do is in the classes below this one."""

    def __init__(self, stage: Stage, store: SagaStore, kinds: Mapping[str, SagaDefinition]) -> None:
        """`kinds` are the sagas that each process registers, by name."""
        self._stage = stage
        self._store = store
        self._kinds = kinds
        self._numbers = count(1)
        self._lives = count(1)
        self._workers = [self._process(f"worker {number}") for number in range(WORKERS)]
        self._person = self._process("person")
        self._tasks: dict[asyncio.Task[Any], Process] = {}

    def _picked(self, pick: int) -> Point | None:
        points = [point for point in self._stage.points if not point.cue.done()]
        return points[pick % len(points)] if points else None

    def _cue(self, point: Point | None, cue: Cue) -> None:
        if point is not None and not point.cue.done():
            point.cue.set_result(cue if point.is_call else Cue.GO)

    def _crash(self, point: Point | None, *, applied: bool) -> None:
        if point is None:
            return
        if applied and point.is_call:
            self._cue(point, Cue.CRASH_APPLIED)
        else:
            self._stage.kill(point.process)

    def _process(self, name: str) -> Process:
        return Process(self._stage, f"{name}.{next(self._lives)}", self._store, self._kinds)

    def _living(self, process: Process) -> Process:
        """Return the process, or the one that was started when it had died."""
        if not process.dead:
            return process
        successor = self._process(process.name.split(".")[0])
        if process is self._person:
            self._person = successor
        else:
            self._workers[self._workers.index(process)] = successor
        return successor

    def _idle_worker(self, pick: int) -> Process:
        busy = set(self._running().values())
        order = self._workers[pick % WORKERS :] + self._workers[: pick % WORKERS]
        return next((worker for worker in order if worker not in busy), order[0])

    def _running(self) -> dict[asyncio.Task[Any], Process]:
        self._tasks = {task: who for task, who in self._tasks.items() if not task.done()}
        return self._tasks

    def _ask(
        self,
        process: Process,
        what: str,
        call: Callable[[int], Coroutine[Any, Any, Any]],
        about: int | None = None,
    ) -> None:
        """Let a process do something, `about` a step or one of several sagas.

        `call` gets the number of the request.
        """
        number = next(self._numbers)

        async def asking() -> None:
            self._stage.tell(Asked(process.worker, number, what, about))
            answer, error = None, None
            try:
                answer = await call(number)
            except Killed:
                return
            except Exception as raised:
                error = raised
            self._stage.tell(Replied(number, what, answer, error))

        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        self._tasks[asyncio.create_task(asking(), context=context)] = process
