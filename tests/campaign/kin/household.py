"""One family of sagas in one process, made anew for each process of its life."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from saga_core import (
    BaseStep,
    FixedRetry,
    Message,
    NonRetryableError,
    PublishStep,
    SagaAdmin,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStore,
    StepContext,
)

__all__ = ["CHILD_STEPS", "Act", "Diary", "Household", "Plan"]

CHILD_STEPS = ("child", "other")
"""Steps of a parent that stand for a child."""

RETRY = FixedRetry(max_attempts=2, delay=timedelta(hours=1))


class Number(BaseModel):
    n: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What kind of family it is."""

    parallel: bool
    two: bool
    """Whether the parent has two children, one after the other, or side by side."""
    grandchild: bool
    hooks: bool
    doomed: bool
    """Whether the parent's last step fails for good."""

    @classmethod
    def drawn(cls, chance: random.Random) -> Plan:
        """Return one by chance."""
        return cls(*(chance.random() < 0.5 for _ in range(5)))


@dataclass(frozen=True, slots=True)
class Act:
    """A step was done or undone, and said that it went well."""

    saga_id: UUID
    step_id: str
    undo: bool


@dataclass(slots=True)
class Diary:
    """What happened outside the store."""

    acts: list[Act] = field(default_factory=list)
    told: set[tuple[str, str]] = field(default_factory=set)
    """The sagas of which a beginning or an end was published, with their status by then."""


class Household:
    """The definitions of a family, registered with one orchestrator."""

    def __init__(
        self, store: SagaStore, kind: str, plan: Plan, diary: Diary, trouble: Callable[[], None]
    ) -> None:
        """`trouble` is asked before each deed whether it fails."""
        self._kind, self._plan, self._diary, self._trouble = kind, plan, diary, trouble
        self.orchestrator = SagaOrchestrator(store=store)
        self.admin = SagaAdmin(engine=self.orchestrator.engine)
        if plan.grandchild:
            self.orchestrator.register(f"{kind}:grandchild", self._saga("one", "two"))
        self.orchestrator.register(f"{kind}:child", self._saga("one", *self._inner(), "two"))
        self.orchestrator.register(f"{kind}:parent", self._parent())

    async def start(self, saga_id: UUID, *, wait: bool) -> None:
        """Start the family; again changes nothing."""
        await self.orchestrator.start(
            saga_name=f"{self._kind}:parent", initial_data={"n": 1}, saga_id=saga_id, wait=wait
        )

    def _inner(self) -> tuple[str, ...]:
        return ("child",) if self._plan.grandchild else ()

    def _saga(self, *steps: str) -> SagaDefinition:
        """Return a child: one step after the other, of which `child` is a grandchild."""
        builder = SagaBuilder()
        for step_id in steps:
            if step_id == "child":
                self._add_child(builder, step_id, "grandchild")
            else:
                self._add(builder, step_id)
        return self._with_hooks(builder)

    def _parent(self) -> SagaDefinition:
        builder = SagaBuilder(parallel=self._plan.parallel)
        before: Any = self._add(builder, "first")
        refs = []
        for step_id in CHILD_STEPS if self._plan.two else CHILD_STEPS[:1]:
            needs = before if self._plan.parallel else None
            refs.append(self._add_child(builder, step_id, "child", depends_on=needs))
        self._add(builder, "last", **({"depends_on": refs} if self._plan.parallel else {}))
        return self._with_hooks(builder)

    def _add(self, builder: SagaBuilder, step_id: str, **more: Any) -> Any:
        return builder.add_step(
            step=_Deed(self._diary, self._doom if step_id == "last" else self._trouble),
            step_id=step_id,
            input_map=lambda *_: Number(n=1),
            retry_policy=RETRY,
            compensation_retry_policy=RETRY,
            **more,
        )

    def _doom(self) -> None:
        if self._plan.doomed:
            raise NonRetryableError("it was never to be")
        self._trouble()

    def _add_child(self, builder: SagaBuilder, step_id: str, kind: str, **more: Any) -> Any:
        return builder.add_child(
            saga_name=f"{self._kind}:{kind}",
            step_id=step_id,
            input_map=lambda *_: {"n": 1},
            retry_policy=RETRY,
            compensation_retry_policy=RETRY,
            **more,
        )

    def _with_hooks(self, builder: SagaBuilder) -> SagaDefinition:
        if self._plan.hooks:
            for add in (builder.on_start, builder.on_completed, builder.on_compensated):
                add(step=PublishStep(self), input_map=_told, retry_policy=RETRY)
        return builder.build()

    async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
        """Publish a message of a hook."""
        self._trouble()
        self._diary.told.add((message.key or "", message.topic))
        return None


class _Deed(BaseStep[Number, Number]):
    def __init__(self, diary: Diary, trouble: Callable[[], None]) -> None:
        self._diary, self._trouble = diary, trouble

    async def execute(self, inp: Number, ctx: StepContext) -> Number:
        self._trouble()
        self._diary.acts.append(Act(ctx.saga_id, ctx.step_id, undo=False))
        return inp

    async def compensate(self, inp: Number, out: Number, ctx: StepContext) -> None:
        self._trouble()
        self._diary.acts.append(Act(ctx.saga_id, ctx.step_id, undo=True))


def _told(ctx: Any) -> Message:
    return Message(topic=f"{ctx.status}", key=str(ctx.saga_id), payload={})
