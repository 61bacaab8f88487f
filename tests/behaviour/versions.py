"""Two releases of one saga, and the upcaster between them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from saga_core import (
    BaseStep,
    DoneStep,
    NoRetry,
    RetryPolicy,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaInFlight,
    SagaOrchestrator,
    SagaStore,
    StepContext,
)
from tests.behaviour.cast import NAME, Deed, Number, Story, definition, fails, saga

__all__ = ["Amount", "Release", "old_definition", "renamed", "second", "to_second"]


class Amount(BaseModel):
    """What version 2 says instead of `Number`."""

    cents: int


class _Money(BaseStep[Amount, Amount]):
    def __init__(self, story: Story, deed: Deed | None) -> None:
        self._story = story
        self._deed = deed

    async def execute(self, inp: Amount, ctx: StepContext) -> Amount:
        self._story.log.append(f"do {ctx.step_id}")
        self._story.contexts.append(ctx)
        if self._deed is not None:
            result = self._deed(Number(n=inp.cents), ctx)
            if hasattr(result, "__await__"):
                await result
        return Amount(cents=inp.cents + 100)

    async def compensate(self, inp: Amount, out: Amount, ctx: StepContext) -> None:
        self._story.log.append(f"undo {ctx.step_id} {inp.cents}->{out.cents}")
        self._story.contexts.append(ctx)


def old_definition(story: Story, *deeds: Deed | None, **options: Any) -> SagaDefinition:
    """Return version 1: `step_0`, `step_1`, ... of numbers."""
    return definition(*(story.step(deed) for deed in deeds), **options)


def second(
    story: Story, *, retry_policy: RetryPolicy | None = None, **deeds: Deed
) -> SagaDefinition:
    """Return version 2: the same steps, of cents, with a `check` before the last."""
    builder = SagaBuilder()
    first = builder.add_step(
        step=_Money(story, deeds.get("step_0")),
        step_id="step_0",
        input_map=lambda ctx: Amount(cents=ctx.initial_data["cents"]),
    )
    check = builder.add_step(
        step=_Money(story, deeds.get("check")),
        step_id="check",
        input_map=lambda out: out,
        depends_on=first,
        retry_policy=retry_policy or NoRetry(),
    )
    builder.add_step(
        step=_Money(story, deeds.get("step_1")),
        step_id="step_1",
        input_map=lambda out: out,
        depends_on=check,
    )
    return builder.build()


def to_second(in_flight: SagaInFlight) -> SagaInFlight:
    """Move a saga from numbers to cents. One that was at the last step is checked first."""
    return replace(
        in_flight,
        initial_data={"cents": in_flight.initial_data["n"] * 100},
        done={step_id: _in_cents(done) for step_id, done in in_flight.done.items()},
        step_id="check" if _is_forward_at_last(in_flight) else in_flight.step_id,
        step_input=None,
    )


def renamed(story: Story, *ids: str) -> SagaDefinition:
    """Return the steps of version 1 under other names; the last of them fails."""
    builder = SagaBuilder()
    first = builder.add_step(
        step=story.step(), step_id=ids[0], input_map=lambda ctx: Number(n=ctx.initial_data["n"])
    )
    builder.add_step(
        step=story.step(fails()),
        step_id=ids[1],
        input_map=lambda out: Number(n=out.n),
        depends_on=first,
    )
    return builder.build()


def _is_forward_at_last(in_flight: SagaInFlight) -> bool:
    return in_flight.step_id == "step_1" and "step_1" not in in_flight.done


def _in_cents(done: DoneStep) -> DoneStep:
    return replace(
        done,
        output={"cents": done.output["n"] * 100},
        input={"cents": done.input["n"] * 100} if done.ran else None,
    )


class Release(saga):
    """A process of one release of the program: what it registers is said by the rule."""

    def __init__(self, store: SagaStore, *, lease: timedelta = timedelta(minutes=5)) -> None:
        self.orchestrator = SagaOrchestrator(store=store, execution_lease=lease)
        self.admin = SagaAdmin(engine=self.orchestrator.engine)
        self.store = store

    def register(self, made: SagaDefinition, version: str, upcast: Any = None) -> Release:
        self.orchestrator.register(NAME, made, version=version, upcast=upcast)
        return self
