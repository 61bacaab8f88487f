"""Deploy a language model: take a GPU, load the weights, move the traffic, wait for approval.

The traffic step fails until somebody approves; the approval comes as an event through `notify`,
which ends the wait early.

    python examples/llm_deploy.py [STORE_URL]
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from storeurl import expect, run, show

from saga_core import (
    BaseStep,
    FixedRetry,
    InputContext,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    StepRef,
    open_store,
)


class Allocate(BaseModel):
    model: str
    gpus: int


class Node(BaseModel):
    node: str


class Load(BaseModel):
    model: str
    node: str


class Endpoint(BaseModel):
    url: str


class Route(BaseModel):
    url: str
    approved_by: str | None


class Routed(BaseModel):
    share: int
    approved_by: str


class AllocateGpu(BaseStep[Allocate, Node]):
    async def execute(self, inp: Allocate) -> Node:
        return Node(node=f"gpu-node-{inp.gpus}")

    async def compensate(self, inp: Allocate, out: Node) -> None:
        print(f"  (freed {out.node})")


class LoadWeights(BaseStep[Load, Endpoint]):
    # A plain function runs in a thread: loading weights blocks.
    def execute(self, inp: Load) -> Endpoint:
        return Endpoint(url=f"http://{inp.node}/{inp.model}")

    def compensate(self, inp: Load, out: Endpoint) -> None:
        print(f"  (took down {out.url})")


class RouteTraffic(BaseStep[Route, Routed]):
    async def execute(self, inp: Route) -> Routed:
        if inp.approved_by is None:
            raise PermissionError("nobody has approved the deployment yet")
        return Routed(share=100, approved_by=inp.approved_by)


def build_deploy_saga() -> SagaDefinition:
    builder = SagaBuilder()
    allocate = builder.add_step(
        step_id="allocate",
        step=AllocateGpu(),
        input_map=lambda ctx: Allocate(model=ctx.initial_data["model"], gpus=2),
    )

    def to_load(ctx: InputContext) -> Load:
        return Load(model=ctx.initial_data["model"], node=ctx.output_of(allocate).node)

    load = builder.add_step(
        step_id="load", step=LoadWeights(), input_map=to_load, timeout=timedelta(minutes=10)
    )
    builder.add_step(
        step_id="route",
        step=RouteTraffic(),
        input_map=lambda ctx: to_route(ctx, load),
        retry_policy=FixedRetry(max_attempts=5, delay=timedelta(hours=1)),
    )
    return builder.build()


def to_route(ctx: InputContext, load: StepRef[Any]) -> Route:
    event = ctx.latest_event
    approved_by = event.get("approved_by") if isinstance(event, dict) else None
    return Route(url=ctx.output_of(load).url, approved_by=approved_by)


async def main(url: str) -> None:
    async with open_store(url, create_schema=True) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("deploy_model", build_deploy_saga())
        saga_id = await orchestrator.start(
            saga_name="deploy_model",
            initial_data={"model": "small-8b"},
            aggregation_id=f"deploy-{uuid4().hex[:8]}",
        )
        waiting = await orchestrator.get_snapshot(saga_id)
        show(waiting)
        expect(waiting, SagaStatus.SUSPENDED)

        token = waiting.step_execution_token
        assert token is not None
        taken = await orchestrator.notify(
            saga_id=saga_id, token=token, event={"approved_by": "operations"}
        )
        print(f"approval taken: {taken}")
        snapshot = await orchestrator.get_snapshot(saga_id)
        show(snapshot)
        expect(snapshot, SagaStatus.COMPLETED)


if __name__ == "__main__":
    run(main, __doc__)
