"""Which ticks a cron line has."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from saga_core import MissingDriverError, SagaDefinitionError
from saga_cron.line import CronLine

BERLIN = "Europe/Berlin"
SPRING = datetime(2026, 3, 29, 0, 0, tzinfo=ZoneInfo(BERLIN))
"""At 02:00 the clocks go to 03:00."""
AUTUMN = datetime(2026, 10, 25, 0, 0, tzinfo=ZoneInfo(BERLIN))
"""At 03:00 the clocks go back to 02:00."""


def ticks(cron: str, after: datetime, count: int, zone: str = BERLIN) -> list[datetime]:
    """Return the ticks, each asked for from the one before, as a chain does."""
    line = CronLine(cron, zone)
    found: list[datetime] = []
    for _ in range(count):
        tick = line.after(found[-1] if found else after)
        assert tick is not None
        found.append(tick)
    return found


def local(moments: list[datetime]) -> list[str]:
    return [each.astimezone(ZoneInfo(BERLIN)).strftime("%d %H:%M") for each in moments]


def test_daily_tick_keeps_its_local_hour_when_the_clocks_change() -> None:
    winter, summer = ticks("30 9 * * *", SPRING - timedelta(days=1), 2)
    assert (winter.hour, summer.hour) == (8, 7)
    assert winter.tzinfo is UTC


def test_tick_in_the_hour_that_is_left_out_comes_at_once_after_it() -> None:
    assert local(ticks("30 2 * * *", SPRING, 2)) == ["29 03:00", "30 02:30"]


def test_two_ticks_that_fall_on_one_moment_are_one() -> None:
    assert local(ticks("0,30 2 * * *", SPRING, 2)) == ["29 03:00", "30 02:00"]


def test_tick_in_the_hour_that_comes_twice_is_one() -> None:
    assert local(ticks("30 2 * * *", AUTUMN, 2)) == ["25 02:30", "26 02:30"]


def test_schedule_that_begins_in_the_repeated_hour_does_not_go_back() -> None:
    second_time = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    assert local(ticks("30 2 * * *", second_time, 1)) == ["26 02:30"]


def test_every_quarter_of_an_hour_goes_through_the_repeated_hour() -> None:
    found = ticks("*/15 * * * *", AUTUMN, 40)
    assert {after - before for before, after in pairwise(found)} == {timedelta(minutes=15)}


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/7 1-3 * * *", "0 0 1,15 * MON", "15 */6 * * *"])
def test_asking_from_each_tick_gives_the_ticks_of_one_look(cron: str, zone: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    chained = ticks(cron, begin, 400, zone)
    at_once, more = CronLine(cron, zone).newest(400, after=begin, until=chained[-1])
    assert (at_once, more) == (chained, False)


def test_newest_ticks_of_a_long_time_are_found_without_counting_all() -> None:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    line = CronLine("* * * * * *", "UTC")
    found, more = line.newest(3, after=until - timedelta(days=36_500), until=until)
    assert [(until - tick).total_seconds() for tick in found] == [2, 1, 0]
    assert more


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 */40 * MON#2"])
def test_line_that_never_fires_is_refused(cron: str) -> None:
    with pytest.raises(SagaDefinitionError, match="never fires"):
        CronLine(cron, "UTC")


@pytest.mark.parametrize("cron", ["", "x", "* * *", "61 * * * *", "0 0 * * MON#1/2", "0 5-1 * * *"])
def test_text_that_is_no_line_is_refused(cron: str) -> None:
    with pytest.raises(SagaDefinitionError, match="cron line"):
        CronLine(cron, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "/etc/passwd", "../x"])
def test_zone_that_is_not_known_is_refused(zone: str) -> None:
    with pytest.raises(SagaDefinitionError, match="timezone"):
        CronLine("* * * * *", zone)


def test_missing_extra_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingDriverError, match=r"pip install 'saga-core\[cron\]'"):
        CronLine("* * * * *", "UTC")
