"""`check_saga` on an example: nothing in it as it is, and what is planted in it."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from saga_core import SagaStatus
from saga_testing import CheckReport, check_saga

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
FLIGHT = """            raise ConnectionError("the airline does not answer")
        BOOKED.discard(out.code)
"""
HOTEL = """    async def compensate(self, inp: Trip, out: Booking) -> None:
        BOOKED.discard(out.code)
"""
FORGOTTEN = {"flight": FLIGHT, "hotel": HOTEL}


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the example import what lies beside it, as it does when it is run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


async def checked(planted: str | None, monkeypatch: pytest.MonkeyPatch) -> CheckReport:
    source = (EXAMPLES / "compensation_flow.py").read_text(encoding="utf-8")
    if planted is not None:
        assert source.count(FORGOTTEN[planted]) == 1
        lines = FORGOTTEN[planted]
        source = source.replace(lines, lines.replace("BOOKED.discard(out.code)", "pass"))
    example = types.ModuleType("compensation_flow")
    monkeypatch.setitem(sys.modules, "compensation_flow", example)
    exec(compile(source, "compensation_flow.py", "exec"), vars(example))
    return await check_saga(
        example.build_trip_saga(),
        initial_data={"city": "Porto"},
        world=lambda: example.BOOKED,
        reset=example.BOOKED.clear,
        ends=SagaStatus.COMPENSATED,
        raises=False,
    )


async def test_healthy_example_is_green(monkeypatch: pytest.MonkeyPatch) -> None:
    report = await checked(None, monkeypatch)
    assert report.ok, str(report)
    assert len(report.cases) > 20


@pytest.mark.parametrize("step", FORGOTTEN)
async def test_forgetful_compensation_in_the_example_is_red(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = await checked(step, monkeypatch)
    assert not report.ok
    blamed = {suspect for finding in report.findings for suspect in finding.suspects}
    assert blamed == {f"compensate of step '{step}' ran and has changed nothing"}
    assert f"world: '{step}-Porto' is left" in str(report)
