"""What a saga consists of: its steps in order, and what an input map sees."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import PydanticUserError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import PydanticJsonSchemaWarning

from saga_core.child import ChildStep
from saga_core.codec import PayloadCodec, decode_json, encode_json
from saga_core.errors import SagaDefinitionError, SagaStateError
from saga_core.graph import dependents_of
from saga_core.retry import NoRetry, RetryPolicy
from saga_core.status import Hook, SagaStatus
from saga_core.step import BaseStep, CallShape, StepSignature

__all__ = [
    "CompensateWhen",
    "HookContext",
    "InputContext",
    "OnBranchFailure",
    "OutputTexts",
    "SagaDefinition",
    "StepRef",
    "StepSpec",
]

Out = TypeVar("Out")

CompensateWhen = Literal["done", "maybe_done"]
"""What a step must have come to for its compensation to run."""

OnBranchFailure = Literal["finish", "cancel"]

MAX_FINGERPRINT = 1000

PARALLEL = "(parallel)"
"""What the fingerprint of a parallel definition begins with; no step has such an id."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class StepRef(Generic[Out]):
    """Names a step that was added to a builder, for `depends_on` and `output_of`."""

    step_id: str
    output_type: type[Out]
    builder: object = field(default=None, repr=False, compare=False)
    """Which builder made it; a reference works with that one only."""
    codec: PayloadCodec | None = field(default=None, repr=False, compare=False)

    def read(self, text: str) -> Out:
        """Return the output that a stored text holds, as its type. Raises `PayloadError`."""
        what = f"output of step '{self.step_id}'"
        codec = self.codec or PayloadCodec(self.output_type, what=what)
        value: Out = codec.decode(text, what=what)
        return value


class OutputTexts(Mapping[str, Any]):
    """The outputs on record as JSON values, decoded when looked at."""

    def __init__(self, texts: Mapping[str, Any]) -> None:
        """`texts` maps step ids to anything with an `output` text."""
        self._texts = texts

    def __getitem__(self, step_id: str) -> Any:
        return decode_json(self._texts[step_id].output, what=f"output of step '{step_id}'")

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, step_id: str) -> str:
        """Return the stored text itself. Raises `KeyError`."""
        text: str = self._texts[step_id].output
        return text


@dataclass(frozen=True)
class InputContext:
    """What a root input map sees. Read it, never change it."""

    initial_data: Any
    step_outputs: Mapping[str, Any]
    """JSON values by step id; `output_of` gives them typed."""
    events: Sequence[Any] = ()
    """What `notify` brought so far, oldest first."""

    @property
    def latest_event(self) -> Any | None:
        return self.events[-1] if self.events else None

    @property
    def context(self) -> dict[str, Any]:
        """Return all of it as one mapping of JSON values."""
        return {
            "initial_data": self.initial_data,
            "step_outputs": dict(self.step_outputs),
            "events": list(self.events),
        }

    def output_of(self, ref: StepRef[Out]) -> Out:
        """Return a step's output as its type.

        Raises `SagaStateError` if there is none yet, `PayloadError` if it no longer is of it.
        """
        outputs = self.step_outputs
        try:
            if isinstance(outputs, OutputTexts):
                text = outputs.text(ref.step_id)
            else:
                text = encode_json(outputs[ref.step_id], what=f"output of step '{ref.step_id}'")
        except KeyError:
            raise SagaStateError(
                f"step '{ref.step_id}' has no output yet; done so far: "
                f"{', '.join(self.step_outputs) or 'nothing'}"
            ) from None
        return ref.read(text)


@dataclass(frozen=True)
class HookContext(InputContext):
    """What the input map of a hook sees: the saga, what it has done, and how it ends."""

    saga_id: UUID = field(kw_only=True)
    saga_name: str = field(kw_only=True)
    aggregation_id: str | None = field(kw_only=True, default=None)
    status: SagaStatus = field(kw_only=True)
    """How it is about to end: COMPLETED, COMPENSATED, FAILED or STUCK; RUNNING at its start."""
    step_id: str | None = field(kw_only=True, default=None)
    """Where it stands: the step that it is FAILED or STUCK at; None where all is done or undone."""
    error: str | None = field(kw_only=True, default=None)
    """What it failed of, if it did; also of a saga that is COMPENSATED."""
    error_code: str | None = field(kw_only=True, default=None)
    """The exception's type name, or `Aborted`."""


@dataclass(frozen=True)
class StepSpec:
    """A step in its place in a saga."""

    step_id: str
    index: int
    step: BaseStep[Any, Any]
    signature: StepSignature
    input_map: Callable[..., Any]
    depends_on: tuple[str, ...]
    timeout: timedelta | None
    retry_policy: RetryPolicy
    compensation_timeout: timedelta | None
    compensation_retry_policy: RetryPolicy
    input: PayloadCodec = field(repr=False)
    output: PayloadCodec = field(repr=False)
    compensate_when: CompensateWhen = "done"
    pivot: bool = False
    """Once it is done, the saga is not rolled back any more."""
    transaction: bool = False
    """Whether it is done, and undone, in the store's own transaction."""

    hook: Hook | None = None
    """Which hook it is, if it is one."""

    @property
    def child(self) -> str | None:
        """The name of the saga that it starts, if it is a child."""
        return self.step.saga_name if isinstance(self.step, ChildStep) else None

    @property
    def undoes_maybe_done(self) -> bool:
        """Whether it is undone too when it was begun and nobody knows that it was not done."""
        return self.compensate_when == "maybe_done"

    @property
    def can_compensate(self) -> bool:
        return self.signature.compensate is not None


@dataclass(frozen=True)
class SagaDefinition:
    """A saga's steps, immutable. Made by `SagaBuilder.build`."""

    steps: tuple[StepSpec, ...]
    compensate_on_failure: bool = True
    hooks: tuple[StepSpec, ...] = ()
    """What runs at its start and before its ends are recorded."""
    parallel: bool = False
    """Whether a step begins as soon as all that it depends on is done."""
    on_branch_failure: OnBranchFailure = "finish"
    """What becomes of the steps that run beside one that fails for good."""
    retain: timedelta | None = None
    """How long a saga is kept that has ended; None: as long as the worker says."""

    @cached_property
    def _by_id(self) -> dict[str, StepSpec]:
        return {spec.step_id: spec for spec in (*self.steps, *self.hooks)}

    def step(self, step_id: str) -> StepSpec:
        """Return a step or a hook. Raises `SagaDefinitionError` for an unknown id."""
        spec = self._by_id.get(step_id)
        if spec is None and step_id == Hook.TELL_PARENT:
            return _TELLS_PARENT
        if spec is None:
            raise SagaDefinitionError(
                f"the saga has no step '{step_id}'; its steps: {', '.join(self._by_id)}"
            )
        return spec

    def hook(self, hook: Hook) -> StepSpec | None:
        """Return a hook, if the saga has it."""
        return self._by_id.get(hook) if self.hooks else None

    @cached_property
    def children(self) -> tuple[str, ...]:
        """The names of the sagas that it starts."""
        names = [spec.child for spec in self.steps if spec.child is not None]
        return tuple(dict.fromkeys(names))

    @cached_property
    def pivot(self) -> StepSpec | None:
        """The step after which there is no way back, if the saga has one."""
        return next((spec for spec in self.steps if spec.pivot), None)

    @cached_property
    def transacts(self) -> bool:
        """Whether some step works in the store's own transaction."""
        return any(spec.transaction for spec in self.steps)

    def is_past_pivot(self, done: Container[str]) -> bool:
        """Tell whether there is a pivot among the ids of the steps that are done."""
        return self.pivot is not None and self.pivot.step_id in done

    @cached_property
    def dependents(self) -> Mapping[str, tuple[str, ...]]:
        """By step the steps that depend on it, in the saga's order."""
        return dependents_of({spec.step_id: spec.depends_on for spec in self.steps})

    @cached_property
    def fingerprint(self) -> str:
        """Identify the steps and their types: what a saga in flight depends on.

        Equal across processes and Python versions; descriptions and titles do not count. In a
        parallel saga what a step depends on counts, and the order of the steps does not.
        """
        if self.parallel:
            steps = sorted(self.steps, key=lambda spec: spec.step_id)
            needs = (f"<{'+'.join(sorted(spec.depends_on))}" for spec in steps)
            hashes = (f"{spec.step_id}:{_schema_hash(spec)}" for spec in steps)
            parts = [f"{PARALLEL}:", *map("".join, zip(hashes, needs, strict=True))]
        else:
            parts = [f"{spec.step_id}:{_schema_hash(spec)}" for spec in self.steps]
        parts += [f"{_HOOK}{spec.step_id}:{_schema_hash(spec)}" for spec in self.hooks]
        text = ",".join(parts)
        if len(text) <= MAX_FINGERPRINT:
            return text
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}:{len(parts)}"

    def differences(self, stored: str) -> list[str]:
        """Say in sentences how this definition differs from a stored fingerprint."""
        if stored == self.fingerprint:
            return []
        if stored.startswith("sha256:") or self.fingerprint.startswith("sha256:"):
            return [f"its {len(self.steps)} steps or their types are not those it was started with"]
        before = dict(part.rsplit(":", 1) for part in stored.split(",") if ":" in part)
        now = dict(part.rsplit(":", 1) for part in self.fingerprint.split(","))
        if (PARALLEL in before) != (PARALLEL in now):
            is_so, was_so = ("parallel", "one after the other")[:: 1 if PARALLEL in now else -1]
            return [f"its steps run {is_so} now, and ran {was_so} when it was started"]
        found = [f"{_told(step_id)} is gone" for step_id in before if step_id not in now]
        previous: str | None = None
        for step_id in now:
            if step_id.startswith(_HOOK) and step_id not in before:
                found.append(f"{_told(step_id)} was added")
            elif step_id not in before:
                where = "at the beginning" if previous is None else f"after '{previous}'"
                found.append(f"step '{step_id}' was added {where}")
            elif before[step_id] != now[step_id]:
                same = before[step_id].split("<")[0] == now[step_id].split("<")[0]
                what = "the dependencies" if same else "the input or output schema"
                verb = "have" if same else "has"
                found.append(f"{what} of {_told(step_id)} {verb} changed")
            previous = step_id
        kept_before = [step_id for step_id in before if step_id in now]
        kept_now = [step_id for step_id in now if step_id in before]
        if kept_before != kept_now:
            found.append(f"the order of the steps has changed from {kept_before} to {kept_now}")
        return found or ["its steps are not those it was started with"]


_HOOK = "@"
"""Stands before the ids of hooks in a fingerprint; no step's id begins with it."""


def _told(step_id: str) -> str:
    hook = step_id.startswith(_HOOK)
    return f"hook '{step_id.removeprefix(_HOOK)}'" if hook else f"step '{step_id}'"


def _schema_hash(spec: StepSpec) -> str:
    shapes = [_schema(spec.input), _schema(spec.output)]
    if spec.child is not None:
        shapes.append(spec.child)
    text = json.dumps(shapes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _schema(codec: PayloadCodec) -> Any:
    try:
        with warnings.catch_warnings():
            # A default that is not JSON is left out, and nobody need hear of it.
            warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
            schema = codec.adapter.json_schema(by_alias=False, mode="validation")
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        name: str = getattr(codec.kind, "__qualname__", None) or str(codec.kind)
        return _ADDRESS.sub("", name)
    return _without_words(schema)


def _without_words(schema: Any) -> Any:
    """Drop what only people read; a property that has such a name stays."""
    if isinstance(schema, list):
        return [_without_words(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in ("title", "description", "examples", "deprecated"):
            continue
        if key in ("properties", "$defs") and isinstance(value, dict):
            kept[key] = {name: _without_words(item) for name, item in value.items()}
        elif key == "default":
            kept[key] = _without_order(value)
        else:
            kept[key] = _without_words(value)
    return kept


def _without_order(value: Any) -> Any:
    """Sort a default's lists: one may have been a set, which each process orders its own way."""
    if isinstance(value, dict):
        return {key: _without_order(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(map(_without_order, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


_TELLS_PARENT = StepSpec(
    step_id=Hook.TELL_PARENT.value,
    index=0,
    step=BaseStep(),
    signature=StepSignature(type(None), type(None), CallShape(False, True), None),
    input_map=lambda ctx: None,
    depends_on=(),
    timeout=None,
    retry_policy=NoRetry(),
    compensation_timeout=None,
    compensation_retry_policy=NoRetry(),
    input=PayloadCodec(type(None), what="nothing"),
    output=PayloadCodec(type(None), what="nothing"),
    hook=Hook.TELL_PARENT,
)
"""The hook that every child has."""
