"""`check_saga` finds what is not undone, and nothing where all is."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from saga_core import (
    Message,
    PublishStep,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaStateError,
    SagaStatus,
    Sleep,
    StepContext,
)
from saga_testing import CheckReport, SagaCheckError, check_saga, saga_env
from saga_testing.judging import not_undone
from tests.rehearsal.shop import (
    Approved,
    Counted,
    Deed,
    Done,
    Order,
    Shop,
    Threaded,
    Wait,
    saga_of,
    shop_saga,
)


async def checked(shop: Shop, saga: SagaDefinition, **options: Any) -> CheckReport:
    more = {"world": shop.look, "reset": shop.reset, "raises": False, **options}
    return await check_saga(saga, initial_data="o-1", **more)


async def test_healthy_saga_is_all_right() -> None:
    shop = Shop()
    report = await checked(shop, shop_saga(shop))
    assert report.ok, str(report)
    assert {case.boundary for case in report.cases} == {"before", "after", "crash"}
    assert {case.step_id for case in report.cases} == {"reserve", "charge", "ship"}
    assert {case.action for case in report.cases} == {"execute", "compensate"}


@pytest.mark.parametrize("step", ["reserve", "charge"])
async def test_forgetful_compensation_is_found_and_named(step: str) -> None:
    shop = Shop()
    with pytest.raises(SagaCheckError) as caught:
        await checked(shop, shop_saga(shop, **{step: True}), raises=True)
    report = caught.value.report
    assert not report.ok
    blamed = {suspect for finding in report.findings for suspect in finding.suspects}
    assert blamed == {f"compensate of step '{step}' ran and has changed nothing"}
    assert f"world['{step}'] is left: 'o-1'" in str(caught.value)


async def test_what_is_to_reproduce_does() -> None:
    shop = Shop()
    saga = shop_saga(shop, reserve=True)
    report = await checked(shop, saga)
    body = "\n    ".join(report.findings[0].reproduce)
    code = f"async def again(saga):\n    {body}\n    return snapshot"
    names: dict[str, Any] = {}
    exec(
        "from saga_testing import saga_env\nfrom saga_core import NonRetryableError\n" + code, names
    )
    shop.reset()
    assert (await names["again"](saga)).status == "COMPENSATED"
    assert shop.rows == {"reserve": "o-1"}


async def test_step_without_compensate_is_found_if_it_leaves_something() -> None:
    class Lasting(Deed):
        compensate = None  # type: ignore[assignment]

    shop = Shop()
    report = await checked(shop, saga_of(mail=Lasting(shop, "mail"), ship=Deed(shop, "ship")))
    assert "step 'mail' has changed the world and has no compensate" in str(report)


async def test_step_that_leaves_more_when_it_runs_twice_is_found() -> None:
    shop = Shop()
    saga = saga_of(count=Counted(shop, "count"), ship=Deed(shop, "ship"))
    report = await checked(shop, saga)
    assert {str(finding.case) for finding in report.findings} >= {"crash after execute of 'count'"}
    assert "its execute ran 2 times, which has to come to the same as once" in str(report)
    assert (await checked(shop, saga, boundaries=["before"])).ok


async def test_compensation_that_undoes_half_is_named_and_nobody_else() -> None:
    class Halfway(Deed):
        async def execute(self, inp: Order, ctx: StepContext) -> Done:
            self._shop.rows |= {self._name: inp.order_id, "mail": inp.order_id}
            return Done(key="")

    shop = Shop()
    saga = saga_of(first=Deed(shop, "first"), half=Halfway(shop, "half"), then=Deed(shop, "then"))
    report = await checked(shop, saga, boundaries=["before"])
    blamed = {suspect for finding in report.findings for suspect in finding.suspects}
    assert blamed == {"compensate of step 'half' has undone a part of it only"}


async def test_last_step_that_leaves_more_when_it_runs_twice_is_found() -> None:
    shop = Shop()
    report = await checked(shop, saga_of(ship=Counted(shop, "ship")))
    assert [str(finding.case) for finding in report.findings] == ["crash after execute of 'ship'"]
    assert "world['ship'] was '|' and is '||'" in str(report)
    assert "step 'ship'; its execute ran 2 times" in str(report)


async def test_step_that_was_not_compensated_is_named() -> None:
    shop = Shop()
    saga = shop_saga(shop)
    async with saga_env() as env:
        env.fail_at("ship")
        env.fail_at("compensate:charge")
        stuck = await env.run(saga, "o-1")
        await env.admin.skip_compensation(stuck.saga_id, reason="by hand", wait=False)
        ended = await env.finish()
        assert ended.status == "COMPENSATED"
        assert not_undone(saga, ended, env.ledger) == ("charge",)


async def test_compensation_that_cannot_run_twice_is_found() -> None:
    shop = Shop()
    saga = saga_of(reserve=Counted(shop, "reserve"), ship=Deed(shop, "ship"))
    report = await checked(shop, saga)
    found = {str(finding.case) for finding in report.findings}
    assert "crash after compensate of 'reserve'" in found
    assert "after compensate of 'reserve'" in found
    assert "KeyError" in str(report)


async def test_maybe_done_step_has_to_be_undone_after_its_failure() -> None:
    shop = Shop()
    charge = Threaded(shop, "charge", forgets=True)  # where it has no output
    report = await checked(shop, saga_of(charge=charge, ship=Deed(shop, "ship")))
    assert "after execute of 'charge'" in {str(finding.case) for finding in report.findings}


async def test_step_that_says_nothing_of_its_failure_is_told_and_not_judged() -> None:
    shop = Shop()
    report = await checked(shop, shop_saga(shop))
    assert report.ok
    assert report.unguarded == {
        "reserve": ("world['reserve'] is left: 'o-1'",),
        "ship": ("world['ship'] is left: 'o-1'",),
    }


async def test_past_the_pivot_a_saga_goes_on() -> None:
    shop = Shop()
    saga = saga_of(
        "charge",
        reserve=Deed(shop, "reserve"),
        charge=Deed(shop, "charge"),
        ship=Deed(shop, "ship"),
    )
    report = await checked(shop, saga)
    assert report.ok, str(report)
    assert "before execute of 'ship'" in {str(case) for case in report.cases}


async def test_waiting_saga_gets_its_events_in_each_run() -> None:
    shop = Shop()
    saga = saga_of(reserve=Deed(shop, "reserve"), wait=Wait(), ship=Deed(shop, "ship"))
    report = await checked(shop, saga, events=[Approved(by="me")])
    assert report.ok, str(report)
    assert "crash after execute of 'wait', at visit 3" in {str(case) for case in report.cases}
    with pytest.raises(SagaStateError, match=r"waits for an event Approved .* goes into events="):
        await checked(shop, saga)


async def test_saga_that_is_not_rolled_back_by_itself_is_cancelled() -> None:
    def saga(shop: Shop, *, forgets: bool) -> SagaDefinition:
        builder = SagaBuilder(compensate_on_failure=False)
        for step in ("reserve", "ship"):
            builder.add_step(
                step_id=step,
                step=Deed(shop, step, forgets=forgets),
                input_map=lambda ctx: Order(order_id=ctx.initial_data),
            )
        return builder.build()

    shop = Shop()
    assert (await checked(shop, saga(shop, forgets=False))).ok
    assert not (await checked(shop, saga(shop, forgets=True))).ok


async def test_without_reset_the_check_goes_as_far_as_it_can() -> None:
    shop = Shop()
    report = await checked(shop, shop_saga(shop), reset=None)
    assert report.ok
    assert shop.rows == {}
    assert any("without reset=" in note for note in report.notes)
    report = await checked(shop, shop_saga(shop, reserve=True), reset=None)
    assert len(report.findings) == 1


async def test_definition_may_be_made_anew_with_its_world() -> None:
    shops = [Shop()]

    def fresh() -> SagaDefinition:
        shops.append(Shop())
        return shop_saga(shops[-1], charge=True)

    with pytest.raises(SagaCheckError, match="compensate of step 'charge'"):
        await check_saga(fresh, initial_data="o-1", world=lambda: shops[-1].rows)


async def test_without_a_world_the_calls_are_looked_at() -> None:
    shop = Shop()
    report = await check_saga(shop_saga(shop, reserve=True), initial_data="o-1")
    assert report.ok
    assert "without world= a compensation that undoes nothing is not found" in report.notes


async def test_progress_has_a_line_for_each_run() -> None:
    shop, lines = Shop(), []
    report = await checked(shop, shop_saga(shop), progress=lines.append)
    total = len(report.cases)
    assert report.unreached == []
    assert lines == [f"{n} of {total}: {case}" for n, case in enumerate(report.cases, start=1)]
    assert re.match(
        r"\d+ cases \(\d+ after, \d+ before, \d+ crash\): all as it must be", str(report)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundaries": ["during"]}, "before, after, crash"),
        ({"boundaries": []}, "before, after, crash"),
        ({"world": {}}, "world must be a plain function"),
        ({"ends": "STUCK"}, "ends must be COMPLETED or COMPENSATED"),
        ({"events": [Approved]}, "events= takes instances"),
        ({"reset": lambda: None}, "reset= must bring the world back"),
        ({"boundaries": 5}, "before, after, crash"),
        ({"world": lambda: (n for n in ())}, "world must return what copy.deepcopy can copy"),
        ({"reset": 5}, "reset must be a function"),
        ({"progress": 5}, "progress must be a function"),
        ({"events": 5}, "events= takes a list"),
        ({"events": "Approved"}, "events= takes a list"),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(
    options: dict[str, Any], words: str
) -> None:
    shop = Shop()
    with pytest.raises(SagaDefinitionError, match=words):
        await checked(shop, shop_saga(shop), **options)


async def test_other_things_than_sagas_are_refused() -> None:
    with pytest.raises(SagaDefinitionError, match="needs a SagaDefinition"):
        await check_saga("order")  # type: ignore[arg-type]
    with pytest.raises(SagaDefinitionError, match="must return a SagaDefinition"):
        await check_saga(lambda: 7)  # type: ignore[arg-type,return-value]

    async def made() -> SagaDefinition:
        return shop_saga(Shop())

    with pytest.raises(SagaDefinitionError, match="must be a plain one"):
        await check_saga(made)  # type: ignore[arg-type]


async def test_error_of_the_probe_is_no_error_of_a_step() -> None:
    shop = Shop()

    def broken() -> dict[str, str]:
        if shop.rows:
            raise ZeroDivisionError
        return shop.rows

    with pytest.raises(SagaStateError, match="world= has raised") as caught:
        await checked(shop, shop_saga(shop), world=broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("forgets", [False, True])
async def test_probe_goes_wrong_too(forgets: bool) -> None:
    class Probed(Threaded):
        def probe(self, inp: Order) -> Done | None:
            return Done(key="found") if self._name in self._shop.rows and not forgets else None

    shop = Shop()
    report = await checked(shop, saga_of(charge=Probed(shop, "charge"), ship=Deed(shop, "ship")))
    cases = {str(case) for case in report.cases}
    assert cases >= {
        "crash before probe of 'charge'",
        "crash after probe of 'charge'",
        "crash recorded probe of 'charge'",
        "before probe of 'charge'",
        "after probe of 'charge'",
    }
    assert report.ok is not forgets, str(report)


async def test_compensation_that_waits_goes_wrong_at_each_of_its_visits() -> None:
    class Patient(Deed):
        async def compensate(self, inp: Order, out: Done, ctx: StepContext) -> Sleep | None:
            if not ctx.woken:
                return Sleep(timedelta(days=1))
            self._shop.rows.pop(self._name, None)
            return None

    shop = Shop()
    report = await checked(shop, saga_of(hold=Patient(shop, "hold"), ship=Deed(shop, "ship")))
    assert report.ok, str(report)
    assert "crash after compensate of 'hold', at visit 2" in {str(case) for case in report.cases}


async def test_saga_that_fails_by_itself_is_no_success() -> None:
    class Fails(Deed):
        async def execute(self, inp: Order, ctx: StepContext) -> Done:
            raise ValueError("sold out")

    shop = Shop()
    saga = saga_of(reserve=Deed(shop, "reserve"), ship=Fails(shop, "ship"))
    with pytest.raises(SagaStateError, match=r"the saga is not COMPLETED: .* goes into events="):
        await checked(shop, saga)
    report = await checked(shop, saga, ends=SagaStatus.COMPENSATED)
    assert report.ok, str(report)
    assert "after execute of 'ship'" in {str(case) for case in report.unreached}
    assert "never came there: after execute of 'ship'" in str(report)


def told(shop: Shop, sent: list[str], *hooks: str) -> SagaDefinition:
    """Return the shop's saga with hooks that send messages."""

    class Broker:
        async def publish(self, message: Message, *, idempotency_key: str) -> str | None:
            sent.append(message.topic)
            return None

    builder = SagaBuilder()
    builder.add_step(step=Deed(shop, "a"), input_map=lambda ctx: Order(order_id="o-1"))
    for hook in hooks:
        add = getattr(builder, hook)
        add(step=PublishStep(Broker()), input_map=lambda ctx: Message(topic=str(ctx.status)))
    return replace(shop_saga(shop), hooks=builder.build().hooks)


async def test_worker_is_lost_around_the_hooks_too() -> None:
    shop, sent = Shop(), list[str]()
    report = await checked(shop, told(shop, sent, "on_start", "on_completed", "on_compensated"))
    assert report.ok, str(report)
    for hook in ("on_start", "on_completed", "on_compensated"):
        tried = {str(case) for case in report.cases if case.step_id == hook}
        crash = {
            f"crash {moment} execute of '{hook}'" for moment in ("before", "after", "recorded")
        }
        assert tried == {*crash, f"before execute of '{hook}'", f"after execute of '{hook}'"}
    assert {"RUNNING", "COMPLETED", "COMPENSATED"} == set(sent)


async def test_hook_fails_where_a_test_plans_it() -> None:
    shop, sent = Shop(), list[str]()
    async with saga_env() as env:
        env.register("shop", told(shop, sent, "on_completed"))
        env.crash_at("after:on_completed")
        ended = await env.run("shop", "o-1")
    assert ended.status is SagaStatus.COMPLETED
    assert sent == ["COMPLETED", "COMPLETED"]
