"""The saga of the comparison: steps that do nothing, each taking the output of the one before."""

from __future__ import annotations

from pydantic import BaseModel

from saga_core import BaseStep, SagaBuilder, SagaDefinition

__all__ = ["Count", "Number", "no_op_saga"]


class Number(BaseModel):
    n: int


class Count(BaseStep[Number, Number]):
    async def execute(self, inp: Number) -> Number:
        return Number(n=inp.n + 1)


def no_op_saga(steps: int = 3) -> SagaDefinition:
    builder = SagaBuilder()
    previous = builder.add_step(step=Count(), input_map=lambda ctx: Number(n=ctx.initial_data["n"]))
    for _ in range(steps - 1):
        previous = builder.add_step(
            step=Count(), depends_on=previous, input_map=lambda out: Number(n=out.n)
        )
    return builder.build()
