"""What a step may ask to wait for, and how what it asked for is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field

from saga_core import AwaitEvent, BaseStep, Sleep, StepContext, TypeValidationError
from saga_core.awaiting import event_name
from saga_core.codec import PayloadCodec, PayloadLimits
from saga_core.errors import PayloadError, SagaDefinitionError
from saga_core.events import TypedEvent, event_models
from saga_core.records import Due, StoredSignal
from saga_core.resting import Rest, Resting, answers, is_wait
from saga_core.status import SignalKind
from tests.behaviour import cast

HOUR = timedelta(hours=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LIMITS = PayloadLimits()


class Paid(BaseModel):
    amount: int


class Renamed(BaseModel):
    saga_event_name: ClassVar[str] = "Paid"


class Aliased(BaseModel):
    amount: int = Field(alias="sum")


# --- the wish -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        (lambda: AwaitEvent(), TypeValidationError, "needs an event model"),
        (lambda: AwaitEvent(7), TypeValidationError, "needs pydantic models"),
        (lambda: AwaitEvent(Paid(amount=1)), TypeValidationError, "the classes themselves"),
        (lambda: AwaitEvent(int), TypeValidationError, "needs pydantic models"),
        (lambda: AwaitEvent(Paid, Renamed), TypeValidationError, "two models .* Paid"),
        (lambda: AwaitEvent(Paid, correlation_id=7), TypeValidationError, "correlation_id"),
        (lambda: AwaitEvent(Paid, timeout=5), TypeValidationError, "must be a timedelta, got int"),
        (lambda: AwaitEvent(Paid, timeout=timedelta(0)), SagaDefinitionError, "above zero"),
        (lambda: AwaitEvent(Paid, timeout=-HOUR), SagaDefinitionError, "above zero"),
        (lambda: AwaitEvent(Paid, timeout=timedelta.max), SagaDefinitionError, "at most"),
        (lambda: Sleep(), TypeValidationError, "a duration or a time"),
        (lambda: Sleep(HOUR, until=NOW), TypeValidationError, "a duration or a time"),
        (lambda: Sleep(5), TypeValidationError, "must be a timedelta, got int"),
        (lambda: Sleep(timedelta(0)), SagaDefinitionError, "above zero"),
        (lambda: Sleep(until="2030-01-01"), TypeValidationError, "must be a datetime"),
        (lambda: Sleep(until=NOW.replace(tzinfo=None)), SagaDefinitionError, "no time zone"),
        (lambda: Sleep(until=datetime.max.replace(tzinfo=UTC)), SagaDefinitionError, "1970 and"),
        (lambda: Sleep(until=datetime.min.replace(tzinfo=UTC)), SagaDefinitionError, "1970 and"),
    ],
)
def test_wrong_wish_is_refused_where_it_is_made(
    asked: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        asked()


def test_event_name_is_that_of_the_class_unless_it_says_another() -> None:
    assert (event_name(Paid), event_name(Renamed)) == ("Paid", "Paid")


# --- what is kept -------------------------------------------------------------------------------


def rest_of(wish: AwaitEvent | Sleep, output: Any = int) -> Rest:
    codec = PayloadCodec(output, what="output") if output is not None else None
    return Rest.asked(wish, number=3, output=codec, limits=LIMITS)


@pytest.mark.parametrize(
    ("wish", "waiting_for", "due"),
    [
        (AwaitEvent(Paid), "event:Paid", None),
        (
            AwaitEvent(Paid, Aliased, correlation_id="x", timeout=HOUR, on_timeout="retry"),
            "event:Paid|Aliased with correlation_id x",
            Due(delay=HOUR),
        ),
        (AwaitEvent(Paid, timeout=HOUR, on_timeout=7), "event:Paid", Due(delay=HOUR)),
        (Sleep(HOUR), "sleep", Due(delay=HOUR)),
        (Sleep(until=NOW), "sleep", Due(at=NOW)),
        (Sleep(until=NOW.astimezone(timezone(HOUR))), "sleep", Due(at=NOW)),
    ],
)
def test_what_is_kept_reads_back(wish: Any, waiting_for: str, due: Due | None) -> None:
    rest = rest_of(wish)
    assert Rest.decode(rest.encode()) == rest
    assert (rest.waiting_for, rest.due, rest.number) == (waiting_for, due, 3)
    assert is_wait(rest.waiting_for)


@pytest.mark.parametrize("text", ["7", "{}", "null", '{"number":0,"until":"soon"}', "{"])
def test_wait_that_cannot_be_read_is_our_error(text: str) -> None:
    with pytest.raises(PayloadError):
        Rest.decode(text)


def test_words_are_no_output_and_other_values_are_validated() -> None:
    assert rest_of(AwaitEvent(Paid, on_timeout="fail"), str).output is None
    assert rest_of(AwaitEvent(Paid, on_timeout="gone"), str).output == '"gone"'
    assert rest_of(AwaitEvent(Paid, on_timeout=None), type(None)).output == "null"
    with pytest.raises(PayloadError, match="on_timeout is not a valid int"):
        rest_of(AwaitEvent(Paid, on_timeout="gone"), int)
    with pytest.raises(TypeValidationError, match="in a compensation"):
        rest_of(AwaitEvent(Paid, on_timeout=7), None)


@pytest.mark.parametrize("waiting_for", [None, "resume", "start", "key"])
def test_other_rests_are_no_waits_of_a_step(waiting_for: str | None) -> None:
    assert not is_wait(waiting_for)


# --- which event ends which wait ----------------------------------------------------------------


def sent(seq: int, event: Any = None, *, after: timedelta = HOUR, **more: Any) -> StoredSignal:
    typed = TypedEvent.of(
        Paid(amount=seq) if event is None else event,
        event_type=more.get("event_type"),
        correlation_id=more.get("correlation_id"),
        limits=LIMITS,
    )
    return StoredSignal(
        event_id=str(seq),
        kind=SignalKind.TYPED_EVENT,
        payload=typed.encode(),
        seq=seq,
        at=NOW + after,
        consumed=False,
    )


def given(waits: list[AwaitEvent | Sleep], *kept: StoredSignal) -> list[int | None]:
    resting = [Resting(rest_of(wish), NOW) for wish in waits]
    found = answers(resting, kept, {"Paid": Paid, "Aliased": Aliased})
    return [None if signal is None else signal.seq for signal in found]


def test_first_event_that_fits_is_given_to_one_wait_only() -> None:
    waits = [AwaitEvent(Paid), Sleep(HOUR), AwaitEvent(Paid)]
    assert given(waits, sent(1), sent(2), sent(3)) == [1, None, 2]
    assert given(waits, sent(1)) == [1, None, None]


def test_event_fits_by_type_and_correlation() -> None:
    other = sent(1, {"sum": 1}, event_type="Aliased")
    assert given([AwaitEvent(Paid)], other, sent(2)) == [2]
    assert given([AwaitEvent(Paid, Aliased)], other, sent(2)) == [1]
    wait = AwaitEvent(Paid, correlation_id="x")
    assert given([wait], sent(1), sent(2, correlation_id="y"), sent(3, correlation_id="x")) == [3]
    assert given([AwaitEvent(Paid)], sent(1, correlation_id="y")) == [1]


def test_event_counts_if_it_came_in_time() -> None:
    wait = AwaitEvent(Paid, timeout=HOUR)
    assert given([wait], sent(1, after=HOUR)) == [1]
    assert given([wait], sent(1, after=-HOUR)) == [1]  # before the wait
    assert given([wait], sent(1, after=HOUR + timedelta(microseconds=1))) == [None]


def test_event_that_is_not_valid_is_passed_over() -> None:
    assert given([AwaitEvent(Paid)], sent(1, {"amount": "x"}, event_type="Paid"), sent(2)) == [2]


def test_event_is_read_by_alias_or_name() -> None:
    for event in (Aliased(sum=7), {"sum": 7}, {"amount": 7}):
        typed = TypedEvent.of(event, event_type="Aliased", correlation_id=None, limits=LIMITS)
        assert TypedEvent.decode(typed.encode()).read(Aliased) == Aliased(sum=7)


# --- whose models are known ---------------------------------------------------------------------


def _paid() -> AwaitEvent:
    return AwaitEvent(Paid)


class Direct(BaseStep[int, int]):
    async def execute(self, inp: int, ctx: StepContext) -> int | AwaitEvent:
        return AwaitEvent(Paid) if ctx.event is None else 1


class ThroughAFunction(BaseStep[int, int]):
    def execute(self, inp: int) -> int | AwaitEvent:
        return next(_paid() for _ in range(1))


class ThroughAModule(BaseStep[int, int]):
    def execute(self, inp: int) -> int | AwaitEvent:
        return AwaitEvent(cast.Number)


class OfAnInstance(BaseStep[int, int]):
    def __init__(self, *models: type[BaseModel]) -> None:
        self._models = models

    def execute(self, inp: int) -> int | AwaitEvent:
        return AwaitEvent(*self._models)


class Child(Direct):
    pass


WAIT = AwaitEvent(Paid, timeout=timedelta(days=30))
WAITS = {"paid": [WAIT]}


class ThroughAConstant(BaseStep[int, int]):
    def execute(self, inp: int) -> int | AwaitEvent:
        return WAIT


class ThroughATable(BaseStep[int, int]):
    def execute(self, inp: int) -> int | AwaitEvent:
        return WAITS["paid"][0]


class ThroughAProperty(BaseStep[int, int]):
    @property
    def wait(self) -> AwaitEvent:
        return AwaitEvent(Paid)

    def execute(self, inp: int) -> int | AwaitEvent:
        return self.wait


class OfAnAttribute(BaseStep[int, int]):
    def __init__(self, waits: Any) -> None:
        self._waits = waits

    def execute(self, inp: int) -> int | AwaitEvent:
        wait: AwaitEvent = self._waits
        return wait


@pytest.mark.parametrize(
    ("step", "name", "model"),
    [
        (Direct(), "Paid", Paid),
        (Child(), "Paid", Paid),
        (ThroughAFunction(), "Paid", Paid),
        (ThroughAModule(), "Number", cast.Number),
        (OfAnInstance(Aliased), "Aliased", Aliased),
        (ThroughAConstant(), "Paid", Paid),
        (ThroughATable(), "Paid", Paid),
        (ThroughAProperty(), "Paid", Paid),
        (OfAnAttribute(WAIT), "Paid", Paid),
        (OfAnAttribute([HOUR, {"it": WAIT}]), "Paid", Paid),
        (OfAnAttribute({WAIT}), "Paid", Paid),
    ],
)
def test_models_are_those_that_a_steps_code_mentions(step: Any, name: str, model: Any) -> None:
    assert event_models(step)[name] is model


def test_name_that_two_models_share_is_left_out() -> None:
    assert "Paid" not in event_models(OfAnInstance(Paid, Renamed))
