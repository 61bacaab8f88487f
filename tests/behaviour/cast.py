"""Steps and sagas for the rules: what each step does is said by a function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from saga_core import (
    BaseStep,
    FixedRetry,
    SagaAdmin,
    SagaAdminSnapshot,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStore,
    StepContext,
)

__all__ = ["HOUR", "NAME", "Number", "Story", "definition", "fails", "retry", "saga", "waits"]

NAME = "story"
HOUR = timedelta(hours=1)


class Number(BaseModel):
    n: int


Deed = Callable[[Number, StepContext], Any]


class Story:
    """What happened, outside the store, and who may make it happen."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.contexts: list[StepContext] = []

    def step(self, deed: Deed | None = None, undo: Deed | None = None) -> BaseStep[Number, Number]:
        """Return a step that can be undone."""
        return _Reversible(self, deed, undo)

    def final(self, deed: Deed | None = None) -> BaseStep[Number, Number]:
        """Return a step without `compensate`."""
        return _Final(self, deed)

    def uncertain(
        self, deed: Deed | None = None, undo: Deed | None = None, probe: Deed | None = None
    ) -> BaseStep[Number, Number]:
        """Return a step that is undone also when it may have been done.

        With `probe` it has one, which says what `probe` returns.
        """
        if probe is None:
            return Uncertain(self, deed, undo)
        return _Probed(self, deed, undo, probe)

    def threaded(self, deed: Deed) -> BaseStep[Number, Number]:
        """Return a step that is a plain function."""
        return _Threaded(self, deed)


class _Final(BaseStep[Number, Number]):
    def __init__(self, story: Story, deed: Deed | None) -> None:
        self._story = story
        self._deed = deed

    async def execute(self, inp: Number, ctx: StepContext) -> Number:
        self._story.log.append(f"do {ctx.step_id}")
        self._story.contexts.append(ctx)
        result = await _played(self._deed, inp, ctx)
        return Number(n=inp.n + 1) if result is None else result


class _Reversible(_Final):
    def __init__(self, story: Story, deed: Deed | None, undo: Deed | None) -> None:
        super().__init__(story, deed)
        self._undo = undo

    async def compensate(self, inp: Number, out: Number, ctx: StepContext) -> Any:
        self._story.log.append(f"undo {ctx.step_id} {inp.n}->{out.n}")
        self._story.contexts.append(ctx)
        return await _played(self._undo, inp, ctx)


class Uncertain(_Final):
    """`definition` adds it with `compensate_when="maybe_done"`."""

    def __init__(self, story: Story, deed: Deed | None, undo: Deed | None) -> None:
        super().__init__(story, deed)
        self._undo = undo

    async def compensate(self, inp: Number, out: Number | None, ctx: StepContext) -> None:
        self._story.log.append(f"undo {ctx.step_id} {inp.n}->{None if out is None else out.n}")
        self._story.contexts.append(ctx)
        await _played(self._undo, inp, ctx)


class _Probed(Uncertain):
    def __init__(self, story: Story, deed: Deed | None, undo: Deed | None, question: Deed) -> None:
        super().__init__(story, deed, undo)
        self._question = question

    async def probe(self, inp: Number, ctx: StepContext) -> Number | None:
        self._story.log.append(f"probe {ctx.step_id} {inp.n}")
        self._story.contexts.append(ctx)
        found: Number | None = await _played(self._question, inp, ctx)
        return found


class _Threaded(BaseStep[Number, Number]):
    def __init__(self, story: Story, deed: Deed) -> None:
        self._story = story
        self._deed = deed

    def execute(self, inp: Number, ctx: StepContext) -> Number:
        self._story.log.append(f"do {ctx.step_id}")
        result = self._deed(inp, ctx)
        return Number(n=inp.n + 1) if result is None else result


async def _played(deed: Deed | None, inp: Number, ctx: StepContext) -> Any:
    if deed is None:
        return None
    result: Any = deed(inp, ctx)
    if inspect.isawaitable(result):
        awaitable: Awaitable[Any] = result
        return await awaitable
    return result


def fails(text: str = "no", *, times: int | None = None) -> Deed:
    """Return a deed that raises ValueError: always, or in the first attempts."""

    def deed(_: Number, ctx: StepContext) -> None:
        if times is None or ctx.attempt <= times:
            raise ValueError(text)

    return deed


def retry(attempts: int, delay: timedelta = HOUR) -> FixedRetry:
    return FixedRetry(max_attempts=attempts, delay=delay)


def definition(*steps: BaseStep[Number, Number], **options: Any) -> SagaDefinition:
    """Return a saga whose steps each take the output of the one before.

    `pivot` is the number of the step that is one.
    """
    pivot = options.pop("pivot", None)
    builder = SagaBuilder(compensate_on_failure=options.pop("compensate_on_failure", True))
    previous = None
    for number, step in enumerate(steps):
        own = {"pivot": number == pivot, **options}
        if isinstance(step, Uncertain):
            own["compensate_when"] = "maybe_done"
        if previous is None:
            previous = builder.add_step(
                step=step, input_map=lambda ctx: Number(n=ctx.initial_data["n"]), **own
            )
        else:
            previous = builder.add_step(
                step=step, input_map=lambda out: Number(n=out.n), depends_on=previous, **own
            )
    return builder.build()


class saga:  # noqa: N801 - reads as a verb in the rules
    """One orchestrator with one saga, and shorthand for what the rules do with it."""

    def __init__(
        self,
        store: SagaStore,
        *steps: BaseStep[Number, Number],
        made: SagaDefinition | None = None,
        lease: timedelta = timedelta(minutes=5),
        plugins: Sequence[object] = (),
        **options: Any,
    ) -> None:
        self.orchestrator = SagaOrchestrator(store=store, execution_lease=lease, plugins=plugins)
        self.orchestrator.register(NAME, made or definition(*steps, **options))
        self.admin = SagaAdmin(engine=self.orchestrator.engine)
        self.store = store

    async def start(self, **more: Any) -> Any:
        return await self.orchestrator.start(
            **{"saga_name": NAME, "initial_data": {"n": 1}, **more}
        )

    async def see(self, saga_id: Any) -> SagaAdminSnapshot:
        return await self.admin.get_saga(saga_id)

    async def run(self, **more: Any) -> SagaAdminSnapshot:
        """Start it and return how it stands."""
        return await self.see(await self.start(**more))


async def waits(predicate: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something outside our control is so."""
    async with asyncio.timeout(seconds):
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
