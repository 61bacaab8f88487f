"""Payloads: what is stored is what was meant, and what cannot be stored is said where."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from saga_core import PayloadError, PayloadLimits
from saga_core.codec import PayloadCodec, decode_json, encode_json

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
    "make", [changed, lambda: Number.model_construct(n="x"), lambda: "text", lambda: {"n": "x"}]
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
