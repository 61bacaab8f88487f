"""`AwaitEvent` and `Sleep`: what a step returns instead of an output, to be entered again later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from saga_core.errors import SagaDefinitionError, TypeValidationError

__all__ = [
    "FIRST",
    "LAST",
    "LONGEST_WAIT",
    "AwaitEvent",
    "Sleep",
    "WaitTimedOutError",
    "event_name",
]

LONGEST_WAIT = timedelta(days=36500)
"""Longer waits would leave the calendar of a store."""

FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)
"""Some stores count microseconds in numbers that end in the year 2255."""

LONGEST_LABEL = 200


class WaitTimedOutError(TimeoutError):
    """Nothing that a step awaited came in time. Never raised: its name is the `error_code`."""


def event_name(model: type[BaseModel]) -> str:
    """Return the name by which events of this type are stored and told apart.

    The name of the class, or what its class variable `saga_event_name` says: set that before a
    class is renamed whose events lie in a store.
    """
    name: str = getattr(model, "saga_event_name", model.__name__)
    return name


@dataclass(frozen=True, slots=True, init=False)
class AwaitEvent:
    """Return this from `execute` or `compensate` to wait for an event.

        async def execute(self, inp: Order, ctx: StepContext) -> Receipt | AwaitEvent:
            if not isinstance(ctx.event, Paid):
                await provider.ask_for_payment(inp, key=ctx.idempotency_key)
                return AwaitEvent(Paid, timeout=timedelta(days=3))
            return Receipt(paid=ctx.event.amount)

    The step is entered again, in the same attempt, with the event as `ctx.event`. The wait is in
    the store: nothing of it is lost with the process.
    """

    models: tuple[type[BaseModel], ...]
    correlation_id: str | None
    timeout: timedelta | None
    on_timeout: Any

    def __init__(
        self,
        *models: type[BaseModel],
        correlation_id: str | None = None,
        timeout: timedelta | None = None,
        on_timeout: Any = "fail",
    ) -> None:
        """Wait for the first event of one of these types.

        With a `correlation_id` only events that were sent with the same fit. `timeout` counts
        from the commit that begins the wait, by the store's clock; None waits for ever. Then
        `on_timeout` decides: "fail" fails the step for good, and so begins the rollback; "retry"
        fails the attempt, and the retry policy says whether another follows; any other value is
        the step's output, and the saga goes on with it. In a compensation there is no output, so
        only the two words are allowed. Raises `TypeValidationError` and `SagaDefinitionError`.
        """
        if not models:
            raise TypeValidationError("AwaitEvent needs an event model, like AwaitEvent(Paid)")
        for model in models:
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise TypeValidationError(
                    f"AwaitEvent needs pydantic models, the classes themselves, got {model!r}"
                )
            name = event_name(model)
            if not isinstance(name, str) or not 0 < len(name) <= LONGEST_LABEL:
                raise TypeValidationError(
                    f"the event name of {model.__qualname__} must be text of 1 to {LONGEST_LABEL} "
                    f"characters, got {name!r}"
                )
        names = [event_name(model) for model in models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TypeValidationError(
                f"AwaitEvent got two models with the event name {', '.join(twice)}: give one of "
                "them another `saga_event_name`"
            )
        if correlation_id is not None and not isinstance(correlation_id, str):
            raise TypeValidationError(
                f"correlation_id must be text or None, got {type(correlation_id).__name__}"
            )
        if timeout is not None:
            _check_length(timeout, "AwaitEvent's timeout")
        object.__setattr__(self, "models", models)
        object.__setattr__(self, "correlation_id", correlation_id)
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "on_timeout", on_timeout)


@dataclass(frozen=True, slots=True, init=False)
class Sleep:
    """Return this from `execute` or `compensate` to be entered again later, with `ctx.woken`.

        async def execute(self, inp: Order, ctx: StepContext) -> None | Sleep:
            if not ctx.woken:
                return Sleep(timedelta(days=14))
            await send_reminder(inp)

    The sleep is in the store, and by its clock: no worker waits, and a restart does not shorten
    or lengthen it.
    """

    duration: timedelta | None
    until: datetime | None

    def __init__(self, duration: timedelta | None = None, *, until: datetime | None = None) -> None:
        """Sleep for a while, counted from the commit that begins it, or until a time.

        A time in the past is over at once. Raises `TypeValidationError` for both or neither, for
        other types, and `SagaDefinitionError` for a time without a zone or outside of 1970 to
        2200, and for a duration of zero or less.
        """
        if (duration is None) == (until is None):
            raise TypeValidationError(
                "Sleep needs a duration or a time: Sleep(timedelta(...)) or Sleep(until=...)"
            )
        if duration is not None:
            _check_length(duration, "Sleep's duration")
        if until is not None:
            if not isinstance(until, datetime):
                raise TypeValidationError(
                    f"Sleep's until must be a datetime, got {type(until).__name__}"
                )
            if until.utcoffset() is None:
                raise SagaDefinitionError(
                    f"Sleep's until has no time zone: {until.isoformat()}; use for example "
                    "datetime(..., tzinfo=UTC)"
                )
            if not FIRST <= until < LAST:
                raise SagaDefinitionError(
                    f"Sleep's until must lie between {FIRST.year} and {LAST.year}, got "
                    f"{until.isoformat()}"
                )
        object.__setattr__(self, "duration", duration)
        object.__setattr__(self, "until", until)


def _check_length(value: object, what: str) -> None:
    if not isinstance(value, timedelta):
        raise TypeValidationError(f"{what} must be a timedelta, got {type(value).__name__}")
    if not timedelta(0) < value <= LONGEST_WAIT:
        raise SagaDefinitionError(
            f"{what} must be above zero and at most {LONGEST_WAIT.days} days, got {value}"
        )
