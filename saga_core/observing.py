"""Tell observers what was committed. Costs next to nothing when there are none."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from saga_core.happening import Decision
from saga_core.hookspecs import ObservedEvent

if TYPE_CHECKING:
    from saga_core.live import LiveSaga

__all__ = ["Hooks", "Observers"]


class Hooks(Protocol):
    """Where observed events go."""

    @property
    def active(self) -> bool:
        """Whether anybody listens."""
        ...

    def observe(self, event: ObservedEvent) -> None:
        """Pass an event on. Never raises."""
        ...


class Observers:
    """Turns the commits of one engine into `saga_observe` calls."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._begun: dict[int, float] = {}
        self._took: dict[int, float] = {}
        self._in_branches: dict[tuple[int, str | None], float] = {}

    def step_begins(self, live: LiveSaga) -> None:
        if self._hooks.active:
            self._begun[id(live)] = time.monotonic()

    def step_ends(self, live: LiveSaga) -> None:
        begun = self._begun.pop(id(live), None)
        if begun is not None:
            self._took[id(live)] = time.monotonic() - begun

    def hand_over(self, branch: LiveSaga, live: LiveSaga) -> None:
        """Note for the whole saga how long the step of one of its branches took."""
        took = self._took.pop(id(branch), None)
        if took is not None:
            self._in_branches[id(live), branch.state.step_id] = took

    def committed(self, live: LiveSaga, decision: Decision) -> None:
        if not self._hooks.active:
            return
        took = whole = self._took.pop(id(live), None)
        for entry in decision.history:
            if self._in_branches:
                took = self._in_branches.pop((id(live), entry.step_id), whole)
            self._hooks.observe(
                ObservedEvent(
                    saga_id=live.saga_id,
                    saga_name=live.saga_name,
                    kind=entry.kind,
                    status=decision.state.status,
                    step_id=entry.step_id,
                    attempt=entry.attempt,
                    duration=None if took is None else timedelta(seconds=took),
                    error_code=entry.error_code,
                )
            )
