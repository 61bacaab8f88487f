"""`saga_env` and `check_saga` rehearse parallel sagas: what ran beside a failure is undone too."""

from __future__ import annotations

import asyncio
import sys
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from saga_core import (
    AwaitEvent,
    BaseStep,
    FixedRetry,
    NonRetryableError,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaStatus,
    Sleep,
    StepContext,
)
from saga_testing import CheckReport, check_saga, saga_env
from saga_testing.places import Action

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


class Arrived(BaseModel):
    at: str


class World:
    """Counts what is there, by name; each is taken once per idempotency key."""

    def __init__(self) -> None:
        self.taken: dict[str, set[str]] = {}

    def reset(self) -> None:
        self.taken.clear()

    def look(self) -> dict[str, int]:
        return {name: len(keys) for name, keys in self.taken.items() if keys}


class Take(BaseStep[str, str]):
    def __init__(self, world: World, *, forgets: bool = False, rests: Any = None) -> None:
        self.world, self.forgets, self.rests = world, forgets, rests

    async def execute(self, inp: str, ctx: StepContext) -> str | AwaitEvent | Sleep:
        await asyncio.sleep(0)
        if self.rests is not None and not ctx.waits:
            rest: AwaitEvent | Sleep = self.rests
            return rest
        self.world.taken.setdefault(ctx.step_id, set()).add(ctx.idempotency_key)
        await asyncio.sleep(0)
        return ctx.idempotency_key

    async def compensate(self, inp: str, out: str | None, ctx: StepContext) -> None:
        await asyncio.sleep(0)
        if not self.forgets:
            key = ctx.idempotency_key.replace(":undo:", ":do:")
            self.world.taken.get(ctx.step_id, set()).discard(key)


def build(
    world: World, *, forgets: str = "", pivot: bool = False, cancel: bool = False
) -> SagaDefinition:
    builder = SagaBuilder(parallel=True, on_branch_failure="cancel" if cancel else "finish")
    needs = {
        "left": ["root"],
        "right": ["root"],
        "join": ["left", "right"],
        "alone": [],
        "root": [],
        "after": ["join"],
    }
    rests = {"left": Sleep(timedelta(hours=1)), "alone": AwaitEvent(Arrived)}
    for step_id, wanted in needs.items():
        is_pivot = pivot and step_id == "join"
        after = pivot and step_id in ("join", "after")
        builder.add_step(
            step=Take(world, forgets=step_id == forgets, rests=rests.get(step_id)),
            input_map=(lambda *outs: "+".join(outs)) if wanted else (lambda ctx: "it"),
            depends_on=list(wanted) or None,
            step_id=step_id,
            pivot=is_pivot,
            compensate_when="maybe_done" if cancel and not after else "done",
            compensation_retry_policy=FixedRetry(max_attempts=3, delay=timedelta(seconds=1)),
        )
    return builder.build()


async def checked(world: World, **options: Any) -> CheckReport:
    return await check_saga(
        lambda: build(world, **options),
        world=world.look,
        reset=world.reset,
        events=[Arrived(at="noon")],
        raises=False,
    )


@pytest.mark.parametrize("pivot", [False, True], ids=["no pivot", "pivot"])
@pytest.mark.parametrize("cancel", [False, True], ids=["finish", "cancel"])
async def test_each_step_fails_and_is_lost_at_each_boundary(pivot: bool, cancel: bool) -> None:
    report = await checked(World(), pivot=pivot, cancel=cancel)
    assert report.ok, str(report)
    tried = {(case.step_id, case.boundary) for case in report.cases}
    steps = {"root", "left", "right", "join"} | (set() if pivot else {"alone", "after"})
    assert tried >= {(step, kind) for step in steps for kind in ("before", "after", "crash")}


@pytest.mark.parametrize("step", ["root", "left"])
async def test_forgetful_branch_is_found(step: str) -> None:
    report = await checked(World(), forgets=step)
    assert not report.ok
    left = {line for finding in report.findings for line in finding.left}
    assert f"world['{step}'] is left: 1" in left


class TakeLast(Take):
    """Who is cancelled has not taken anything."""

    async def execute(self, inp: str, ctx: StepContext) -> str:
        await asyncio.sleep(0)
        self.world.taken.setdefault(ctx.step_id, set()).add(ctx.idempotency_key)
        return ctx.idempotency_key


def independent(world: World, *, cancel: bool, forgets: str = "") -> SagaDefinition:
    builder = SagaBuilder(parallel=True, on_branch_failure="cancel" if cancel else "finish")
    for step_id in ("one", "two", "three"):
        builder.add_step(
            step=TakeLast(world, forgets=step_id == forgets),
            input_map=lambda ctx: "it",
            step_id=step_id,
        )
    return builder.build()


@pytest.mark.parametrize("boundary", ["before", "after", "crash"])
@pytest.mark.parametrize("step", ["one", "two", "three"])
@pytest.mark.parametrize("cancel", [False, True], ids=["finish", "cancel"])
async def test_forgetful_branch_that_nobody_needs_is_found(
    cancel: bool, step: str, boundary: str
) -> None:
    world = World()
    report = await check_saga(
        lambda: independent(world, cancel=cancel, forgets=step),
        world=world.look,
        reset=world.reset,
        boundaries=[boundary],
        raises=False,
    )
    assert not report.ok
    assert not report.unreached
    assert {line for each in report.findings for line in each.left} == {
        f"world['{step}'] is left: 1"
    }


async def test_branch_beside_the_pivot_is_undone_when_that_fails() -> None:
    report = await checked(World(), pivot=True, cancel=True, forgets="alone")
    assert not report.ok
    undone = {case.step_id for case in report.cases if case.action is Action.COMPENSATE}
    assert undone >= {"root", "left", "right", "alone"}


async def test_step_is_not_charged_with_what_a_step_beside_it_has_left() -> None:
    class Nothing(BaseStep[str, str]):
        async def execute(self, inp: str) -> str:
            return inp

    world = World()

    def made() -> SagaDefinition:
        builder = SagaBuilder(parallel=True)
        for step_id in ("one", "two"):
            step = Take(world, forgets=True)
            builder.add_step(step=step, input_map=lambda ctx: "it", step_id=step_id)
        builder.add_step(
            step=Nothing(),
            input_map=lambda *outs: "it",
            depends_on=["one", "two"],
            step_id="join",
        )
        return builder.build()

    report = await check_saga(made, world=world.look, reset=world.reset, raises=False)
    assert not report.ok
    assert report.unguarded == {
        "one": ("world['one'] is left: 1",),
        "two": ("world['two'] is left: 1",),
    }


async def test_failure_can_be_kept_back_until_a_branch_is_done() -> None:
    world = World()
    async with saga_env(world=world.look) as env:
        env.fail_at("one", error=NonRetryableError, when_done=("three", "two"))
        ended = await env.run(independent(world, cancel=True))
        assert ended.status is SagaStatus.COMPENSATED
        assert {(call.action, call.step_id) for call in env.calls} == {
            ("execute", "two"),
            ("execute", "three"),
            ("compensate", "two"),
            ("compensate", "three"),
        }
        assert env.planned == (
            "env.fail_at(\"before:one\", error=NonRetryableError, when_done=('three', 'two'))",
        )


async def test_failure_is_not_kept_back_for_ever() -> None:
    async with saga_env() as env:
        env.fail_at("root", error=NonRetryableError, when_done="join")  # which needs it
        ended = await env.run(build(World()), events=[Arrived(at="noon")])
        assert ended.status is SagaStatus.COMPENSATED


@pytest.mark.parametrize(
    ("place", "when_done"),
    [
        ("root", "nobody"),
        ("root", "compensate:left"),
        ("root", 5),
        ("root", [5]),
        ("after:root", "alone"),
        ("compensate:root", "alone"),
    ],
)
async def test_bad_plan_for_branches_is_refused(place: str, when_done: Any) -> None:
    async with saga_env() as env:
        env.register("trip", build(World()))
        with pytest.raises(SagaDefinitionError):
            env.fail_at(place, when_done=when_done)


async def test_a_run_comes_to_the_same_each_time() -> None:
    calls = []
    for _ in range(3):
        world = World()
        async with saga_env(world=world.look) as env:
            env.crash_at("after:right")
            ended = await env.run(build(world), events=[Arrived(at="noon")])
            assert ended.status is SagaStatus.COMPLETED
            calls.append(list(map(str, env.calls)))
    assert calls[0] == calls[1] == calls[2]


async def test_example_is_green_and_a_forgetful_one_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    source = (EXAMPLES / "parallel_trip.py").read_text(encoding="utf-8")
    for text, ok in ((source, True), (source.replace("BOOKED.discard(out.code)", "pass"), False)):
        example = types.ModuleType("parallel_trip")
        monkeypatch.setitem(sys.modules, "parallel_trip", example)
        exec(compile(text, "parallel_trip.py", "exec"), vars(example))
        report = await check_saga(
            example.build_trip(),
            initial_data="Porto",
            world=lambda example=example: example.BOOKED,
            reset=example.BOOKED.clear,
            raises=False,
        )
        assert report.ok is ok, str(report)
