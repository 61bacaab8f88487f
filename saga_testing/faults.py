"""What is to go wrong in a rehearsed saga, and whether it has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from saga_core.awaiting import Sleep
from saga_core.errors import SagaDefinitionError
from saga_testing.places import Place

__all__ = ["FaultPlan", "InjectedError", "PlannedFault", "WorkerLostError", "exception_of"]


class InjectedError(Exception):
    """The error that `fail_at` raises in a step unless it is given another; it can be retried."""

    def __init__(self, text: str = "planned by the test") -> None:
        super().__init__(text)


class WorkerLostError(BaseException):
    """The worker that drove the saga is dead, as `crash_at` asked.

    No step and no engine can catch it as an error. It reaches you only if you drive a saga
    yourself, by `env.orchestrator` or `env.admin`; go on with `await env.finish()`.
    """


@dataclass(slots=True)
class PlannedFault:
    """One thing that is to go wrong at a place."""

    place: Place
    error: BaseException
    shown: str
    """The error as the test has written it; nothing for the usual one."""
    nth: int
    """At which visit of the place it begins, from 1."""
    times: int | None
    """At how many visits in a row; None for all from then on."""
    when_done: tuple[str, ...] = ()
    """The steps that are to be done before: until then the saga is held back at the place."""
    held: int = field(default=0)
    """How often it was held back."""
    struck: int = field(default=0)
    """How often it has happened."""

    def covers(self, visit: int) -> bool:
        return visit >= self.nth and (self.times is None or visit < self.nth + self.times)

    @property
    def is_crash(self) -> bool:
        return isinstance(self.error, WorkerLostError)

    @property
    def call(self) -> str:
        """Return the call on the environment that plans it."""
        nth = "" if self.nth == 1 else f", nth={self.nth}"
        if self.is_crash:
            return f'env.crash_at("{self.place}"{nth})'
        times = "" if self.times is None else f", times={self.times}"
        error = f", error={self.shown}" if self.shown else ""
        steps = self.when_done[0] if len(self.when_done) == 1 else self.when_done
        when = f", when_done={steps!r}" if self.when_done else ""
        return f'env.fail_at("{self.place}"{error}{times}{nth}{when})'


MOST_HOLDS = 26
"""A year and more."""


class FaultPlan:
    """Counts the visits of each place and says what goes wrong there."""

    def __init__(self) -> None:
        self.faults: list[PlannedFault] = []
        self.visits: Counter[Place] = Counter()
        """How often sagas have come to each place."""
        self.done: set[str] = set()
        """The steps that are on record as done."""

    def add(self, fault: PlannedFault) -> None:
        """Plan a fault; visits count from now on."""
        fault.nth += self.visits[fault.place]
        self.faults.append(fault)

    def visit(self, place: Place) -> BaseException | None:
        """Note that a saga is at a place; return what is to be raised there."""
        self.visits[place] += 1
        visit = self.visits[place]
        for fault in self.faults:
            if fault.place == place and fault.covers(visit):
                fault.struck += 1
                return fault.error
        return None

    def hold(self, place: Place) -> Sleep | None:
        """Return how long a saga is to be held back at a place that it comes to.

        Time passes only when all of it rests, so the others get on meanwhile. Each hold is as long
        as all before, and they end: a step that is not done by then will not be.
        """
        for fault in self.faults:
            waits = fault.place == place and not self.done.issuperset(fault.when_done)
            if waits and fault.held < MOST_HOLDS:
                fault.held += 1
                return Sleep(timedelta(seconds=2 ** (fault.held - 1)))
        return None

    @property
    def unreached(self) -> list[PlannedFault]:
        """Return the faults that have not happened."""
        return [fault for fault in self.faults if not fault.struck]


def exception_of(error: Exception | type[Exception], place: str) -> Exception:
    """Return an exception to raise. Raises `SagaDefinitionError` for what is none."""
    if isinstance(error, Exception):
        return error
    if not (isinstance(error, type) and issubclass(error, Exception)):
        raise SagaDefinitionError(f"fail_at needs an exception to raise, got {error!r}")
    try:
        return error(f"fail_at {place}")
    except TypeError:
        raise SagaDefinitionError(
            f"fail_at cannot make a {error.__name__} of a text: give it one that is made"
        ) from None
