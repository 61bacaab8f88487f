"""Tell what happened in a world, a line each, for whoever looks for the cause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from saga_core.records import (
    Claims,
    Committed,
    Created,
    LeaseAction,
    NewSaga,
    SagaRecord,
    Signal,
    Transition,
)
from tests.campaign.ledger import Aged, Asked, Began, Call, Crashed, Ended, Happening, Lost, Replied

__all__ = ["tell"]


def tell(happenings: list[Happening]) -> Iterator[str]:
    """Yield a line on each happening."""
    for happening in happenings:
        yield _line(happening)


def _line(happening: Happening) -> str:
    match happening:
        case Call():
            heard = "" if happening.heard else "  (not heard)"
            answer = happening.error or _short(happening.answer)
            what = f"{happening.method} {_short(happening.request)}"
            return f"{_who(happening.worker)} {what} -> {answer}{heard}"
        case Lost(worker, method):
            return f"{_who(worker)} {method} was lost on its way"
        case Began():
            seen = f"attempt {happening.context.attempt}, fence {happening.context.fence}"
            return (
                f"{_who(happening.worker)} {happening.act.name.lower()} {happening.step}: "
                f"no. {happening.serial}, {seen}"
            )
        case Ended(serial, outcome):
            return f"       no. {serial} ended: {outcome}"
        case Aged(by):
            return f"       {by} passed"
        case Crashed(worker):
            return f"{_who(worker)} died"
        case Asked(worker, number, what):
            return f"{_who(worker)} asks {number}: {what}"
        case Replied(number, what, answer, error):
            return f"       reply {number}: {what} -> {answer if error is None else repr(error)}"
        case _:
            return repr(happening)


def _who(worker: str) -> str:
    return worker[-6:]


def _short(value: Any) -> str:
    match value:
        case Transition():
            kinds = ", ".join(f"{each.kind} {each.step_id}" for each in value.history)
            lease = value.lease.name if isinstance(value.lease, LeaseAction) else "TAKE"
            state = f"{value.state.status} {value.state.step_id} x{value.state.attempt}"
            return (
                f"v{value.expected_version}+1 [{kinds}] {state} {lease}, seen {value.seen}, "
                f"id {str(value.commit_id)[:4]}"
            )
        case NewSaga():
            return f"{value.state.status} {'unleased' if value.lease is None else 'leased'}"
        case SagaRecord():
            holder = "nobody" if value.worker is None else _who(value.worker)
            lease = "" if value.worker is None or value.is_held else ", its lease over"
            return (
                f"v{value.version} f{value.fence} {value.state.status} {value.state.step_id} of "
                f"{holder}{lease}, signals {value.signals}/{value.seen}, reclaims {value.reclaims}"
            )
        case Claims():
            return "; ".join(_short(each) for each in value.records) or "nothing"
        case Created():
            return f"created={value.created} {_short(value.record)}"
        case Committed():
            return f"v{value.version} f{value.fence} signals {value.signals} held={value.held}"
        case Signal():
            return f"{value.kind} {value.payload}"
        case tuple() | list():
            return f"({', '.join(_short(each) for each in value)})"
        case _:
            return str(value)[:100]
