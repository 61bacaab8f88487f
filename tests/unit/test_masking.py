"""Secrets: what pydantic would write as asterisks is refused, and what it writes in full is not."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    field_serializer,
    model_serializer,
)
from typing_extensions import TypedDict

from saga_core import (
    BaseStep,
    HookContext,
    PayloadError,
    SagaBuilder,
    TypeValidationError,
)
from saga_core.codec import PayloadCodec, encode_json


class Text(BaseModel):
    k: SecretStr


class Bytes(BaseModel):
    k: SecretBytes | None = None


class Salary(Secret[float]):
    def _display(self) -> str:
        return "so much"


class Own(BaseModel):
    serialization: Salary  # a field that is called like a part of pydantic's schemas


class Typed(TypedDict):
    k: SecretStr


@dataclass
class Data:
    k: SecretStr


class Listed(RootModel[list[SecretStr]]):
    pass


class Card(BaseModel):
    kind: Literal["card"]
    number: SecretStr


class Cash(BaseModel):
    kind: Literal["cash"]


class Payment(BaseModel):
    by: Annotated[Card | Cash, Field(discriminator="kind")]


class Tree(BaseModel):
    leaf: Text | None = None
    branches: list[Tree] = []


class Sequences(BaseModel):
    k: Sequence[tuple[int, deque[SecretStr]]]


MASKED: dict[str, tuple[Any, str]] = {
    "text": (Text, "Text.k"),
    "bytes": (Bytes, "Bytes.k"),
    "a secret of its own": (Own, "Own.serialization"),
    "typed dict": (Typed, "Typed.k"),
    "dataclass": (Data, "Data.k"),
    "root model": (Listed, "Listed"),
    "union": (Payment, "Payment.by.number"),
    "recursive": (Tree, "Tree.leaf.k"),
    "sequences": (Sequences, "Sequences.k"),
    "mapping": (dict[str, Text], ".k"),
    "itself": (SecretStr, "SecretStr"),
}


@pytest.mark.parametrize("kind", MASKED)
def test_type_with_a_masked_secret_is_refused_with_the_way_to_it(kind: str) -> None:
    refused, where = MASKED[kind]
    with pytest.raises(TypeValidationError, match=r"^output: .*asterisks") as error:
        PayloadCodec.of_written(refused, what="output")
    assert f"{where} is a secret" in str(error.value)


class InTheOpen(BaseModel):
    k: SecretStr

    @field_serializer("k", when_used="json")
    def written(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Whole(BaseModel):
    k: SecretStr

    @model_serializer
    def written(self) -> dict[str, str]:
        return {"k": self.k.get_secret_value()}


class Annotation(BaseModel):
    k: Annotated[SecretStr, PlainSerializer(lambda value: value.get_secret_value())] | None


class Wrapped(BaseModel):
    k: SecretStr

    @field_serializer("k", mode="wrap")
    def written(self, value: SecretStr, _: Any) -> str:
        return value.get_secret_value()


OPEN = [InTheOpen, Whole, Annotation, Wrapped]


@pytest.mark.parametrize("kind", OPEN)
def test_model_that_writes_its_secret_in_the_open_keeps_it(kind: type[BaseModel]) -> None:
    codec = PayloadCodec.of_written(kind, what="x")
    text, value = codec.roundtrip({"k": "hunter2"}, what="x")
    assert text == '{"k":"hunter2"}'
    assert value.k.get_secret_value() == "hunter2"
    both = PayloadCodec.of_written(tuple[kind, list[kind]], what="x")
    assert both.encode(({"k": "a"}, [{"k": "b"}]), what="x") == '[{"k":"a"},[{"k":"b"}]]'


class PassedOn(BaseModel):
    k: SecretStr

    @model_serializer(mode="wrap")
    def written(self, handler: Any) -> Any:
        return handler(self)


class Loose(BaseModel):
    k: Any


def test_secret_that_no_type_shows_is_refused_when_it_is_written() -> None:
    for kind in (PassedOn, Loose):
        codec = PayloadCodec.of_written(kind, what="x")
        with pytest.raises(PayloadError, match=r"^x\.k is a secret\. Pydantic writes it as aster"):
            codec.encode(kind(k=SecretStr("hunter2")), what="x")
    for value in ({"a": [SecretBytes(b"hunter2")]}, {"a": [Text(k=SecretStr("hunter2")).k]}):
        with pytest.raises(PayloadError, match=r"^data\.a\[0\] is a secret"):
            encode_json(value, what="data")


def test_asterisks_that_are_no_mask_are_stored() -> None:
    assert encode_json({"k": "*" * 10}, what="data") == '{"k":"**********"}'
    codec = PayloadCodec.of_written(InTheOpen, what="x")
    assert codec.encode({"k": "*" * 10}, what="x") == '{"k":"**********"}'


class Shown(BaseModel):
    k: str = Field(json_schema_extra={"writeOnly": True, "format": "password"})
    left: SecretStr = Field(default=SecretStr(""), exclude=True)


def test_what_only_looks_like_a_secret_is_stored() -> None:
    codec = PayloadCodec.of_written(Shown, what="x")
    assert codec.encode({"k": "hunter2", "left": "me"}, what="x") == '{"k":"hunter2"}'


class Odd(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    logger: logging.Logger | None = None
    n: int


def test_model_without_a_json_schema_works() -> None:
    assert PayloadCodec.of_written(Odd, what="x").decode('{"n":1}', what="x") == Odd(n=1)


class Takes(BaseStep[Text, int]):
    async def execute(self, inp: Text) -> int:
        return 1


class Gives(BaseStep[int, Text]):
    async def execute(self, inp: int) -> Text:
        return Text(k=SecretStr("hunter2"))


class Tells(BaseStep[Text, None]):
    async def execute(self, inp: Text) -> None: ...


def _text(ctx: Any) -> Text:
    return Text(k=SecretStr("hunter2"))


def _hook_text(ctx: HookContext) -> Text:
    return Text(k=SecretStr("hunter2"))


def test_step_and_hook_with_a_masked_secret_are_refused_where_they_are_added() -> None:
    builder = SagaBuilder()
    with pytest.raises(TypeValidationError, match=r"step 'step_0' \(Takes\), input: Text\.k is a"):
        builder.add_step(step=Takes(), input_map=_text)
    with pytest.raises(TypeValidationError, match=r"step 'step_0' \(Gives\), output: Text\.k is"):
        builder.add_step(step=Gives(), input_map=lambda ctx: 1)
    with pytest.raises(TypeValidationError, match=r"hook .*\(Tells\), input: Text\.k is a secret"):
        builder.on_failed(step=Tells(), input_map=_hook_text)
