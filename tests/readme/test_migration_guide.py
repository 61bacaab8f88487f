"""What docs/from-python-saga-orchestrator.md prints works as printed."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from tests.readme.diffing import patched
from tests.readme.documents import ROOT, blocks

GUIDE = ROOT / "docs" / "from-python-saga-orchestrator.md"
BLOCKS = blocks(GUIDE)
TEXT = GUIDE.read_text(encoding="utf-8")


def after() -> str:
    return patched(BLOCKS["before"], BLOCKS["diff"])


def test_every_block_is_tested() -> None:
    assert set(BLOCKS) == {"before", "start", "diff", "calls"}
    assert TEXT.count("\n```") == 2 * len(BLOCKS)


def test_diff_touches_neither_steps_nor_the_saga() -> None:
    old, new = (_definitions(text) for text in (BLOCKS["before"], after()))
    assert list(old) == list(new)
    assert [name for name in old if old[name] != new[name]] == ["setup_saga"]


def test_diff_is_imports_type_parameters_and_the_store() -> None:
    kinds = r"import |SagaStateMixin,|\[OrderSagaState\]|model_class=|session_maker=session_maker"
    removed = [line for line in BLOCKS["diff"].splitlines()[2:] if line.startswith("-")]
    assert [line for line in removed if not re.search(kinds, line)] == []
    assert "saga_orchestrator" not in after()
    assert after().count("OrderSagaState") == 2  # the model itself, and the store's argument


def _definitions(text: str) -> dict[str, str]:
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {
        node.name: ast.unparse(node) for node in ast.parse(text).body if isinstance(node, kinds)
    }


@pytest.fixture
def program() -> Iterator[ModuleType]:
    """The old program with the diff applied, imported."""
    module = ModuleType("migrated_sagas")
    sys.modules[module.__name__] = module
    exec(compile(after(), "sagas.py", "exec"), vars(module))
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
async def names(program: ModuleType, engine: AsyncEngine) -> dict[str, Any]:
    """What the program's calls are made with: its own names, and sessions on its tables."""
    async with engine.begin() as connection:
        await connection.run_sync(program.Base.metadata.create_all)
    return {**vars(program), "session_maker": async_sessionmaker(engine)}


async def run(text: str, names: dict[str, Any]) -> None:
    """Run statements that await, as they are printed."""
    code = compile(text, "calls.py", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, names)
    if inspect.isawaitable(waiting):
        await waiting


async def test_printed_diff_makes_the_old_program_run(names: dict[str, Any]) -> None:
    await run(BLOCKS["start"], names)
    async with names["session_maker"]() as session:
        row = await session.get_one(names["OrderSagaState"], names["saga_id"])
    assert row.status == "COMPLETED"
    assert row.aggregation_id == "order-123"
    assert row.context["step_outputs"] == {
        "step_0": {"reservation_id": "res-order-123"},
        "step_1": {"payment_id": "pay-res-order-123"},
    }


CALLS = {
    "run_due|get_saga|print": "SUSPENDED",  # nothing is due yet
    "notify": "COMPLETED",
    "retry_step": "COMPLETED",
    "skip_step": "COMPLETED",
    "compensate_step": "COMPENSATED",
    "abort": "FAILED",
}


def statements(names: str) -> list[str]:
    """Return those of the printed calls that call one of the names."""
    printed = map(ast.unparse, ast.parse(BLOCKS["calls"]).body)
    return [each for each in printed if re.search(rf"\b({names})\(", each)]


def test_every_printed_call_is_made_once() -> None:
    made = [each for names in CALLS for each in statements(names)]
    assert sorted(made) == sorted(map(ast.unparse, ast.parse(BLOCKS["calls"]).body))


@pytest.mark.parametrize("calls", CALLS)
async def test_call_of_the_old_readme_does_what_it_says(
    calls: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    charge = names["ChargePaymentStep"]
    charge.execute = failing_once(charge.execute)
    await run(BLOCKS["start"], names)
    before = await names["admin"].get_saga(names["saga_id"])
    assert before.status == "SUSPENDED"
    names["current_token"] = before.step_execution_token

    for each in statements(calls):
        await run(each, names)

    now = await names["admin"].get_saga(names["saga_id"])
    assert now.status == CALLS[calls]
    assert names.get("accepted", True) is True
    if "print" in calls:
        printed = capsys.readouterr().out
        assert printed.startswith("SUSPENDED\n")
        assert "no answer" in printed  # the history tells the error


def failing_once(execute: Callable[..., Any]) -> Callable[..., Any]:
    attempts = 0

    async def first_fails(self: Any, inp: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ConnectionError("no answer")
        return await execute(self, inp)

    return first_fails
