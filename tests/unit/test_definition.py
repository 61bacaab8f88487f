"""What an input map sees, and what makes two definitions the same."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from saga_core import (
    BaseStep,
    InputContext,
    PayloadError,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaStateError,
    StepRef,
)
from saga_core.definition import OutputTexts


class Payment(BaseModel):
    model_config = ConfigDict(strict=True)

    at: datetime
    parts: tuple[int, ...] = Field(alias="shares")


TEXT = '{"at":"2026-01-02T00:00:00","parts":[1,2]}'
PAYMENT = Payment(at=datetime(2026, 1, 2), shares=(1, 2))  # noqa: DTZ001


@dataclass
class Text:
    output: str


class Watched(Mapping[str, Text]):
    """The outputs of a long saga, counting who looks at them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.looked_at: list[str] = []

    def __getitem__(self, step_id: str) -> Text:
        self.looked_at.append(step_id)
        return Text(TEXT)

    def __iter__(self) -> Iterator[str]:
        return (f"step_{n}" for n in range(self.number))

    def __len__(self) -> int:
        return self.number


@pytest.mark.parametrize(
    "outputs",
    [
        OutputTexts({"pay": Text(TEXT)}),
        {"pay": {"at": "2026-01-02T00:00:00", "parts": [1, 2]}},
    ],
    ids=["texts", "values"],
)
def test_output_is_read_as_json_of_its_type(outputs: Mapping[str, Any]) -> None:
    seen = InputContext(initial_data={}, step_outputs=outputs)
    assert seen.output_of(StepRef("pay", Payment)) == PAYMENT


def test_output_that_is_missing_or_of_another_type_is_our_error_without_its_value() -> None:
    seen = InputContext(initial_data={}, step_outputs=OutputTexts({"pay": Text('{"at":"secret"}')}))
    with pytest.raises(SagaStateError, match="'ship' has no output yet; done so far: pay"):
        seen.output_of(StepRef("ship", Payment))
    with pytest.raises(PayloadError, match="output of step 'pay'") as refused:
        seen.output_of(StepRef("pay", Payment))
    assert "secret" not in str(refused.value)


def test_only_the_outputs_that_are_looked_at_are_decoded() -> None:
    texts = Watched(200)
    seen = InputContext(initial_data={}, step_outputs=OutputTexts(texts))
    assert texts.looked_at == []
    assert seen.step_outputs["step_7"]["parts"] == [1, 2]
    assert texts.looked_at == ["step_7"]


def test_context_is_one_mapping_and_the_latest_event_the_last() -> None:
    seen = InputContext(initial_data=1, step_outputs={"a": 2}, events=(3, 4))
    assert seen.context == {"initial_data": 1, "step_outputs": {"a": 2}, "events": [3, 4]}
    assert seen.latest_event == 4
    assert InputContext(initial_data=1, step_outputs={}).latest_event is None


def saga_of(kind: Any) -> SagaDefinition:
    async def execute(self: Any, inp: Any) -> None: ...

    execute.__annotations__ = {"inp": kind, "return": None}
    builder = SagaBuilder()
    builder.add_step(step=type("Made", (BaseStep,), {"execute": execute})(), input_map=lambda _: {})
    return builder.build()


def test_unknown_step_is_refused_with_those_there_are() -> None:
    with pytest.raises(SagaDefinitionError, match="no step 'ship'; its steps: step_0"):
        saga_of(int).step("ship")


class Opaque:
    pass


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    it: Any = Opaque()
    other: Opaque | None = None


def test_fingerprint_of_what_has_no_json_schema_is_its_name_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saga_of(Holder).fingerprint == saga_of(Holder).fingerprint


ELSEWHERE = """
from typing import Literal
from pydantic import BaseModel
from saga_core import BaseStep, SagaBuilder

class Order(BaseModel):
    tags: set[str] = {"a", "b", "c", "d"}
    kind: Literal["x", "y"] = "x"
    below: dict[str, "Order"] = {}

class Take(BaseStep[Order, Order]):
    async def execute(self, inp: Order) -> Order:
        return inp

builder = SagaBuilder()
builder.add_step(step=Take(), input_map=lambda ctx: {})
print(builder.build().fingerprint)
"""


def test_fingerprint_is_the_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
