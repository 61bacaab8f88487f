"""Retry policies: how often, how long, and what not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from saga_core import ExponentialRetry, FixedRetry, NonRetryableError, NoRetry, RetryPolicy

SECOND = timedelta(seconds=1)
delays = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30))


@given(
    attempts=st.integers(1, 200),
    base=delays,
    multiplier=st.floats(1, 1e9),
    longest=st.none() | delays,
    share=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_exponential_delay_is_bounded_for_any_attempt(
    attempts: int,
    base: timedelta,
    multiplier: float,
    longest: timedelta | None,
    share: float,
    chance: float,
) -> None:
    if longest is not None:
        longest = max(longest, base)
    policy = ExponentialRetry(
        max_attempts=attempts,
        base_delay=base,
        multiplier=multiplier,
        max_delay=longest,
        jitter=share,
    )
    for failed in (1, 2, attempts - 1):
        delay = policy.delay_after(failed, jitter=chance)
        if failed >= attempts:
            assert delay is None
        elif failed > 0:
            assert delay is not None
            assert timedelta(0) <= delay
            assert longest is None or delay <= longest
    assert policy.delay_after(attempts, jitter=chance) is None


def test_exponential_delay_grows_up_to_its_cap() -> None:
    policy = ExponentialRetry(max_attempts=9, base_delay=SECOND, max_delay=5 * SECOND)
    found = [policy.delay_after(n, jitter=0.5) for n in range(1, 6)]
    assert found == [SECOND, 2 * SECOND, 4 * SECOND, 5 * SECOND, 5 * SECOND]


@given(base=delays, multiplier=st.floats(1, 1e9), failed=st.integers(1, 5000))
def test_exponential_delay_without_jitter_never_shrinks(
    base: timedelta, multiplier: float, failed: int
) -> None:
    policy = ExponentialRetry(max_attempts=9999, base_delay=base, multiplier=multiplier)
    before = policy.delay_after(failed, jitter=0.5)
    after = policy.delay_after(failed + 1, jitter=0.5)
    assert before is not None
    assert after is not None
    assert before <= after


def test_no_delay_stays_none_at_all_past_the_largest_float() -> None:
    policy = ExponentialRetry(max_attempts=9999, base_delay=timedelta(0))
    assert policy.delay_after(5000, jitter=0) == timedelta(0)


def test_jitter_takes_a_share_of_the_delay() -> None:
    policy = ExponentialRetry(max_attempts=3, base_delay=10 * SECOND, jitter=0.2)
    assert policy.delay_after(1, jitter=0.0) == 10 * SECOND
    assert policy.delay_after(1, jitter=0.5) == 9 * SECOND


def test_attempts_count_the_first() -> None:
    assert NoRetry().delay_after(1, jitter=0) is None
    policy = FixedRetry(max_attempts=2, delay=SECOND)
    assert policy.delay_after(1, jitter=0) == SECOND
    assert policy.delay_after(2, jitter=0) is None


def test_some_errors_are_not_retried() -> None:
    policy = FixedRetry(max_attempts=2, delay=SECOND, non_retryable=(LookupError,))
    assert not policy.retries(KeyError())
    assert not policy.retries(NonRetryableError("no"))
    assert policy.retries(ValueError())


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedRetry(max_attempts=0, delay=SECOND),
        lambda: FixedRetry(max_attempts=2, delay=-SECOND),
        lambda: FixedRetry(max_attempts=2, delay=timedelta.max),  # past the calendar of a store
        lambda: ExponentialRetry(max_attempts=2, base_delay=SECOND, multiplier=0.5),
        lambda: ExponentialRetry(max_attempts=2, base_delay=SECOND, jitter=2),
        lambda: ExponentialRetry(max_attempts=2, base_delay=SECOND, max_delay=SECOND / 2),
        lambda: RetryPolicy(max_attempts=1, typo=1),  # type: ignore[call-arg]
    ],
)
def test_bad_policies_are_refused(make: object) -> None:
    with pytest.raises(ValidationError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "policy",
    [
        FixedRetry(max_attempts=None, delay=SECOND),
        ExponentialRetry(max_attempts=None, base_delay=SECOND, max_delay=SECOND * 60),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_attempts_without_a_bound_never_end(policy: RetryPolicy) -> None:
    assert policy.delay_after(1, jitter=0) == SECOND
    last = policy.delay_after(1_000_000, jitter=0)
    assert last is not None
    assert last >= SECOND


def test_attempts_without_end_need_a_delay() -> None:
    nothing = timedelta(0)
    with pytest.raises(ValidationError, match="need a delay above zero"):
        FixedRetry(max_attempts=None, delay=nothing)
    with pytest.raises(ValidationError, match="need a delay above zero"):
        ExponentialRetry(max_attempts=None, base_delay=nothing)
