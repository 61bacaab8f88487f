"""What is wrong with a saga is said when it is built, with the step's name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from saga_core import (
    BaseStep,
    FixedRetry,
    InputContext,
    SagaBuilder,
    SagaDefinitionError,
    StepRef,
)


class A(BaseModel):
    n: int


class B(BaseModel):
    n: int


class Step(BaseStep[A, B]):
    async def execute(self, inp: A) -> B:
        return B(n=inp.n)


def from_context(ctx: InputContext) -> A:
    return A(n=1)


def from_output(out: B) -> A:
    return A(n=out.n)


def from_wrong(out: A) -> A:
    return out


def to_wrong(ctx: InputContext) -> B:
    return B(n=1)


def to_mapping(ctx: InputContext) -> dict[str, Any]:
    return {"n": 1}


async def later(ctx: InputContext) -> A:
    return A(n=1)


class Callable_:  # noqa: N801
    def __call__(self, ctx: InputContext) -> A:
        return A(n=1)


def two(first: B, second: B) -> A:
    return A(n=first.n + second.n)


def foreign() -> StepRef[B]:
    return SagaBuilder().add_step(step=Step(), input_map=from_context)


def added(**options: Any) -> None:
    builder = SagaBuilder()
    first = builder.add_step(step=Step(), input_map=from_context, step_id="first")
    values = {"step": Step(), "input_map": from_context, "step_id": "charge"}
    if options.pop("dependent", False):
        values["depends_on"] = first
    builder.add_step(**{**values, **options})  # type: ignore[arg-type]
    builder.build()


WRONG: dict[str, dict[str, Any]] = {
    "two steps with the id 'first'": {"step_id": "first"},
    "step_id 'a b' is not valid": {"step_id": "a b"},
    "input_map must be callable": {"input_map": 7},
    "not async": {"input_map": later},
    "takes 'out: B', but it will get InputContext": {"input_map": from_output},
    "takes 'out: A', but it will get B": {"input_map": from_wrong, "dependent": True},
    "returns B, but the step needs A": {"input_map": to_wrong},
    "does not fit": {"input_map": lambda: A(n=1)},
    "pass an instance": {"step": Step},
    "must be a BaseStep": {"step": object()},
    "timeout must be a timedelta": {"timeout": 5},
    "timeout must be above zero": {"timeout": timedelta(0)},
    "compensation_timeout must be above zero": {"compensation_timeout": timedelta(-1)},
    "retry_policy must be a RetryPolicy": {"retry_policy": 3},
    "of another builder": {"depends_on": foreign()},
    "must be what add_step returned": {"depends_on": "first"},
}


@pytest.mark.parametrize(("text", "options"), WRONG.items(), ids=WRONG.keys())
def test_wrong_step_is_refused(text: str, options: dict[str, Any]) -> None:
    with pytest.raises(SagaDefinitionError) as refused:
        added(**options)
    assert text in str(refused.value)
    named = {"two steps", "step_id"}
    assert "charge" in str(refused.value) or any(word in text for word in named)


def test_empty_saga_is_refused() -> None:
    with pytest.raises(SagaDefinitionError, match="no steps"):
        SagaBuilder().build()


@pytest.mark.parametrize(
    "good",
    [
        lambda ctx: A(n=1),
        to_mapping,
        functools.partial(lambda n, ctx: A(n=n), 1),
        Callable_(),
        lambda *args: A(n=1),
    ],
)
def test_maps_of_any_kind_pass(good: Any) -> None:
    added(input_map=good)


def test_step_ids_count_from_zero_and_steps_keep_their_order() -> None:
    builder = SagaBuilder()
    refs = [builder.add_step(step=Step(), input_map=from_context) for _ in range(3)]
    made = builder.build()
    assert [ref.step_id for ref in refs] == ["step_0", "step_1", "step_2"]
    assert [spec.step_id for spec in made.steps] == ["step_0", "step_1", "step_2"]


def test_map_of_several_outputs_gets_them_in_order() -> None:
    builder = SagaBuilder()
    one = builder.add_step(step=Step(), input_map=from_context)
    other = builder.add_step(step=Step(), input_map=from_context)
    builder.add_step(step=Step(), input_map=two, depends_on=[one, other])
    assert builder.build().steps[2].depends_on == ("step_0", "step_1")


def test_built_definition_does_not_change_with_its_builder() -> None:
    builder = SagaBuilder()
    builder.add_step(step=Step(), input_map=from_context)
    made = builder.build()
    builder.add_step(step=Step(), input_map=from_context)
    assert len(made.steps) == 1
    with pytest.raises(AttributeError):
        made.steps = ()  # type: ignore[misc]


class Described(BaseModel):
    """Now with words."""

    n: int = Field(description="a number", title="N")


class Changed(BaseModel):
    n: str


def saga_of(*steps: tuple[str, type[BaseModel]]) -> Any:
    builder = SagaBuilder()
    for step_id, model in steps:

        async def execute(self: Any, inp: Any) -> Any:
            return inp

        execute.__annotations__ = {"inp": model, "return": model}
        made = type("Made", (BaseStep,), {"execute": execute})
        builder.add_step(
            step=made(),
            input_map=lambda ctx: {},
            step_id=step_id,
            retry_policy=FixedRetry(max_attempts=2, delay=timedelta(1)),
        )
    return builder.build()


def test_words_do_not_change_the_fingerprint_but_types_do() -> None:
    plain = saga_of(("a", A)).fingerprint
    assert saga_of(("a", Described)).fingerprint == plain
    assert saga_of(("a", Changed)).fingerprint != plain
    assert plain == saga_of(("a", A)).fingerprint


def test_differences_are_told_in_sentences() -> None:
    before = saga_of(("a", A), ("b", A), ("c", A)).fingerprint
    assert saga_of(("a", A), ("b", A), ("c", A)).differences(before) == []
    now = saga_of(("c", A), ("a", Changed), ("x", A))
    assert now.differences(before) == [
        "step 'b' is gone",
        "the input or output schema of step 'a' has changed",
        "step 'x' was added after 'a'",
        "the order of the steps has changed from ['a', 'c'] to ['c', 'a']",
    ]
    long = saga_of(*((f"step_{n}", A) for n in range(200)))
    assert long.fingerprint.startswith("sha256:")
    assert long.differences(before)


def test_mapping_annotation_passes() -> None:
    def to_abstract(ctx: InputContext) -> Mapping[str, int]:
        return {"n": 1}

    added(input_map=to_abstract)
