"""Worker processes that share the due sagas of one store, and write down what they do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker

from saga_backends.sql import SqlSagaStore
from saga_core import (
    BaseStep,
    SagaBuilder,
    SagaOrchestrator,
    SagaStore,
    SagaWorker,
    StepContext,
    open_store,
)
from saga_core.records import Claims, Committed, Registered, Transition
from saga_core.status import Direction
from saga_testing import FaultyStore
from tests.claims.evidence import Deed, Notebook
from tests.sql.engines import open_engine
from tests.sql.models import create_tables, sagas_of

__all__ = [
    "BEGIN",
    "END",
    "GO_ON",
    "NAME",
    "STEPS",
    "Post",
    "Store",
    "opened",
    "orchestrator_of",
    "work",
]

NAME = "errand"
STEPS = ("fetch", "carry", "hand_over")
READY, BUSY = "ready", "busy"
"""What a process says: it has opened the store; it is in a step and waits for `GO_ON`."""
BEGIN, GO_ON, END = "begin", "go on", "end"
"""What a process is told."""


@dataclass(frozen=True)
class Store:
    """Where the sagas are. The kinds `sql-...` keep them in a table of a user's model."""

    kind: str
    url: str
    namespace: str


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[SagaStore]:
    """Open the store as a process of its own does, with few connections: many share a server."""
    if not store.kind.startswith("sql-"):
        options = {"pool_max_size": 3} if store.kind == "postgresql" else {}
        async with open_store(
            store.url, create_schema=True, namespace=store.namespace, **options
        ) as it:
            yield it
        return
    url = store.url.replace("postgresql://", "postgresql+asyncpg://", 1)
    url = url.replace("sqlite://", "sqlite+aiosqlite://", 1)
    patience = {"timeout": 30} if store.kind == "sql-sqlite" else {}
    async with open_engine(url, pool_size=3, max_overflow=0, connect_args=patience) as engine:
        model = sagas_of("errands")
        await create_tables(engine, model)
        yield SqlSagaStore(
            model_class=model, session_maker=async_sessionmaker(engine), namespace=store.namespace
        )


@dataclass(frozen=True)
class Post:
    """What one process is told."""

    store: Store
    number: int
    folder: Path
    """Where it writes what it does."""
    lease: timedelta
    concurrency: int = 4
    dies: tuple[str, int] | None = None
    """A point, and at which of its passes the process kills itself: `claimed` with sagas in hand,
    `begun` in the middle of a step, `ended` with a step done and not yet committed."""


class Fate:
    """Holds the first steps until all processes may go on; kills the process where it is told."""

    def __init__(self, post: Post, line: Connection) -> None:
        self._dies = post.dies
        self._line = line
        self._passed: Counter[str] = Counter()
        self.may_go_on = asyncio.Event()

    async def held(self) -> None:
        if not self._passed["held"]:
            self._line.send(BUSY)
        self._passed["held"] += 1
        await self.may_go_on.wait()

    def passes(self, point: str) -> None:
        self._passed[point] += 1
        if self._dies == (point, self._passed[point]):
            os.kill(os.getpid(), signal.SIGKILL)


class Empty(BaseModel):
    pass


class Errand(BaseStep[Empty, Empty]):
    def __init__(self, notebook: Notebook | None, fate: Fate | None) -> None:
        self._notebook = notebook
        self._fate = fate

    async def execute(self, inp: Empty, ctx: StepContext) -> Empty:
        assert self._notebook is not None, "only a worker process runs steps"
        assert self._fate is not None
        self._notebook.note(Deed.BEGUN, ctx.saga_id, ctx.fence, 0, ctx.step_id)
        self._fate.passes("begun")
        await self._fate.held()
        await asyncio.sleep(0)  # other sagas of this worker go on in between
        self._fate.passes("ended")
        return inp


class Witness(FaultyStore):
    """Writes down what the store granted."""

    def __init__(self, inner: SagaStore, notebook: Notebook, fate: Fate) -> None:
        super().__init__(inner)
        self._notebook = notebook
        self._fate = fate

    async def claim_due(
        self,
        worker: str,
        *,
        claim_id: UUID,
        limit: int,
        lease: timedelta,
        only: Collection[Registered],
        favour: Direction,
    ) -> Claims:
        claims = await super().claim_due(
            worker, claim_id=claim_id, limit=limit, lease=lease, only=only, favour=favour
        )
        for record in claims.records:
            self._notebook.note(
                Deed.CLAIMED,
                record.saga_id,
                record.fence,
                record.version,
                str(claim_id),
                again=record.reclaimed,
            )
        if claims.records:
            self._fate.passes("claimed")
        return claims

    async def commit(self, transition: Transition) -> Committed:
        done = await super().commit(transition)
        self._notebook.note(
            Deed.COMMITTED,
            transition.saga_id,
            done.fence,
            done.version,
            str(transition.commit_id),
        )
        return done


def orchestrator_of(
    store: SagaStore,
    *,
    lease: timedelta,
    notebook: Notebook | None = None,
    fate: Fate | None = None,
) -> SagaOrchestrator:
    """Return an orchestrator that knows the errand; one without a notebook only starts sagas."""
    builder = SagaBuilder()
    for step_id in STEPS:
        step = Errand(notebook, fate)
        builder.add_step(step_id=step_id, step=step, input_map=lambda _: Empty())
    orchestrator = SagaOrchestrator(store=store, execution_lease=lease)
    orchestrator.register(NAME, builder.build())
    return orchestrator


def work(post: Post, line: Connection) -> None:
    """Open the store, drive what is due, and do as the line says. In a process of its own."""
    asyncio.run(_work(post, line))


async def _work(post: Post, line: Connection) -> None:
    notebook, fate = Notebook(post.folder, post.number), Fate(post, line)
    async with opened(post.store) as inner:
        store = Witness(inner, notebook, fate)
        orchestrator = orchestrator_of(store, lease=post.lease, notebook=notebook, fate=fate)
        worker = SagaWorker(
            orchestrator,
            concurrency=post.concurrency,
            poll_interval=timedelta(milliseconds=100),
        )
        line.send(READY)
        assert await asyncio.to_thread(line.recv) == BEGIN
        async with worker:
            assert await asyncio.to_thread(line.recv) == GO_ON
            fate.may_go_on.set()
            assert await asyncio.to_thread(line.recv) == END
