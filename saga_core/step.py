"""Steps: the user's code, its types read from the annotations when the class is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from saga_core.annotations import (
    arguments_of,
    filled,
    hints_of,
    is_open,
    members,
    name_of,
    without,
)
from saga_core.awaiting import AwaitEvent, Sleep
from saga_core.errors import SagaStateError, TypeValidationError

__all__ = ["BaseStep", "CallShape", "StepContext", "StepSignature"]

In = TypeVar("In")
Out = TypeVar("Out")


class StepContext:
    """What a step may know about the attempt it is in. Passed to whoever asks for it."""

    __slots__ = (
        "_cancelled",
        "_lease_lost",
        "_transaction",
        "attempt",
        "event",
        "events",
        "fence",
        "idempotency_key",
        "saga_id",
        "saga_name",
        "step_id",
        "token",
        "waits",
        "woken",
    )

    def __init__(
        self,
        *,
        saga_id: UUID,
        saga_name: str,
        step_id: str,
        attempt: int,
        idempotency_key: str,
        fence: int,
        token: UUID,
        event: Any = None,
        events: tuple[Any, ...] = (),
        waits: int = 0,
        woken: bool = False,
        transaction: Any = None,
    ) -> None:
        self.saga_id = saga_id
        self.saga_name = saga_name
        self.step_id = step_id
        self.attempt = attempt
        """Counts from 1 within the step and direction."""
        self.idempotency_key = idempotency_key
        """The same for every attempt with the same input, whoever makes it."""
        self.fence = fence
        """Rises with each new holder of the saga: a resource that has seen it refuses lower."""
        self.token = token
        """What `notify` needs to reach this step."""
        self.event = event
        """The event, as its model, that ended the wait which the step has asked for.

        In a step that has not waited: the latest event that `notify` brought, or None.
        """
        self.events = events
        """The events that ended the waits of this attempt, oldest first, as their models."""
        self.waits = waits
        """How many waits and sleeps of this attempt are over."""
        self.woken = woken
        """Whether the last of them was a `Sleep`."""
        self._transaction = transaction
        self._cancelled = False
        self._lease_lost = False

    @property
    def transaction(self) -> Any:
        """The store's own transaction, for a step that was added with `transaction=True`.

        What is written with it is committed together with the record that the step is done, or
        not at all. Of the store depends what it is: an asyncpg `Connection` on `postgresql://`,
        an `AsyncSession` with `SqlSagaStore`. It must be used in the step itself, before it
        returns, and is committed by the store alone. Raises `SagaStateError` in a step without.
        """
        if self._transaction is None:
            raise SagaStateError(
                f"step '{self.step_id}' has no transaction: add it with "
                "add_step(..., transaction=True)"
            )
        return self._transaction

    @property
    def cancelled(self) -> bool:
        """Whether the attempt should end: timeout, lost lease or stop. For steps in threads."""
        return self._cancelled

    @property
    def lease_lost(self) -> bool:
        """Whether somebody else may drive the saga by now."""
        return self._lease_lost

    def _signal(self, *, cancelled: bool = True, lease_lost: bool = False) -> None:
        self._cancelled = self._cancelled or cancelled
        self._lease_lost = self._lease_lost or lease_lost


@dataclass(frozen=True, slots=True)
class CallShape:
    """How a step's method wants to be called."""

    takes_context: bool
    is_async: bool


@dataclass(frozen=True, slots=True)
class StepSignature:
    """A step's types, and its methods' shapes."""

    input_type: Any
    output_type: Any
    execute: CallShape
    compensate: CallShape | None
    """None if the step has nothing to undo."""
    probe: CallShape | None = None
    undoes_without_output: bool = False
    """Whether `compensate` takes None where no output is on record."""


class BaseStep(Generic[In, Out]):
    """One step of a saga: `execute`, optionally `compensate`, which undoes it, and `probe`.

        class Charge(BaseStep[ChargeInput, Payment]):
            async def execute(self, inp: ChargeInput) -> Payment: ...
            async def compensate(self, inp: ChargeInput, out: Payment) -> None: ...

    With `out: Payment | None` a compensation can also undo what has left no output, which
    `add_step(compensate_when="maybe_done")` asks for. A method
    `async def probe(self, inp: ChargeInput) -> Payment | None` is asked before that: an output says
    that the step was done, None that it was not, raising that nobody knows.

    `execute` and `compensate` may return `AwaitEvent(...)` or `Sleep(...)` to be entered again
    later; annotate `-> Payment | AwaitEvent`. Each may take one more parameter, a `StepContext`,
    and be a plain `def`, which runs in a thread: it is asked to end by `ctx.cancelled`, never
    killed, and waited for. Steps run at least once: use `ctx.idempotency_key` with the outside
    world. Instances are shared by all sagas and keep no state of one. What is wrong with the
    annotations raises `TypeValidationError` when the class is made.
    """

    __saga_signature__: ClassVar[StepSignature | None] = None

    if TYPE_CHECKING:
        # Any shape is allowed here; __init_subclass__ says which are right.
        execute: Callable[..., Any]
        compensate: Callable[..., Any]
        probe: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        execute = getattr(cls, "execute", None)
        if execute is None:
            if "compensate" in cls.__dict__:
                raise TypeValidationError(
                    f"step {cls.__qualname__} has compensate but no execute: define "
                    "`async def execute(self, inp: ...) -> ...`"
                )
            return  # an abstract step between BaseStep and the real ones
        inherited = cls.__signature_of_same_methods()
        cls.__saga_signature__ = inherited or _read_signature(cls)

    @classmethod
    def __signature_of_same_methods(cls) -> StepSignature | None:
        """Return an ancestor's signature if all methods are the ancestor's; a mixin changes it."""
        for ancestor in cls.__mro__[1:]:
            signature: StepSignature | None = ancestor.__dict__.get("__saga_signature__")
            if signature is not None and all(
                inspect.getattr_static(ancestor, name, None)
                is inspect.getattr_static(cls, name, None)
                for name in ("execute", "compensate", "probe")
            ):
                return signature
        return None


def _read_signature(cls: type) -> StepSignature | None:
    """Return the signature, or None while type variables are left for a subclass to fill."""
    execute = _Method(cls, "execute", ("inp",))
    input_type = execute.types["inp"]
    output_type = without(execute.types["return"], _WAITS)
    if output_type in _WAITS:
        raise TypeValidationError(
            f"step {cls.__qualname__}: execute returns {name_of(output_type)} and nothing else; "
            f"say what the step puts out after the wait, like `-> None | {name_of(output_type)}`"
        )
    for word, found, wanted in zip(
        ("input", "output"), (input_type, output_type), arguments_of(cls, BaseStep), strict=False
    ):
        if not is_open(wanted) and wanted is not Any and found != _none_as_type(wanted):
            raise TypeValidationError(
                f"step {cls.__qualname__}: execute has the {word} type {name_of(found)}, but the "
                f"class says BaseStep[...] with {name_of(wanted)}: make them the same"
            )
    if is_open(input_type) or is_open(output_type):
        return None
    probe = _read_probe(cls, input_type, output_type)
    if getattr(cls, "compensate", None) is None:
        return StepSignature(input_type, output_type, execute.shape, None, probe)
    compensate = _Method(cls, "compensate", ("inp", "out"))
    for parameter, wanted in (("inp", input_type), ("out", output_type)):
        found = compensate.types[parameter]
        if found != wanted and not (parameter == "out" and _is_optional(found, wanted)):
            raise TypeValidationError(
                f"step {cls.__qualname__}: compensate's parameter '{parameter}' is "
                f"{name_of(found)}, but execute's {'input' if parameter == 'inp' else 'output'} is "
                f"{name_of(wanted)}: make them the same"
            )
    returned = without(compensate.types.get("return", None), _WAITS)
    if returned not in (None, type(None), Any, *_WAITS):
        raise TypeValidationError(
            f"step {cls.__qualname__}: compensate returns {name_of(compensate.types['return'])}; "
            "what it returns is not kept, so annotate it `-> None`"
        )
    return StepSignature(
        input_type,
        output_type,
        execute.shape,
        compensate.shape,
        probe,
        undoes_without_output=type(None) in members(compensate.types["out"]),
    )


def _read_probe(cls: type, input_type: Any, output_type: Any) -> CallShape | None:
    if getattr(cls, "probe", None) is None:
        return None
    where = f"step {cls.__qualname__}"
    if type(None) in members(output_type):
        raise TypeValidationError(
            f"{where}: a probe's None says that the step was not done, so execute must not return "
            f"{name_of(output_type)}: give it an output that is never None"
        )
    probe = _Method(cls, "probe", ("inp",))
    if probe.types["inp"] != input_type:
        raise TypeValidationError(
            f"{where}: probe's parameter 'inp' is {name_of(probe.types['inp'])}, but execute's "
            f"input is {name_of(input_type)}: make them the same"
        )
    if not _is_optional(probe.types["return"], output_type):
        raise TypeValidationError(
            f"{where}: probe returns {name_of(probe.types['return'])}; annotate it "
            f"`-> {name_of(output_type)} | None`: what the step has put out, or None if it was not "
            "done"
        )
    return probe.shape


def _is_optional(found: Any, wanted: Any) -> bool:
    """Tell whether one type is the other or None."""
    have, need = members(found), (*members(wanted), type(None))
    return all(one in have for one in need) and all(one in need for one in have)


_RETURNS = {"execute": "...", "compensate": "None", "probe": "... | None"}


_WAITS = (AwaitEvent, Sleep)
"""What a step returns to be entered again: no output of it."""


class _Method:
    """The annotations of one of a step's methods, with the types under our own names."""

    def __init__(self, cls: type, name: str, roles: tuple[str, ...]) -> None:
        self._name = name
        self._where = f"step {cls.__qualname__}: {name}"
        self._wanted = f"`async def {name}(self, {', '.join(f'{role}: ...' for role in roles)}"
        self._wanted += f") -> {_RETURNS[name]}`"
        function = inspect.getattr_static(cls, name)
        if not inspect.isfunction(function):
            raise TypeValidationError(f"{self._where} must be a method, like {self._wanted}")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeValidationError(f"{self._where} must not yield: return the output instead")
        hints = self._hints(cls, function)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        fits = all(parameter.kind in plain for parameter in parameters)
        if not fits or len(parameters) not in (len(roles), len(roles) + 1):
            raise TypeValidationError(
                f"{self._where} takes ({', '.join(str(p) for p in parameters)}); it needs "
                f"{len(roles)} parameter(s) and may take a StepContext after them, like "
                f"{self._wanted}"
            )
        self.types: dict[str, Any] = {}
        for role, parameter in zip(roles, parameters, strict=False):
            if parameter.name not in hints:
                raise TypeValidationError(
                    f"{self._where}: parameter '{parameter.name}' has no annotation, which tells "
                    f"what is stored; write {self._wanted}"
                )
            self.types[role] = hints[parameter.name]
        if "return" in hints:
            self.types["return"] = hints["return"]
        elif name != "compensate":
            raise TypeValidationError(
                f"{self._where} has no return annotation, which tells what is stored; write "
                f"{self._wanted}"
            )
        takes_context = len(parameters) > len(roles)
        if takes_context:
            last = parameters[-1]
            if set(members(hints.get(last.name, StepContext))) - {type(None)} != {StepContext}:
                raise TypeValidationError(
                    f"{self._where}: parameter '{last.name}' is {name_of(hints[last.name])}; the "
                    "only thing passed there is a StepContext"
                )
        # A plain wrapper around a coroutine function hands its coroutine on.
        is_async = any(map(inspect.iscoroutinefunction, (function, inspect.unwrap(function))))
        self.shape = CallShape(takes_context, is_async)

    def _hints(self, cls: type, function: Any) -> dict[str, Any]:
        try:
            hints = hints_of(function)
        except Exception as error:
            raise self._unreadable(error) from error
        owner = next(ancestor for ancestor in cls.__mro__ if self._name in ancestor.__dict__)
        variables = getattr(owner, "__parameters__", ())
        values = dict(zip(variables, arguments_of(cls, owner), strict=False))
        return {name: filled(kind, values) for name, kind in hints.items()}

    def _unreadable(self, error: Exception) -> TypeValidationError:
        return TypeValidationError(
            f"{self._where}: its annotations cannot be read ({error}): import the types where the "
            "class is made, not only under TYPE_CHECKING"
        )


def _none_as_type(kind: Any) -> Any:
    return type(None) if kind is None else kind
