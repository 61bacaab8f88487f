"""The sagas that take turns, and what each execution of their steps does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from saga_core import (
    BaseStep,
    FixedRetry,
    HookContext,
    InputContext,
    NonRetryableError,
    SagaBuilder,
    SagaDefinition,
    StepContext,
)
from tests.campaign.cast import Receipt, Slip
from tests.campaign.ledger import Began, Ended
from tests.campaign.plan import Act, Outcome
from tests.campaign.stage import PROCESS, Stage
from tests.campaign.turns.plan import Member, StepPlan

__all__ = ["HOOK", "TurnScript", "definitions", "kind_of"]

HOOK = 99
"""The number under which hooks are told of."""


class TurnScript:
    """What each execution of each step does: the plans' outcomes, one after the other."""

    def __init__(self, members: Mapping[UUID, Member], stage: Stage) -> None:
        self._members = members
        self._stage = stage
        self._serial = 0
        self._begun: dict[tuple[UUID, int, Act], int] = {}

    async def perform(self, act: Act, number: int, context: StepContext) -> Receipt:
        """Do as planned."""
        process = PROCESS.get()
        self._serial += 1
        serial = self._serial
        place = (context.saga_id, number, act)
        nth = self._begun.get(place, 0)
        self._begun[place] = nth + 1
        self._stage.tell(
            Began(process.worker, serial, number, act, context, after=0, event=0, out=None)
        )
        outcome = None
        try:
            await self._stage.reach(process, "step")
            outcome = self._outcome(*place, nth)
        finally:
            self._stage.tell(Ended(serial, outcome))
        if outcome is Outcome.FAIL:
            raise ValueError("planned failure")
        if outcome is Outcome.FATAL:
            raise NonRetryableError("planned to be final")
        return Receipt(serial=serial)

    def _outcome(self, saga_id: UUID, number: int, act: Act, nth: int) -> Outcome:
        if number == HOOK:
            return Outcome.OK
        step = self._members[saga_id].steps[number]
        outcomes = step.do if act is Act.DO else step.undo
        return outcomes[nth] if nth < len(outcomes) else Outcome.OK


class _Turn(BaseStep[Slip, Receipt]):
    def __init__(self, script: TurnScript, number: int) -> None:
        self._script = script
        self._number = number

    async def execute(self, inp: Slip, ctx: StepContext) -> Receipt:
        return await self._script.perform(Act.DO, self._number, ctx)

    async def compensate(self, inp: Slip, out: Receipt, ctx: StepContext) -> None:
        await self._script.perform(Act.UNDO, self._number, ctx)


class _Told(BaseStep[Slip, Receipt]):
    def __init__(self, script: TurnScript) -> None:
        self._script = script

    async def execute(self, inp: Slip, ctx: StepContext) -> Receipt:
        return await self._script.perform(Act.DO, HOOK, ctx)


def kind_of(member: Member) -> str:
    """Return the name under which a saga is registered: several of a plan share one."""
    return f"{len(member.steps)}-steps{'-and-hooks' if member.hooks else ''}"


def definitions(script: TurnScript) -> dict[str, SagaDefinition]:
    """Return all sagas that a member may be."""
    return {
        kind_of(Member(steps=(StepPlan(),) * size, hooks=hooks)): _definition(script, size, hooks)
        for size in (1, 2, 3)
        for hooks in (False, True)
    }


def _definition(script: TurnScript, size: int, hooks: bool) -> SagaDefinition:
    builder = SagaBuilder()
    policy = FixedRetry(max_attempts=2, delay=timedelta(0))
    for number in range(size):
        builder.add_step(
            step=_Turn(script, number),
            input_map=_first,
            retry_policy=policy,
            compensation_retry_policy=policy,
        )
    if hooks:
        for add in (
            builder.on_completed,
            builder.on_compensated,
            builder.on_failed,
            builder.on_stuck,
        ):
            add(step=_Told(script), input_map=_told, retry_policy=policy)
    return builder.build()


def _first(context: InputContext) -> Slip:
    return Slip(after=context.initial_data["n"])


def _told(context: HookContext) -> Slip:
    return Slip(after=context.initial_data["n"])
