"""The saga that is killed: a retry, a wait for `notify`, a final failure, a probe, a rollback."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pydantic import BaseModel

from saga_core import (
    BaseStep,
    FixedRetry,
    InputContext,
    NonRetryableError,
    SagaBuilder,
    SagaDefinition,
    StepContext,
)
from tests.crash.ledger import Ledger

__all__ = ["EXPECTED_HISTORY", "NAME", "ORDERS", "STEPS", "Probe", "build"]

NAME = "booking"
STEPS = ("reserve", "charge", "approve", "ship")
ORDERS = {"do": STEPS, "probe": STEPS[-1:], "undo": STEPS[::-1]}
"""In which order steps are done, asked for and undone."""
RETRY = timedelta(milliseconds=5)
LONG = timedelta(days=1)

EXPECTED_HISTORY = [
    ("completed", "reserve"),
    ("retrying", "charge"),
    ("completed", "charge"),
    ("retrying", "approve"),
    ("event", "approve"),
    ("completed", "approve"),
    ("failed", "ship"),
    ("maybe_done", "ship"),
    ("compensation_retrying", "ship"),
    ("probed", "ship"),
    ("compensated", "ship"),
    ("compensated", "approve"),
    ("compensation_retrying", "charge"),
    ("compensated", "charge"),
    ("compensated", "reserve"),
]

Probe = Callable[[str], None]
"""Told the name of each point inside a step's code."""


class Work(BaseModel):
    approved: bool = False


class Done(BaseModel):
    step_id: str


class Step(BaseStep[Work, Done]):
    """Writes what it does into the ledger, and fails where the story says so."""

    def __init__(self, ledger: Ledger, probe: Probe) -> None:
        self._ledger = ledger
        self._probe = probe
        self._runs = 0

    async def execute(self, inp: Work, ctx: StepContext) -> Done:
        self._point("begin", "do", ctx)
        if ctx.step_id == "charge" and ctx.attempt == 1:
            raise ConnectionError("the bank is busy")
        if ctx.step_id == "approve" and not inp.approved:
            raise PermissionError("nobody has approved it yet")
        if ctx.step_id == "ship":
            raise NonRetryableError("no such address")
        self._point("end", "do", ctx)
        return Done(step_id=ctx.step_id)

    async def compensate(self, inp: Work, out: Done | None, ctx: StepContext) -> None:
        assert out is not None, "what may have been done was asked for"
        assert out.step_id == ctx.step_id
        self._point("begin", "undo", ctx)
        if ctx.step_id == "charge" and ctx.attempt == 1:
            raise ConnectionError("the bank is busy again")
        self._point("end", "undo", ctx)

    async def probe(self, inp: Work, ctx: StepContext) -> Done | None:
        self._point("begin", "probe", ctx)
        if ctx.attempt == 1:
            raise ConnectionError("the carrier is busy")
        self._point("end", "probe", ctx)
        return Done(step_id=ctx.step_id)

    def _point(self, moment: str, direction: str, ctx: StepContext) -> None:
        self._ledger.note(moment, direction, ctx.step_id, ctx.attempt, ctx.fence)
        self._probe(f"{direction} {ctx.step_id} {ctx.attempt} {moment}")


def build(ledger: Ledger, probe: Probe) -> SagaDefinition:
    """Return the definition; every step tells `probe` of its points."""
    builder = SagaBuilder()
    for step_id in STEPS:
        builder.add_step(
            step_id=step_id,
            step=Step(ledger, probe),
            input_map=_work,
            retry_policy=FixedRetry(max_attempts=3, delay=LONG if step_id == "approve" else RETRY),
            compensation_retry_policy=FixedRetry(max_attempts=3, delay=timedelta(0)),
            compensate_when="maybe_done" if step_id == "ship" else "done",
        )
    return builder.build()


def _work(ctx: InputContext) -> Work:
    return Work(approved=ctx.latest_event == {"approved": True})
