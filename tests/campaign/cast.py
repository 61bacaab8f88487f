"""The steps of a planned saga. What they are given and put out tells the judge what they saw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    BaseStep,
    FixedRetry,
    HookContext,
    InputContext,
    NonRetryableError,
    SagaBuilder,
    SagaDefinition,
    Sleep,
    StepContext,
    StepRef,
)
from tests.campaign.ledger import Began, Ended, Rang, row_of
from tests.campaign.plan import Act, Outcome, SagaPlan, StepPlan, WaitPlan
from tests.campaign.stage import PROCESS, Stage

__all__ = [
    "DEFAULT",
    "EDITED",
    "EVENTS",
    "FIRST",
    "HOUR",
    "SKIPPED",
    "Blue",
    "Book",
    "Receipt",
    "Red",
    "Script",
    "Slip",
    "definition",
]

HOUR = timedelta(hours=1)

FIRST = 7
"""The number that a saga starts from."""

DEFAULT = 200_000
"""Serials of the outputs with which a step goes on that waited in vain begin here."""

EDITED = 300_000
"""What inputs say that a person gave begins here."""

SKIPPED = 100_000
"""Serials of outputs that a person gave begin here."""


class Red(BaseModel):
    """An event."""

    n: int
    """The number of the request that brought it."""


class Blue(BaseModel):
    """Another event."""

    n: int


EVENTS: dict[str, type[Red] | type[Blue]] = {"Red": Red, "Blue": Blue}


class Slip(BaseModel):
    """A step's input."""

    after: int
    """The serial of the execution before."""
    event: int = 0
    """The latest event, where the map looks at events."""


class Receipt(BaseModel):
    """A step's output."""

    serial: int
    """Of the execution that made it."""
    note: str = ""


Book = Callable[[Any, str], Awaitable[None]]
"""Writes a row with what a store lends."""


class Script:
    """What each execution of each step does: the plan's outcomes, one after the other."""

    def __init__(self, plan: SagaPlan, stage: Stage, book: Book | None = None) -> None:
        """`book` is where steps write that work in the store's transaction, if it lends any."""
        self._plan = plan
        self._stage = stage
        self._book = book
        self._serial = 0
        self._rings = 0
        self._begun: dict[tuple[int, Act], int] = {}

    async def perform(
        self,
        act: Act,
        number: int,
        slip: Slip,
        context: StepContext,
        out: Receipt | None = None,
    ) -> Receipt | AwaitEvent | Sleep | None:
        """Do as planned. Only a probe that finds nothing returns None."""
        process = PROCESS.get()
        self._serial += 1
        serial = self._serial
        nth = self._begun.get((number, act), 0)
        self._begun[number, act] = nth + 1
        self._stage.tell(
            Began(
                worker=process.worker,
                serial=serial,
                step=number,
                act=act,
                context=context,
                after=slip.after,
                event=slip.event,
                out=None if out is None else out.serial,
            )
        )
        outcome = None
        try:
            if not self.lends(number):
                await self._stage.reach(process, "step")
            elif self._book is not None and act is not Act.PROBE:
                await self._book(context.transaction, row_of(act, number, serial))
            outcome = self._outcome(number, act, nth)
        finally:
            self._stage.tell(Ended(serial, outcome))
        if outcome is Outcome.FAIL:
            raise ValueError("planned failure")
        if outcome is Outcome.FATAL:
            raise NonRetryableError("planned to be final")
        if outcome is Outcome.ABSENT:
            return None
        if outcome is Outcome.WAIT:
            return _waiting(self._plan.steps[number].wait, number, act)
        if outcome is Outcome.SLEEP:
            return Sleep(self._plan.steps[number].wait.sleep)
        return Receipt(serial=serial, note="\x00" if outcome is Outcome.GARBLED else "")

    def lends(self, number: int) -> bool:
        """Tell whether a step works in a transaction. It waits for no cue then: see `Lent`."""
        return self._book is not None and self._plan.steps[number].transaction

    async def ring(self, slip: Slip, context: StepContext) -> Receipt:
        """Do as planned in a hook."""
        process = PROCESS.get()
        self._serial += 1
        serial, nth = self._serial, self._rings
        self._rings += 1
        key, fence = context.idempotency_key, context.fence
        self._stage.tell(Rang(process.worker, serial, context.step_id, key, fence))
        outcome = None
        try:
            await self._stage.reach(process, "step")
            outcomes = self._plan.hooks or ()
            outcome = outcomes[nth] if nth < len(outcomes) else Outcome.OK
        finally:
            self._stage.tell(Ended(serial, outcome))
        if outcome is Outcome.FAIL:
            raise ValueError("planned failure")
        return Receipt(serial=serial)

    def _outcome(self, number: int, act: Act, nth: int) -> Outcome:
        step = self._plan.steps[number]
        outcomes = {Act.DO: step.do, Act.UNDO: step.undo, Act.PROBE: step.probe}[act] or ()
        return outcomes[nth] if nth < len(outcomes) else Outcome.OK


def _waiting(plan: WaitPlan, number: int, act: Act) -> AwaitEvent:
    instead: Any = plan.on_timeout
    if instead == "output":
        instead = Receipt(serial=DEFAULT + number) if act is Act.DO else "fail"
    return AwaitEvent(
        *(EVENTS[name] for name in plan.events),
        correlation_id=plan.correlation_id,
        timeout=plan.timeout,
        on_timeout=instead,
    )


class _Final(BaseStep[Slip, Receipt]):
    def __init__(self, script: Script, number: int) -> None:
        self._script = script
        self._number = number
        self.events = (Red, Blue)

    async def execute(self, inp: Slip, ctx: StepContext) -> Receipt | AwaitEvent | Sleep:
        out = await self._script.perform(Act.DO, self._number, inp, ctx)
        assert out is not None
        return out

    async def _undo(
        self, inp: Slip, out: Receipt | None, ctx: StepContext
    ) -> AwaitEvent | Sleep | None:
        done = await self._script.perform(Act.UNDO, self._number, inp, ctx, out)
        return None if isinstance(done, Receipt) else done


class _Reversible(_Final):
    async def compensate(
        self, inp: Slip, out: Receipt, ctx: StepContext
    ) -> AwaitEvent | Sleep | None:
        return await self._undo(inp, out, ctx)


class _Doubtful(_Final):
    async def compensate(
        self, inp: Slip, out: Receipt | None, ctx: StepContext
    ) -> AwaitEvent | Sleep | None:
        return await self._undo(inp, out, ctx)


class _Probing(_Doubtful):
    async def probe(self, inp: Slip, ctx: StepContext) -> Receipt | None:
        found = await self._script.perform(Act.PROBE, self._number, inp, ctx)
        assert not isinstance(found, AwaitEvent | Sleep)
        return found


class _Bell(BaseStep[Slip, Receipt]):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def execute(self, inp: Slip, ctx: StepContext) -> Receipt:
        return await self._script.ring(inp, ctx)


def _kind(step: StepPlan) -> type[_Final]:
    if step.undo is None:
        return _Final
    if not step.maybe:
        return _Reversible
    return _Doubtful if step.probe is None else _Probing


def definition(plan: SagaPlan, script: Script) -> SagaDefinition:
    """Return the saga that a plan describes."""
    builder = SagaBuilder(
        compensate_on_failure=plan.compensates,
        parallel=plan.parallel,
        on_branch_failure="cancel" if plan.cancels else "finish",
    )
    made: list[StepRef[Receipt]] = []
    before: StepRef[Receipt] | None = None
    for number, step in enumerate(plan.steps):
        rooted = step.rooted or before is None
        depends_on = None if rooted else before
        mapped: Callable[..., Slip] = _root(number, step) if rooted else _follow(step)
        if plan.parallel:
            mapped = _join(step)
        before = builder.add_step(
            step=_kind(step)(script, number),
            input_map=mapped,
            depends_on=[made[each] for each in step.depends] if plan.parallel else depends_on,
            retry_policy=_policy(step.attempts, step.delayed),
            compensation_retry_policy=_policy(step.undo_attempts, step.undo_delayed),
            compensate_when="maybe_done" if step.maybe else "done",
            pivot=step.pivot,
            transaction=script.lends(number),
        )
        made.append(before)
    if plan.hooks is not None:
        for add in (
            builder.on_completed,
            builder.on_compensated,
            builder.on_failed,
            builder.on_stuck,
        ):
            add(step=_Bell(script), input_map=_told, retry_policy=_policy(4, delayed=False))
    return builder.build()


def _told(context: HookContext) -> Slip:
    return Slip(after=context.initial_data["n"])


def _policy(attempts: int, delayed: bool) -> FixedRetry:
    return FixedRetry(max_attempts=attempts, delay=HOUR if delayed else timedelta(0))


def _root(number: int, step: StepPlan) -> Callable[[InputContext], Slip]:
    def root(context: InputContext) -> Slip:
        if step.unmappable:
            raise LookupError("planned: there is no input")
        event = context.latest_event
        return Slip(
            after=(
                context.step_outputs[f"step_{number - 1}"]["serial"]
                if number
                else context.initial_data["n"]
            ),
            event=0 if event is None else event["n"],
        )

    return root


def _follow(step: StepPlan) -> Callable[[Receipt], Slip]:
    def follow(out: Receipt) -> Slip:
        if step.unmappable:
            raise LookupError("planned: there is no input")
        return Slip(after=out.serial)

    return follow


def _join(step: StepPlan) -> Callable[..., Slip]:
    """Return the map of a step of a parallel saga: what it depends on, added up."""

    def total(*outs: Receipt) -> Slip:
        if step.unmappable:
            raise LookupError("planned: there is no input")
        return Slip(after=sum(out.serial for out in outs))

    def none(context: InputContext) -> Slip:
        return total(Receipt(serial=context.initial_data["n"]))

    def one(first: Receipt) -> Slip:
        return total(first)

    def two(first: Receipt, second: Receipt) -> Slip:
        return total(first, second)

    def three(first: Receipt, second: Receipt, third: Receipt) -> Slip:
        return total(first, second, third)

    return (none, one, two, three)[len(step.depends)]
