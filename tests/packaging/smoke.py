"""Runs in an environment that has the wheel and nothing else; prints what it saw as JSON."""

import asyncio
import json
import sys

import saga_core
from saga_core import BaseStep, SagaBuilder, SagaOrchestrator, available_backends, open_store

imported = sorted({name.partition(".")[0] for name in sys.modules})


class Double(BaseStep[int, int]):
    async def execute(self, inp: int) -> int:
        return inp * 2


def build() -> saga_core.SagaDefinition:
    builder = SagaBuilder()
    first = builder.add_step(step=Double(), input_map=lambda ctx: ctx.initial_data["n"])
    builder.add_step(step=Double(), depends_on=first, input_map=lambda out: out)
    return builder.build()


async def drive() -> str:
    async with open_store("memory://") as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("double", build())
        saga_id = await orchestrator.start(saga_name="double", initial_data={"n": 3})
        saga = await orchestrator.get_snapshot(saga_id)
    return f"{saga.status} {list(saga.outputs.values())}"


print(
    json.dumps(
        {
            "python": sys.version.split()[0],
            "file": saga_core.__file__,
            "imported": imported,
            "saga": asyncio.run(drive()),
            "problems": {info.name: info.problem for info in available_backends().values()},
        }
    )
)
