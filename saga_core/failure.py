"""Turn an exception into text that may be stored: short, and without payload values."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

from pydantic import ValidationError

from saga_core.givens import Failure
from saga_core.retry import FOREVER, RetryPolicy

__all__ = ["delay_of", "describe", "failure_of", "next_try"]

logger = logging.getLogger("saga_core")

MAX_ERROR_BYTES = 4096


def describe(error: BaseException) -> str:
    """Return one line on an exception, at most 4 KB, as type and message.

    A pydantic error is told without its input values. What cannot be stored as text (NUL, lone
    surrogates) is replaced.
    """
    if isinstance(error, ValidationError):
        parts = (
            f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        )
        message = f"{error.title}: {'; '.join(parts)}"
    else:
        try:
            message = str(error)
        except Exception:
            message = "(its message could not be made)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return _cut(text.replace("\x00", "\ufffd"), MAX_ERROR_BYTES)


def failure_of(
    error: BaseException, policy: RetryPolicy | None = None, *, unrecordable: bool = False
) -> Failure:
    """Describe why something failed. Without a policy it is final, or with one that raises."""
    failure = Failure(
        error=describe(error),
        code=type(error).__name__[:200],
        retryable=False,
        unrecordable=unrecordable,
    )
    if policy is None:
        return failure
    try:
        return replace(failure, retryable=bool(policy.retries(error)))
    except Exception as fault:
        return _given_up(failure, policy, f"retries raised {describe(fault)}")


def next_try(
    policy: RetryPolicy, failure: Failure, attempts: int, *, jitter: float
) -> tuple[timedelta | None, Failure]:
    """Return the delay before the next attempt, None if there is none, and what is to be told.

    Where the policy itself is at fault there is none, and the failure says that as well.
    """
    if not failure.retryable or failure.unrecordable:
        return None, failure
    delay, fault = delay_of(policy, attempts, jitter=jitter)
    return delay, failure if fault is None else _given_up(failure, policy, fault)


def delay_of(
    policy: RetryPolicy, attempts: int, *, jitter: float
) -> tuple[timedelta | None, str | None]:
    """Return the policy's delay, and instead of one that no store could keep what is wrong."""
    try:
        delay = policy.delay_after(attempts, jitter=jitter)
    except Exception as fault:
        return None, f"delay_after raised {describe(fault)}"
    if delay is None or (isinstance(delay, timedelta) and timedelta(0) <= delay <= FOREVER):
        return delay, None
    found = f"the delay {delay}" if isinstance(delay, timedelta) else type(delay).__name__
    return None, f"delay_after gave {found}, not a timedelta from 0 to {FOREVER.days} days"


def _given_up(failure: Failure, policy: RetryPolicy, fault: str) -> Failure:
    note = _cut(f"; not tried again: {type(policy).__name__}.{fault}", MAX_ERROR_BYTES // 2)
    error = _cut(failure.error, MAX_ERROR_BYTES - len(note.encode())) + note
    logger.error("a retry policy is at fault: %s", error)
    return replace(failure, error=error, retryable=False)


def _cut(text: str, most: int) -> str:
    """Return the text in at most so many bytes, lone surrogates replaced."""
    clean = text.encode("utf-8", "replace")
    if len(clean) > most:
        clean = clean[: most - 3] + b"..."
    return clean.decode("utf-8", "ignore")
