"""What is to go wrong in a rehearsed saga, and whether it has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from saga_testing.places import Place

__all__ = ["FaultPlan", "InjectedError", "PlannedFault", "WorkerLostError"]


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
        return f'env.fail_at("{self.place}"{error}{times}{nth})'


class FaultPlan:
    """Counts the visits of each place and says what goes wrong there."""

    def __init__(self) -> None:
        self.faults: list[PlannedFault] = []
        self.visits: Counter[Place] = Counter()
        """How often sagas have come to each place."""

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

    @property
    def unreached(self) -> list[PlannedFault]:
        """Return the faults that have not happened."""
        return [fault for fault in self.faults if not fault.struck]
