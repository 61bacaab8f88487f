"""Turn an exception into text that may be stored: short, and without payload values."""

from __future__ import annotations

from pydantic import ValidationError

from saga_core.happening import Failure
from saga_core.retry import RetryPolicy

__all__ = ["describe", "failure_of"]

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
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace")
    if len(clean) > MAX_ERROR_BYTES:
        clean = clean[: MAX_ERROR_BYTES - 3] + b"..."
    return clean.decode("utf-8", "ignore")


def failure_of(
    error: BaseException, policy: RetryPolicy | None = None, *, unrecordable: bool = False
) -> Failure:
    """Describe why something failed. Without a policy it is final."""
    return Failure(
        error=describe(error),
        code=type(error).__name__[:200],
        retryable=policy is not None and policy.retries(error),
        unrecordable=unrecordable,
    )
