"""Sagas on PostgreSQL through a proxy that sees what crosses the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest_asyncio
from pydantic import BaseModel

from saga_core import BaseStep, SagaBuilder, SagaDefinition
from saga_testing.proxy import PostgresqlProxy, postgresql_proxy
from saga_testing.servers import PostgresqlServer

RAN: list[str] = []
"""Which steps have run, kept outside the store."""


class Number(BaseModel):
    n: int


class Count(BaseStep[Number, Number]):
    def __init__(self, name: str) -> None:
        self._name = name

    async def execute(self, inp: Number) -> Number:
        RAN.append(self._name)
        return Number(n=inp.n + 1)


def three_steps(steps: int = 3) -> SagaDefinition:
    builder = SagaBuilder()
    previous = builder.add_step(
        step=Count("step_0"), input_map=lambda ctx: Number(n=ctx.initial_data["n"])
    )
    for number in range(1, steps):
        previous = builder.add_step(
            step=Count(f"step_{number}"), depends_on=previous, input_map=lambda out: Number(n=out.n)
        )
    return builder.build()


@pytest_asyncio.fixture
async def proxy(postgresql: PostgresqlServer) -> AsyncIterator[PostgresqlProxy]:
    RAN.clear()
    async with postgresql_proxy(postgresql.url) as proxy:
        yield proxy


def options(**more: object) -> dict[str, object]:
    """Return store options for a test of its own."""
    return {
        "create_schema": True,
        "schema_name": "wire",
        "namespace": f"w{uuid4().hex[:12]}",
        "pool_max_size": 1,
        "wakeup": False,
        **more,
    }
