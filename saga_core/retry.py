"""When to try a step again."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from saga_core.errors import NonRetryableError

__all__ = ["ExponentialRetry", "FixedRetry", "NoRetry", "RetryPolicy"]

FOREVER = timedelta(days=36500)
"""Longer delays would leave the calendar of a store."""

Delay = Annotated[timedelta, Field(ge=timedelta(0), le=FOREVER)]


class RetryPolicy(BaseModel):
    """How often a step may be executed, and how long to wait in between.

    One of your own may override both methods. What it does wrong ends the attempts: if it raises,
    or gives what is no `timedelta` from 0 to 36500 days, the step has failed for good, its
    compensation is stuck, and `last_error` tells of the policy besides the failure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    max_attempts: int | None = Field(ge=1)
    """Executions in all, the first one included. None, for ever, needs a delay."""
    non_retryable: tuple[type[Exception], ...] = ()
    """Exceptions that fail the step at once, subclasses included."""

    def delay_after(self, failed_attempts: int, *, jitter: float) -> timedelta | None:
        """Return how long to wait before the next attempt, or None if there is none left.

        `jitter` is a random number from 0 to 1, drawn by the caller.
        """
        if self.max_attempts is not None and failed_attempts >= self.max_attempts:
            return None
        return self._delay(failed_attempts, jitter)

    def retries(self, error: BaseException) -> bool:
        """Tell whether this exception may be followed by another attempt."""
        return not isinstance(error, (NonRetryableError, *self.non_retryable))

    def _delay(self, failed_attempts: int, jitter: float) -> timedelta:
        return timedelta(0)


Policy = TypeVar("Policy", bound=RetryPolicy)


def _checked_pace(policy: Policy, delay: timedelta) -> Policy:
    if policy.max_attempts is None and not delay:
        raise ValueError("attempts without end need a delay above zero in between")
    return policy


class NoRetry(RetryPolicy):
    """One attempt only."""

    max_attempts: int = Field(default=1, ge=1, le=1)


class FixedRetry(RetryPolicy):
    """The same delay before each further attempt."""

    delay: Delay

    @model_validator(mode="after")
    def _does_not_spin(self) -> Self:
        return _checked_pace(self, self.delay)

    def _delay(self, failed_attempts: int, jitter: float) -> timedelta:
        return self.delay


class ExponentialRetry(RetryPolicy):
    """A delay that grows by `multiplier` with each failed attempt, up to `max_delay`."""

    base_delay: Delay
    multiplier: float = Field(default=2.0, ge=1.0, allow_inf_nan=False)
    max_delay: Delay | None = None
    jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """The share of each delay that is left to chance: 0.2 waits 80 to 100 % of it."""

    @model_validator(mode="after")
    def _cap_is_not_below_base(self) -> Self:
        if self.max_delay is not None and self.max_delay < self.base_delay:
            raise ValueError("max_delay must not be shorter than base_delay")
        return _checked_pace(self, self.base_delay)

    def _delay(self, failed_attempts: int, jitter: float) -> timedelta:
        if not self.base_delay:
            return self.base_delay  # however often it is multiplied, also past the largest float
        cap = FOREVER if self.max_delay is None else self.max_delay
        try:
            seconds = self.base_delay.total_seconds() * self.multiplier ** (failed_attempts - 1)
        except OverflowError:
            seconds = float("inf")
        full = min(seconds, cap.total_seconds())
        return timedelta(seconds=full * (1.0 - self.jitter * jitter))
