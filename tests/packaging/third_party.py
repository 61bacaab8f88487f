"""Runs where two wheels are installed and no source tree is: `look`, `start` or `work`, and a URL.

Prints what it saw as JSON.
"""

import asyncio
import json
import sys

import saga_core
from saga_core import (
    BaseStep,
    Query,
    SagaBuilder,
    SagaOrchestrator,
    SagaWorker,
    available_backends,
    open_store,
)


class Double(BaseStep[int, int]):
    async def execute(self, inp: int) -> int:
        return inp * 2


def build() -> saga_core.SagaDefinition:
    builder = SagaBuilder()
    first = builder.add_step(step=Double(), input_map=lambda ctx: ctx.initial_data["n"])
    builder.add_step(step=Double(), depends_on=first, input_map=lambda out: out)
    return builder.build()


def look(url: str) -> dict[str, object]:
    """Ask for the backends that are installed, of which the URL's scheme is one."""
    backends = available_backends()
    info = backends[url.partition(":")[0]]
    plugin = __import__(info.distribution.replace("-", "_"))
    return {
        "backends": sorted(backends),
        "distribution": f"{info.distribution} {info.version}",
        "problem": info.problem,
        "capabilities": sorted(info.capabilities),
        "files": [saga_core.__file__, plugin.__file__],
    }


async def start(url: str) -> dict[str, object]:
    """Leave a saga to the workers, and go."""
    async with open_store(url) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("double", build())
        saga_id = await orchestrator.start(saga_name="double", initial_data={"n": 3}, wait=False)
        return {"status": (await orchestrator.get_snapshot(saga_id)).status}


async def work(url: str) -> dict[str, object]:
    """Drive what another process left."""
    async with open_store(url) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("double", build())
        (record,) = (await store.find(Query())).records
        async with SagaWorker(orchestrator):
            saga = await orchestrator.wait(record.saga_id)
        return {"status": saga.status, "outputs": list(saga.outputs.values())}


what, url = sys.argv[1:]
answer = look(url) if what == "look" else asyncio.run(start(url) if what == "start" else work(url))
print(json.dumps(answer))
