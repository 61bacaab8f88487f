"""Bugs to be planted in how a saga waits for events and sleeps."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from saga_core import decide, parallel, resting, rests, waking
from saga_core.happening import Decision, Waits
from saga_core.records import Due, SagaState
from saga_core.rests import Rests
from saga_core.waits import wait
from tests.campaign.bug import Patch, bug


@bug("did not use them up")
def event_not_used_up(patch: Patch) -> None:
    patch.setattr(parallel, "used_up", lambda *_: ())


@bug("of its waits instead of|was used up, but given to no step|did not use them up")
def last_event_given_first(patch: Patch) -> None:
    answers = resting.answers

    def backwards(waits: Any, kept: Any, models: Any) -> Any:
        return answers(waits, kept[::-1], models)

    patch.setattr(rests, "answers", backwards)


@bug("but what it waits for has not come|of its waits instead of")
def correlation_id_not_compared(patch: Patch) -> None:
    fits = resting.Rest.fits

    def lax(self: resting.Rest, event: Any) -> bool:
        return fits(replace(self, correlation_id=None), event)

    patch.setattr(resting.Rest, "fits", lax)


@bug("waited in vain at|but sleeps until")
def wait_over_as_soon_as_somebody_looks(patch: Patch) -> None:
    patch.setattr(Rests, "is_over", lambda _: True)


@bug("the saga was left RUNNING; by its history it is SUSPENDED|never came to rest|rests until")
def wait_never_times_out(patch: Patch) -> None:
    def endless(state: SagaState, asked: Waits) -> Decision:
        return wait(state, replace(asked, due=None if asked.due is None else _LATE))

    patch.setattr(vars(decide)["waits"], "wait", endless)


_LATE = Due(delay=timedelta(days=30))


@bug("the saga rests until")
def wait_begins_anew_with_each_event(patch: Patch) -> None:
    def due(self: Rests) -> Due | None:
        lasts = self.waits[-1].rest.timeout if self.waits else None
        return None if lasts is None else Due(delay=lasts)

    patch.setattr(Rests, "due", property(due))


@bug("by its history it is RUNNING|was left SUSPENDED; by its history|never came to rest")
def early_event_overlooked(patch: Patch) -> None:
    patch.setattr(Rests, "would_be_answered", lambda *_: False)


@bug(r"retrying was recorded for a wait that ends in output|was recorded for a wait that ends in")
def time_limit_always_retried(patch: Patch) -> None:
    timed_out: Any = vars(waking)["_timed_out"]

    def stubborn(live: Any, spec: Any, rest: resting.Rest) -> Any:
        return timed_out(live, spec, replace(rest, on_timeout="retry", output=None))

    patch.setattr(waking, "_timed_out", stubborn)
