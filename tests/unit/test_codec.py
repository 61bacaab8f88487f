"""Payloads: what is stored is what was meant, and what cannot be stored is said where."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasPath, BaseModel, ConfigDict, Field, Json, computed_field, field_validator
from typing_extensions import TypedDict

from saga_core import PayloadError, PayloadLimits
from saga_core.codec import PayloadCodec, decode_json, encode_json

T = TypeVar("T")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_any_json_value_comes_back(value: Any) -> None:
    assert decode_json(encode_json(value, what="x"), what="x") == value


@dataclass
class Point:
    x: int


class Model(BaseModel):
    point: Point
    when: datetime


def test_models_dataclasses_and_common_types_are_json() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    value = {
        "model": Model(point=Point(1), when=moment),
        "id": UUID(int=1),
        "price": Decimal("1.50"),
    }
    assert decode_json(encode_json(value, what="x"), what="x") == {
        "model": {"point": {"x": 1}, "when": "2026-01-02T00:00:00Z"},
        "id": "00000000-0000-0000-0000-000000000001",
        "price": "1.50",
    }


WRONG: dict[str, Any] = {
    "data.a[1].b is nan": {"a": [0, {"b": float("nan")}]},
    "data.a is inf": {"a": float("inf")},
    "data.f is a object": {"f": object()},
    "data.x contains a NUL": {"x": "a\x00"},
    "data.x has a lone surrogate": {"x": "\udc00"},
    "data.a['b\\x00'] contains a NUL": {"a": {"b\x00": 1}},
    "data.a['b\\udc00'] has a lone surrogate": {"a": {"b\udc00": 1}},
    "data.a[0] is a object": {"a": {object()}},
    "data.b is bytes that are not UTF-8": {"b": b"\xff"},
}


@pytest.mark.parametrize(("text", "value"), WRONG.items(), ids=WRONG.keys())
def test_what_json_cannot_hold_is_named_by_its_path(text: str, value: Any) -> None:
    with pytest.raises(PayloadError) as refused:
        encode_json(value, what="data")
    assert text in str(refused.value)


def test_circular_values_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PayloadError, match="refers to itself"):
        encode_json(loop, what="data")


def test_value_that_holds_itself_twice_is_refused_at_once() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(PayloadError, match="refers to itself"):
        encode_json(loop, what="data")


@pytest.mark.parametrize("depth", [100, 205, 254, 300, 20_000])
def test_what_is_written_can_be_read_however_deep(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    try:
        text = encode_json(value, what="data")
    except PayloadError:
        assert depth > 100
    else:
        decode_json(text, what="data")


def test_backslash_before_u0000_is_no_nul() -> None:
    text = "\\u0000 and \\\\u0000"
    assert decode_json(encode_json(text, what="x"), what="x") == text


def test_size_is_warned_of_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    limits = PayloadLimits(max_bytes=1000, warn_bytes=500)
    with caplog.at_level(logging.WARNING):
        encode_json("x" * 600, what="report", limits=limits)
    assert "report has 602 bytes" in caplog.text
    with pytest.raises(PayloadError, match="report has 1,202 bytes"):
        encode_json("x" * 1200, what="report", limits=limits)
    default = PayloadLimits()
    assert (default.max_bytes, default.warn_bytes) == (2 * 1024 * 1024, 256 * 1024)


class Number(BaseModel):
    n: int
    alias: str = Field(default="d", alias="otherName")


codec = PayloadCodec(Number, what="test")


def test_value_read_back_is_what_a_recovered_run_sees() -> None:
    text, value = codec.roundtrip(Number(n=1, otherName="x"), what="x")
    assert value == codec.decode(text, what="x") == Number(n=1, otherName="x")


def test_mapping_is_taken_for_a_model() -> None:
    assert codec.roundtrip({"n": "7"}, what="x")[1].n == 7


def changed() -> Number:
    number = Number(n=1)
    number.n = "many"  # type: ignore[assignment]
    return number


@pytest.mark.parametrize(
    "make",
    [
        changed,
        lambda: Number.model_construct(n="x"),  # type: ignore[arg-type]
        lambda: "text",
        lambda: {"n": "x"},
    ],
)
def test_invalid_instances_are_caught_and_their_values_not_shown(make: Any) -> None:
    with pytest.raises(PayloadError) as refused:
        codec.encode(make(), what="output of step 'a'")
    assert "output of step 'a'" in str(refused.value)
    assert "many" not in str(refused.value)


def test_none_is_an_output_too() -> None:
    nothing = PayloadCodec(type(None), what="test")
    assert nothing.encode(None, what="x") == "null"
    with pytest.raises(PayloadError):
        nothing.encode(1, what="x")


def test_undecodable_text_is_our_error() -> None:
    for text in ("{", '{"n": "x"}', "NaN"):
        with pytest.raises(PayloadError):
            codec.decode(text, what="x")
    with pytest.raises(PayloadError):
        decode_json("{", what="x")


class Loose(BaseModel):
    share: float | None = None
    rest: Any = None


class Constants(Loose):
    model_config = ConfigDict(ser_json_inf_nan="constants")


class Words(Loose):
    model_config = ConfigDict(ser_json_inf_nan="strings")


@pytest.mark.parametrize("model", [Loose, Constants, Words])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_model_with_a_number_that_json_lacks_is_refused_not_changed(
    model: type[Loose], number: float
) -> None:
    typed = PayloadCodec(model, what="test")
    for value, where in ((model(share=number), "x.share"), (model(rest=[number]), r"x.rest\[0\]")):
        with pytest.raises(PayloadError, match=f"{where} is -?(nan|inf)"):
            typed.encode(value, what="x")
        with pytest.raises(PayloadError, match="which JSON cannot hold"):
            encode_json({"m": value}, what="x")


class Item(BaseModel):
    model_config = ConfigDict(frozen=True)

    n: float | None


def test_null_and_the_words_for_other_numbers_pass() -> None:
    items = PayloadCodec(set[Item], what="test")
    assert items.roundtrip({Item(n=None)}, what="x") == ('[{"n":null}]', {Item(n=None)})
    with pytest.raises(PayloadError, match=r"x\[0\].n is nan"):
        items.encode({Item(n=float("nan"))}, what="x")
    loose = PayloadCodec(Loose, what="test")
    assert loose.roundtrip(Loose(rest="NaN, Infinity"), what="x")[1].rest == "NaN, Infinity"


class Total(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int
    raw: Json[list[int]] = Field(default="[1]", validate_default=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.n * 2


def test_computed_and_json_fields_come_back() -> None:
    value = Total(n=2)
    assert PayloadCodec(Total, what="test").roundtrip(value, what="x")[1] == value


class Swapped(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: int = Field(alias="b")
    b: int = Field(alias="a")
    c: int = Field(validation_alias=AliasPath("in", 0), serialization_alias="out")


def test_aliases_of_any_kind_come_back() -> None:
    value = Swapped.model_validate({"a": 1, "b": 2, "in": [3]})
    assert PayloadCodec(Swapped, what="test").roundtrip(value, what="x")[1] == value


class Page(BaseModel, Generic[T]):
    items: list[T]
    below: Page[T] | None = None


class Named(TypedDict):
    n: int


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Page[Number], Page[Number](items=[Number(n=1)], below=Page[Number](items=[]))),
        (Named, {"n": 1}),
        (dict[str, list[Number]], {"a": [Number(n=1)]}),
        (Point, Point(1)),
        (Number | None, None),
    ],
    ids=["generic model", "typed dict", "nested", "dataclass", "optional"],
)
def test_any_type_that_pydantic_takes_comes_back(kind: Any, value: Any) -> None:
    made = PayloadCodec(kind, what="test")
    text, again = made.roundtrip(value, what="x")
    assert again == value == made.decode(text, what="x")


class Careless(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def look_up(cls, n: int) -> int:
        return {1: 1}[n]


def test_what_a_validator_raises_by_mistake_is_our_error() -> None:
    careless = PayloadCodec(Careless, what="test")
    with pytest.raises(PayloadError, match=r"input of step 'a' .* a validator raised KeyError"):
        careless.encode({"n": 7}, what="input of step 'a'")
    with pytest.raises(PayloadError, match="a validator raised KeyError"):
        careless.decode('{"n":7}', what="input of step 'a'")


def test_changed_instance_is_refused_by_its_field() -> None:
    point = Point(1)
    point.x = "secret"  # type: ignore[assignment]
    with pytest.raises(
        PayloadError, match=r"x is not a valid Point: x: Input should be"
    ) as refused:
        PayloadCodec(Point, what="test").encode(point, what="x")
    assert "secret" not in str(refused.value)


def test_messages_can_be_stored_whatever_the_keys_are() -> None:
    with pytest.raises(PayloadError) as refused:
        PayloadCodec(dict[str, int], what="test").encode({"a\x00\udc00": "x"}, what="x")
    assert str(refused.value).isprintable()
