"""A worker process that the demo kills while it is charging a card.

Reads one line of JSON from its standard input, because a URL on the command line could be read
by anybody on this machine; prints a line when it is in the middle of the step. Ends when its
standard input closes, so that it never outlives a demo that was itself killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

from saga_console.order import SAGA_NAME, Ledger, build_order_saga
from saga_core.orchestrator import SagaOrchestrator
from saga_core.plugins import open_store
from saga_core.worker import SagaWorker

__all__ = ["CHARGING"]

CHARGING = "charging"


async def _charge_for_ever() -> None:
    print(CHARGING, flush=True)
    await asyncio.Event().wait()


async def _work(task: dict[str, Any]) -> None:
    definition = build_order_saga(Ledger(Path(task["ledger"])), interrupt=_charge_for_ever)
    async with open_store(task["url"], namespace=task["namespace"]) as store:
        orchestrator = SagaOrchestrator(
            store=store, execution_lease=timedelta(seconds=task["lease"])
        )
        orchestrator.register(SAGA_NAME, definition)
        await SagaWorker(orchestrator, concurrency=1).run()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    work = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_work(work))
