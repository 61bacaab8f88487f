"""`check_saga` plays a saga together with those that it starts."""

from __future__ import annotations

from typing import Any

import pytest

from saga_core import (
    BaseStep,
    ChildStart,
    FixedRetry,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
)
from saga_testing import CheckReport, check_saga
from tests.rehearsal.shop import HOUR, Counted, Deed, Order, Shop, Threaded, saga_of


def trip(shop: Shop, *, child_is: str = "middle", **options: Any) -> SagaDefinition:
    """Return a saga that starts `stay`: first, between its own steps, or last."""
    builder = SagaBuilder()
    before: BaseStep[Any, Any] = Deed(shop, "flight")
    if child_is != "first":
        builder.add_step(step_id="flight", step=before, input_map=_order)
    builder.add_child(
        step_id="stay",
        saga_name="hotel",
        input_map=_start,
        **options,
    )
    if child_is != "last":
        builder.add_step(step_id="pay", step=Deed(shop, "pay"), input_map=_order)
    return builder.build()


def _order(_: Any) -> Order:
    return Order(order_id="o-1")


def _start(_: Any) -> ChildStart:
    return ChildStart(initial_data="o-1")


async def checked(shop: Shop, saga: SagaDefinition, **options: Any) -> CheckReport:
    more = {"world": shop.look, "reset": shop.reset, "raises": False, **options}
    return await check_saga(saga, initial_data="o-1", **more)


@pytest.mark.parametrize("child_is", ["first", "middle", "last"])
async def test_healthy_family_is_all_right(child_is: str) -> None:
    shop = Shop()
    hotel = saga_of(room=Deed(shop, "room"), table=Threaded(shop, "table"))
    report = await checked(shop, trip(shop, child_is=child_is), children={"hotel": hotel})
    assert report.ok, str(report)
    assert not report.unreached, str(report)
    ran = {(case.step_id, case.action, case.boundary) for case in report.cases}
    for step_id in ("room", "table"):
        assert {(step_id, "execute", each) for each in ("before", "after", "crash")} <= ran
    assert {("room", "compensate", each) for each in ("before", "after", "crash")} <= ran
    assert {("stay", "execute", "crash")} <= ran


@pytest.mark.parametrize("step", ["room", "table"])
async def test_forgetful_compensation_of_a_child_is_found_and_named(step: str) -> None:
    shop = Shop()
    steps = {name: Deed(shop, name, forgets=name == step) for name in ("room", "table")}
    report = await checked(shop, trip(shop), children={"hotel": saga_of(**steps)})
    blamed = {suspect for finding in report.findings for suspect in finding.suspects}
    assert blamed == {f"compensate of step '{step}' ran and has changed nothing"}


async def test_forgetful_parent_is_found_when_its_child_fails() -> None:
    shop = Shop()
    builder = SagaBuilder()
    builder.add_step(step_id="flight", step=Deed(shop, "flight", forgets=True), input_map=_order)
    builder.add_child(step_id="stay", saga_name="hotel", input_map=_start)
    hotel = saga_of(room=Deed(shop, "room"))
    report = await checked(shop, builder.build(), children={"hotel": hotel})
    found = {str(finding.case) for finding in report.findings}
    assert "before execute of 'room'" in found
    assert {each for finding in report.findings for each in finding.suspects} == {
        "compensate of step 'flight' ran and has changed nothing"
    }


async def test_child_that_leaves_more_when_it_runs_twice_is_found() -> None:
    shop = Shop()
    report = await checked(
        shop, trip(shop), children={"hotel": saga_of(room=Counted(shop, "room"))}
    )
    assert "crash after execute of 'room'" in {str(finding.case) for finding in report.findings}


async def test_child_that_is_tried_again_and_one_past_the_pivot_are_all_right() -> None:
    shop = Shop()
    hotel = saga_of(room=Deed(shop, "room"), table=Deed(shop, "table"))
    again = trip(shop, retry_policy=FixedRetry(max_attempts=2, delay=HOUR))
    report = await checked(shop, again, children={"hotel": hotel})
    assert report.ok, str(report)
    builder = SagaBuilder()
    builder.add_step(step_id="pay", step=Deed(shop, "pay"), input_map=_order, pivot=True)
    builder.add_child(step_id="stay", saga_name="hotel", input_map=_start)
    report = await checked(shop, builder.build(), children={"hotel": hotel})
    assert report.ok, str(report)
    assert {"room", "table"} <= {case.step_id for case in report.cases}


async def test_child_of_a_child_takes_part() -> None:
    shop = Shop()
    builder = SagaBuilder()
    builder.add_child(step_id="wing", saga_name="wing", input_map=_start)
    builder.add_step(step_id="table", step=Deed(shop, "table"), input_map=_order)
    children = {"hotel": builder.build(), "wing": saga_of(room=Deed(shop, "room", forgets=True))}
    report = await checked(shop, trip(shop), children=children)
    blamed = {suspect for finding in report.findings for suspect in finding.suspects}
    assert blamed == {"compensate of step 'room' ran and has changed nothing"}


async def test_two_children_side_by_side_take_part() -> None:
    shop = Shop()
    builder = SagaBuilder(parallel=True)
    for name in ("hotel", "car"):
        builder.add_child(step_id=f"the-{name}", saga_name=name, input_map=_start)
    children = {
        "hotel": saga_of(room=Deed(shop, "room")),
        "car": saga_of(key=Deed(shop, "key"), tank=Deed(shop, "tank")),
    }
    report = await checked(shop, builder.build(), children=children)
    assert report.ok, str(report)
    children["car"] = saga_of(key=Deed(shop, "key", forgets=True), tank=Deed(shop, "tank"))
    report = await checked(shop, builder.build(), children=children)
    assert not report.ok


async def test_children_that_do_not_fit_are_refused() -> None:
    shop = Shop()
    hotel = saga_of(room=Deed(shop, "room"))
    with pytest.raises(SagaDefinitionError, match="children= does not have them: hotel"):
        await check_saga(trip(shop))
    with pytest.raises(SagaDefinitionError, match="nobody starts: car"):
        await check_saga(trip(shop), children={"hotel": hotel, "car": hotel})
    with pytest.raises(SagaDefinitionError, match="step 'pay' is in the saga and in hotel"):
        await check_saga(trip(shop), children={"hotel": saga_of(pay=Deed(shop, "pay"))})
    with pytest.raises(SagaDefinitionError, match="got 7"):
        await check_saga(trip(shop), children={"hotel": 7})  # type: ignore[dict-item]
    with pytest.raises(SagaDefinitionError, match="sagas by name"):
        await check_saga(trip(shop), children=hotel)  # type: ignore[arg-type]
    builder = SagaBuilder()
    builder.add_child(step_id="again", saga_name="hotel", input_map=_start)
    with pytest.raises(SagaDefinitionError, match="starts itself: hotel -> hotel"):
        await check_saga(trip(shop), children={"hotel": builder.build()})
