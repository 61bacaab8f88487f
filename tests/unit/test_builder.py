"""What is wrong with a saga is said when it is built, with the step's name."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Annotated, Any, Generic, Literal, NewType, Self, TypeVar

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from saga_core import (
    BaseStep,
    FixedRetry,
    InputContext,
    SagaBuilder,
    SagaDefinitionError,
    StepRef,
)

T = TypeVar("T")


class A(BaseModel):
    n: int


class B(BaseModel):
    n: int


class Step(BaseStep[A, B]):
    async def execute(self, inp: A) -> B:
        return B(n=inp.n)


class Undone(Step):
    async def compensate(self, inp: A, out: B) -> None: ...


class MaybeUndone(Step):
    async def compensate(self, inp: A, out: B | None) -> None: ...


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
    builder.add_step(**{**values, **options})
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
    "pivot must be True or False": {"pivot": 1},
    'compensate_when must be "done" or "maybe_done"': {"compensate_when": "always"},
    "needs a compensate method": {"compensate_when": "maybe_done"},
    "annotate compensate's `out: B | None`": {"step": Undone(), "compensate_when": "maybe_done"},
    "has no meaning for the pivot": {
        "step": MaybeUndone(),
        "compensate_when": "maybe_done",
        "pivot": True,
    },
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


def step_of(taken: Any, made: Any) -> BaseStep[Any, Any]:
    async def execute(self: Any, inp: Any) -> Any:
        return inp

    execute.__annotations__ = {"inp": taken, "return": made}
    step: BaseStep[Any, Any] = type("Made", (BaseStep,), {"execute": execute})()
    return step


def map_of(taken: Any, made: Any) -> Any:
    def input_map(it: Any) -> Any:
        return it

    input_map.__annotations__ = {"it": taken, "return": made}
    return input_map


class Small(TypedDict):
    n: int


class Large(Small):
    m: int


Count = NewType("Count", int)

RETURNS: list[tuple[Any, Any, bool]] = [
    (A, Any, True),
    (A, A | None, True),
    (None, A | None, True),
    (A | None, A, False),
    (A | dict[str, int], A, True),
    (A | str, A, False),
    (A, Annotated[A, "noted"], True),
    (Annotated[A, "noted"], A, True),
    (Self, A, True),
    (list[A], list[A], True),
    (list, list[A], True),
    (list[B], list[A], False),
    (A, list[A], False),
    (list[int], Sequence[int], True),
    (int, float, True),
    (float, int, False),
    (str, Literal["a", "b"], True),
    (int, Literal["a", "b"], False),
    (Count, int, True),
    (str, Count, False),
    (Large, Small, True),
    (A, Small, False),
]


@pytest.mark.parametrize(("returned", "needed", "good"), RETURNS)
def test_what_a_map_returns_must_fit_the_step(returned: Any, needed: Any, good: bool) -> None:
    builder = SagaBuilder()
    with nullcontext() if good else pytest.raises(SagaDefinitionError, match="returns"):
        builder.add_step(step=step_of(needed, B), input_map=map_of(InputContext, returned))


TAKES: list[tuple[Any, Any, bool]] = [
    (B, B | None, True),
    (B | None, B, False),
    (dict[str, Any], Mapping[str, Any], True),
    (list[A], list, True),
    (list[A], list[B], False),
    (None, None, True),
    (Annotated[B, "noted"], B, True),
    (float, str, False),
    (Small, Small, True),
    (Small, A, False),
]


@pytest.mark.parametrize(("made", "taken", "good"), TAKES)
def test_what_a_map_takes_must_fit_the_output(made: Any, taken: Any, good: bool) -> None:
    builder = SagaBuilder()
    first = builder.add_step(step=step_of(A, made), input_map=from_context)
    with nullcontext() if good else pytest.raises(SagaDefinitionError, match="it will get"):
        builder.add_step(step=step_of(A, B), input_map=map_of(taken, A), depends_on=first)


def test_map_is_held_to_types_made_inside_a_function() -> None:
    class Local(BaseModel):
        n: int

    def to_local(ctx: InputContext) -> Local:
        return Local(n=1)

    with pytest.raises(SagaDefinitionError, match="Local, but the step needs A"):
        added(input_map=to_local)


def test_step_of_open_types_is_refused_with_the_way_out() -> None:
    class Echo(BaseStep[T, T], Generic[T]):
        async def execute(self, inp: T) -> T:
            return inp

    with pytest.raises(SagaDefinitionError, match=r"still open; .*Echo\[Input, Output\]"):
        added(step=Echo[A]())


def test_reference_to_a_step_that_was_not_added_is_refused() -> None:
    builder = SagaBuilder()
    with pytest.raises(SagaDefinitionError, match="'ghost', which was not added"):
        builder.add_step(
            step=Step(), input_map=from_output, depends_on=StepRef("ghost", B, builder)
        )


class Unfinished(BaseModel):
    it: Nowhere  # type: ignore[name-defined]  # noqa: F821


def test_model_that_is_not_whole_is_refused_when_the_step_is_added() -> None:
    with pytest.raises(SagaDefinitionError, match=r"charge.*Nowhere"):
        added(step=step_of(Unfinished, B))


def test_saga_has_at_most_one_pivot_and_nothing_uncertain_after_it() -> None:
    builder = SagaBuilder()
    builder.add_step(step=MaybeUndone(), input_map=from_context, compensate_when="maybe_done")
    builder.add_step(step=Step(), input_map=from_context, step_id="pay", pivot=True)
    with pytest.raises(SagaDefinitionError, match="step 'pay' is the saga's pivot already"):
        builder.add_step(step=Step(), input_map=from_context, pivot=True)
    with pytest.raises(SagaDefinitionError, match="a step after the pivot, which is never undone"):
        builder.add_step(step=MaybeUndone(), input_map=from_context, compensate_when="maybe_done")
    made = builder.build()
    assert made.pivot is not None
    assert made.pivot.step_id == "pay"
