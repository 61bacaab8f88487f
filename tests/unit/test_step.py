"""What is wrong with a step class is said when the class is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from saga_core import BaseStep, StepContext, TypeValidationError
from saga_core.step import CallShape


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
from pydantic import BaseModel
from saga_core import BaseStep, StepContext, SagaBuilder

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

builder = SagaBuilder()
ref = builder.add_step(step=One(), input_map=lambda ctx: A(n=1))
builder.add_step(step=Two(), input_map=lambda out: A(n=out.n), depends_on=ref)
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
