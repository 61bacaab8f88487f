"""What is wrong with a step class is said when the class is made."""

from __future__ import annotations

import functools
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Optional, TypeVar, Union

import pytest
from pydantic import BaseModel

from saga_core import AwaitEvent, BaseStep, Sleep, StepContext, TypeValidationError
from saga_core.step import CallShape

T = TypeVar("T")
U = TypeVar("U")


class In(BaseModel):
    n: int


class Out(BaseModel):
    n: int


def test_types_and_shapes_are_read_from_the_annotations() -> None:
    class Step(BaseStep[In, Out]):
        async def execute(self, inp: In, ctx: StepContext) -> Out:
            return Out(n=inp.n)

        def compensate(self, inp: In, out: Out) -> None:
            return None

    signature = Step.__saga_signature__
    assert signature is not None
    assert (signature.input_type, signature.output_type) == (In, Out)
    assert signature.execute == CallShape(takes_context=True, is_async=True)
    assert signature.compensate == CallShape(takes_context=False, is_async=False)


def test_compensate_is_really_optional() -> None:
    class Step(BaseStep[In, Out]):
        async def execute(self, inp: In) -> Out:
            return Out(n=1)

    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.compensate is None


def test_compensation_may_take_none_for_the_output() -> None:
    class Sure(BaseStep[In, Out]):
        async def execute(self, inp: In) -> Out:
            return Out(n=1)

        async def compensate(self, inp: In, out: Out) -> None: ...

    class Unsure(Sure):
        async def compensate(self, inp: In, out: Out | None, ctx: StepContext) -> None: ...

    class Widest(BaseStep[In, Out | int]):
        async def execute(self, inp: In) -> Out | int:
            return 1

        async def compensate(self, inp: In, out: Optional[Union[Out, int]]) -> None: ...  # noqa: UP007, UP045

    takes_none = [step.__saga_signature__.undoes_without_output for step in (Sure, Unsure, Widest)]
    assert takes_none == [False, True, True]


def test_probe_is_read_and_inherited() -> None:
    class Asked(BaseStep[In, Out]):
        async def execute(self, inp: In) -> Out:
            return Out(n=1)

        def probe(self, inp: In, ctx: StepContext) -> Out | None:
            return None

    class Same(Asked):
        pass

    class Other(Asked):
        async def probe(self, inp: In) -> Out | None:
            return None

    assert Asked.__saga_signature__ is not None
    assert Asked.__saga_signature__.probe == CallShape(takes_context=True, is_async=False)
    assert Same.__saga_signature__ is Asked.__saga_signature__
    assert Other.__saga_signature__ is not None
    assert Other.__saga_signature__.probe == CallShape(takes_context=False, is_async=True)


def test_models_made_inside_a_function_are_found() -> None:
    class Local(BaseModel):
        n: int

    class Step(BaseStep[Local, Local]):
        async def execute(self, inp: Local) -> Local:
            return inp

    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.input_type is Local


def test_subclass_keeps_and_may_extend_what_it_inherits() -> None:
    class Base(BaseStep[In, Out]):
        async def execute(self, inp: In) -> Out:
            return Out(n=1)

    class More(Base):
        async def compensate(self, inp: In, out: Out) -> None:
            return None

    class Same(Base):
        pass

    assert More.__saga_signature__ is not None
    assert More.__saga_signature__.compensate is not None
    assert Same.__saga_signature__ is Base.__saga_signature__


class Plain(BaseStep[In, Out]):
    async def execute(self, inp: In) -> Out:
        return Out(n=1)


class Undo:
    async def compensate(self, inp: In, out: Out) -> None:
        return None


def test_compensate_from_a_mixin_counts() -> None:
    class Step(Undo, Plain):
        pass

    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.compensate == CallShape(takes_context=False, is_async=True)
    assert Plain.__saga_signature__ is not None
    assert Plain.__saga_signature__.compensate is None


class Echo(BaseStep[T, T], Generic[T]):
    async def execute(self, inp: T) -> T:
        return inp


def test_type_variables_are_filled_by_the_subclass() -> None:
    class Step(Echo[In]):
        pass

    assert Echo.__saga_signature__ is None
    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.input_type is In
    assert Step.__saga_signature__.output_type is In


def test_abstract_generic_steps_between_hold_the_subclass_to_its_types() -> None:
    class Between(BaseStep[T, U], Generic[U, T]):
        pass

    with pytest.raises(TypeValidationError, match=r"output type Out, but the class says .* In"):

        class Step(Between[In, In]):
            async def execute(self, inp: In) -> Out:
                raise AssertionError


def test_parameters_in_quotes_are_read() -> None:
    class Step(BaseStep["In", "Out"]):
        async def execute(self, inp: In) -> Out:
            return Out(n=1)

    assert Step.__saga_signature__ is not None
    with pytest.raises(TypeValidationError, match="make them the same"):

        class Wrong(BaseStep["In", "In"]):
            async def execute(self, inp: In) -> Out:
                raise AssertionError


def test_local_models_are_found_again_when_their_function_has_returned() -> None:
    def made() -> tuple[type[BaseStep[Any, Any]], type[BaseModel]]:
        class Local(BaseModel):
            n: int

        class Step(BaseStep[Local, Local]):
            async def execute(self, inp: Local) -> Local:
                return inp

        return Step, Local

    base, model = made()

    class More(base):  # type: ignore[misc, valid-type]
        async def compensate(self, inp: model, out: model) -> None:  # type: ignore[valid-type]
            return None

    assert More.__saga_signature__ is not None
    assert More.__saga_signature__.input_type is model


def test_local_models_are_found_through_a_base_with_its_own_hook() -> None:
    class Hooked(BaseStep[T, U]):
        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)

    class Local(BaseModel):
        n: int

    class Step(Hooked[Local, Local]):
        async def execute(self, inp: Local) -> Local:
            return inp

    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.input_type is Local


def traced(function: Any) -> Any:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def test_coroutine_function_behind_a_plain_wrapper_is_awaited() -> None:
    class Step(BaseStep[In, Out]):
        @traced
        async def execute(self, inp: In) -> Out:
            return Out(n=1)

    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.execute.is_async


def test_context_may_be_declared_optional() -> None:
    class Step(BaseStep[In, Out]):
        def execute(self, inp: In, ctx: StepContext | None = None) -> Out:
            return Out(n=1)

    assert Step.__saga_signature__ is not None
    assert Step.__saga_signature__.execute == CallShape(takes_context=True, is_async=False)


async def _unannotated(self: Any, inp):  # type: ignore[no-untyped-def]
    return None


async def _no_return(self: Any, inp: In):  # type: ignore[no-untyped-def]
    return None


async def _too_many(self: Any, inp: In, ctx: StepContext, more: int) -> Out:
    raise AssertionError


async def _no_input(self: Any) -> Out:
    raise AssertionError


async def _star(self: Any, *inp: In) -> Out:
    raise AssertionError


async def _bad_context(self: Any, inp: In, ctx: int) -> Out:
    raise AssertionError


async def _generator(self: Any, inp: In) -> Out:  # type: ignore[misc]
    yield Out(n=1)


async def _right(self: Any, inp: In) -> Out:
    raise AssertionError


async def _undo_wrong_type(self: Any, inp: In, out: In) -> None:
    return None


async def _undo_short(self: Any, inp: In) -> None:
    return None


async def _undo_returns(self: Any, inp: In, out: Out) -> Out:
    return out


async def _probe_wrong_type(self: Any, inp: Out) -> Out | None:
    return inp


async def _undo_short_of_probe(self: Any) -> Out | None:
    return None


async def _or_none(self: Any, inp: In) -> Out | None:
    return None


WRONG = {
    "no annotation": {"execute": _unannotated},
    "no return annotation": {"execute": _no_return},
    "needs 1 parameter": {"execute": _too_many},
    "it needs 1 parameter": {"execute": _no_input},
    "takes ": {"execute": _star},
    "StepContext": {"execute": _bad_context},
    "must not yield": {"execute": _generator},
    "must be a method": {"execute": 7},
    "'out' is In, but execute's output is Out": {
        "execute": _right,
        "compensate": _undo_wrong_type,
    },
    "needs 2 parameter": {"execute": _right, "compensate": _undo_short},
    "annotate it `-> None`": {"execute": _right, "compensate": _undo_returns},
    "no execute": {"compensate": _undo_short},
    "probe's parameter 'inp' is Out": {"execute": _right, "probe": _probe_wrong_type},
    "annotate it `-> Out | None`": {"execute": _right, "probe": _right},
    "probe has no return annotation": {"execute": _right, "probe": _no_return},
    "needs 1 parameter(s) and may take a StepContext after them, like `async def probe": {
        "execute": _right,
        "probe": _undo_short_of_probe,
    },
    "a probe's None says that the step was not done": {"execute": _or_none, "probe": _or_none},
}


@pytest.mark.parametrize(("text", "body"), WRONG.items(), ids=WRONG.keys())
def test_wrong_step_is_refused_with_its_name_and_a_remedy(text: str, body: dict[str, Any]) -> None:
    with pytest.raises(TypeValidationError) as refused:
        type("Charge", (BaseStep,), dict(body))
    assert text in str(refused.value)
    assert "Charge" in str(refused.value)


def test_parameters_of_the_base_must_agree_with_the_annotations() -> None:
    with pytest.raises(TypeValidationError, match="execute has the output type Out"):

        class Step(BaseStep[In, In]):
            async def execute(self, inp: In) -> Out:
                raise AssertionError


USER_CODE = """
from typing import assert_type
from pydantic import BaseModel
from saga_core import BaseStep, StepContext, StepRef, SagaBuilder

class A(BaseModel):
    n: int

class One(BaseStep[A, A]):
    async def execute(self, inp: A) -> A:
        return inp

class Two(BaseStep[A, A]):
    def execute(self, inp: A, ctx: StepContext) -> A:
        return inp

    async def compensate(self, inp: A, out: A) -> None:
        return None

class Three(BaseStep[A, A]):
    async def execute(self, inp: A) -> A:
        return inp

    def compensate(self, inp: A, out: A | None, ctx: StepContext) -> None:
        return None

    async def probe(self, inp: A, ctx: StepContext) -> A | None:
        return None

builder = SagaBuilder()
ref = builder.add_step(step=One(), input_map=lambda ctx: A(n=1))
assert_type(ref, StepRef[A])
builder.add_step(
    step=Three(), input_map=lambda out: A(n=out.n), depends_on=ref, compensate_when="maybe_done"
)
builder.add_step(step=Two(), input_map=lambda out: A(n=out.n), depends_on=ref, pivot=True)
"""


def test_users_step_needs_no_type_ignore(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER_CODE)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_waits_are_no_output_of_a_step() -> None:
    class Step(BaseStep[In, Out]):
        async def execute(self, inp: In, ctx: StepContext) -> Out | AwaitEvent | Sleep:
            return AwaitEvent(Out)

        async def compensate(self, inp: In, out: Out, ctx: StepContext) -> AwaitEvent | None:
            return None

    class Nothing(BaseStep[In, None]):
        async def execute(self, inp: In) -> Sleep | None: ...

    class Several(BaseStep[In, Out | int]):
        async def execute(self, inp: In) -> Out | int | AwaitEvent:
            return 1

        def compensate(self, inp: In, out: Out | int) -> AwaitEvent:
            return AwaitEvent(Out)

    signatures = [step.__saga_signature__ for step in (Step, Nothing, Several)]
    assert [each.output_type for each in signatures if each] == [Out, type(None), Out | int]


def test_step_that_only_waits_is_asked_what_it_puts_out() -> None:
    with pytest.raises(TypeValidationError, match=r"like `-> None \| Sleep`"):

        class Step(BaseStep[In, None]):
            async def execute(self, inp: In) -> Sleep:
                return Sleep(timedelta(1))
