"""`saga demo`: three orders, one of which loses its worker to `kill -9`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from uuid import UUID, uuid4

from rich.console import Console
from rich.markup import escape

from saga_console.doomed import CHARGING
from saga_console.order import NOWHERE, SAGA_NAME, SLOW_BANK, Ledger, build_order_saga
from saga_console.timeline import Moment, print_timeline, print_verdict
from saga_core.admin import SagaAdmin
from saga_core.errors import StoreUrlError
from saga_core.hookspecs import Capability
from saga_core.orchestrator import SagaOrchestrator
from saga_core.plugins import open_store, resolve_store
from saga_core.snapshot import SagaAdminSnapshot
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_core.worker import SagaWorker

__all__ = ["run_demo"]

LEASE = timedelta(seconds=2)
"""How long a dead worker's saga stays with it. Short, so that nobody waits for the demo."""
PATIENCE = 30.0
POLL = timedelta(milliseconds=200)


async def run_demo(console: Console, *, url: str | None, keep: bool) -> bool:
    """Run the three orders and print them; return whether all went as promised.

    The sagas live in a namespace of their own and are removed at the end unless `keep`. Raises
    `SagaError` if the store cannot be used.
    """
    namespace = f"demo_{uuid4().hex[:8]}"
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="saga-demo-"))
        if not keep or url is not None:
            stack.callback(rmtree, folder, ignore_errors=True)
        file = folder / "demo.db"
        store_url = url or f"sqlite:///{file}"
        backend = resolve_store(store_url, namespace=namespace).backend
        if Capability.MULTI_PROCESS not in backend.capabilities:
            raise StoreUrlError(
                f"the demo kills a worker process, so it needs a store that several processes can "
                f"use at once; {backend.name!r} is none"
            )
        async with open_store(store_url, create_schema=True, namespace=namespace) as store:
            demo = _Demo(console, store, store_url, Ledger(folder / "ledger.tsv"))
            try:
                as_promised = await demo.run(f"{backend.name}, namespace {namespace}")
            finally:
                if not keep:
                    await store.purge(finished_for=timedelta(0), limit=100)
        if keep:
            where = f" in {file}" if url is None else ""
            console.print(f"The sagas are kept{where}, namespace {namespace}.", soft_wrap=True)
    return as_promised


class _Demo:
    def __init__(self, console: Console, store: SagaStore, url: str, ledger: Ledger) -> None:
        self.console = console
        self.store = store
        self.url = url
        self.ledger = ledger
        self.orchestrator = SagaOrchestrator(store=store, execution_lease=LEASE)
        self.orchestrator.register(SAGA_NAME, build_order_saga(ledger))
        self.admin = SagaAdmin(engine=self.orchestrator.engine)
        self.as_promised = True

    async def run(self, where: str) -> bool:
        began = time.monotonic()
        self.console.print(f"[bold]saga demo[/] on {escape(where)}", soft_wrap=True)
        try:
            await self.one_that_completes()
            await self.one_that_is_rolled_back()
            await self.one_that_loses_its_worker()
        except TimeoutError:
            self.promise(f"an order ends within {PATIENCE:.0f} s", kept=False)
        seconds = time.monotonic() - began
        words = "all as promised" if self.as_promised else "[bold red]NOT as promised[/]"
        self.console.print(f"\n{words}, in {seconds:.1f} s")
        return self.as_promised

    async def one_that_completes(self) -> None:
        self.title("1. An order that completes, although the bank is slow to answer")
        async with self.worker():
            saga_id = await self.order("tea", bank=SLOW_BANK)
            await self.orchestrator.wait(saga_id, timeout=PATIENCE)
        saga = await self.show(saga_id)
        self.promise("completed", kept=saga.status is SagaStatus.COMPLETED)

    async def one_that_is_rolled_back(self) -> None:
        self.title("2. An order that fails for good: what was done is undone, newest first")
        async with self.worker():
            saga_id = await self.order("coffee", address=NOWHERE)
            await self.orchestrator.wait(saga_id, timeout=PATIENCE)
        saga = await self.show(saga_id)
        deeds = [line.deed for line in self.ledger.read("coffee")]
        self.promise(
            "the card was refunded, then the stock released",
            kept=saga.status is SagaStatus.COMPENSATED
            and deeds[-2:] == ["refund_card", "release_stock"],
        )

    async def one_that_loses_its_worker(self) -> None:
        self.title("3. An order whose worker process is killed while it charges the card")
        started = time.time()
        saga_id = await self.order("cocoa", drive=False)
        pid = await self.kill_a_worker_in_the_middle()
        if pid is None:
            return
        death = Moment(
            at=time.time() - started,
            step_id="charge_card",
            what="worker killed",
            detail=f"SIGKILL to process {pid}; its lease ends within {LEASE.seconds} s",
        )
        async with self.worker():
            await self.orchestrator.wait(saga_id, timeout=PATIENCE)
        saga = await self.show(saga_id, death)
        self.promise("completed by another worker", kept=saga.status is SagaStatus.COMPLETED)
        self.judge_ledger(pid)

    def judge_ledger(self, killed: int) -> None:
        lines = self.ledger.read("cocoa")
        times = Counter(line.deed for line in lines)
        self.promise(
            f"reserve_stock was committed by process {killed} and did not run again",
            kept=times["reserve_stock"] == 1 and lines[0].pid == killed,
        )
        charges = [line for line in lines if line.deed == "charge_card"]
        self.promise(
            f"charge_card was begun by process {' and by '.join(str(c.pid) for c in charges)}, "
            "with the same idempotency key",
            kept=len(charges) == 2 and len({charge.key for charge in charges}) == 1,
        )

    async def kill_a_worker_in_the_middle(self) -> int | None:
        """Start a worker process, kill it once it charges the card; return its process id."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "saga_console.doomed",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        task = {
            "url": self.url,
            "namespace": self.store.namespace,
            "ledger": str(self.ledger.path),
            "lease": LEASE.total_seconds(),
        }
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            async with asyncio.timeout(PATIENCE):
                said = await process.stdout.readline()
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()
        if said.decode().strip() != CHARGING:
            self.promise("a worker process came to the second step", kept=False)
            return None
        return process.pid

    def worker(self) -> SagaWorker:
        return SagaWorker(self.orchestrator, concurrency=4, poll_interval=POLL)

    async def order(
        self, item: str, *, bank: str = "bank", address: str = "1 Main Street", drive: bool = True
    ) -> UUID:
        return await self.orchestrator.start(
            saga_name=SAGA_NAME,
            initial_data={"order_id": item, "item": item, "bank": bank, "address": address},
            aggregation_id=item,
            wait=drive,
        )

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/]", soft_wrap=True)

    async def show(self, saga_id: UUID, *moments: Moment) -> SagaAdminSnapshot:
        saga = await self.admin.get_saga(saga_id)
        print_timeline(self.console, saga, moments)
        return saga

    def promise(self, text: str, *, kept: bool) -> None:
        self.as_promised = self.as_promised and kept
        print_verdict(self.console, text, kept=kept)
