"""A cron line: which ticks it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from saga_core import MissingDriverError, SagaDefinitionError

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = ["CronLine"]

FIRST_WINDOW = timedelta(minutes=1)

SAMPLE = datetime(2024, 1, 1, tzinfo=UTC)
"""Where a new line is tried; a line without a tick in the 50 years that follow never fires."""


class CronLine:
    """The ticks of a cron line in a time zone, in UTC and strictly rising.

    Five fields, or six with the seconds first; the hours that a change to or from summer time
    leaves out or repeats are handled as cronsim, and so Debian's cron, does.
    """

    def __init__(self, cron: str, timezone: str) -> None:
        """Raises `SagaDefinitionError` for a line or a zone that cannot be read, and for a line
        that never fires; `MissingDriverError` without cronsim."""
        self._cron = cron
        self._zone = _zone(timezone)
        try:
            first = next(self._ticks(SAMPLE), None)
        except MissingDriverError:
            raise
        except Exception as error:  # cronsim also asserts
            reason = str(error) or "it cannot be read"
            raise SagaDefinitionError(
                f"cron line {cron!r} never fires or is no cron line: {reason}"
            ) from error
        if first is None:
            raise SagaDefinitionError(
                f"cron line {cron!r} never fires: it has no tick in the next 50 years"
            )

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick later than `moment`; None if there is none within 50 years."""
        return next(self._ticks(moment), None)

    def newest(self, most: int, *, after: datetime, until: datetime) -> tuple[list[datetime], bool]:
        """Return the newest ticks later than `after` up to `until`, at most `most`, oldest first.

        The second value tells whether there are more. Costs what is returned, not what is left out.
        """
        window = FIRST_WINDOW
        while True:
            begin = max(after, until - window)
            ticks = deque(self._between(begin, until), maxlen=most + 1)
            if begin == after or len(ticks) > most:
                more = len(ticks) > most
                return list(ticks)[-most:], more
            window *= 4

    def _between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        for tick in self._ticks(after):
            if tick > until:
                return
            yield tick

    def _ticks(self, after: datetime) -> Iterator[datetime]:
        latest = after.astimezone(UTC)
        for local in _cronsim()(self._cron, latest.astimezone(self._zone)):
            tick = local.astimezone(UTC)
            # A repeated hour comes back to an earlier time, a skipped one to the same.
            if tick > latest:
                latest = tick
                yield tick


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except Exception as error:  # a KeyError, ValueError or OSError, by what is wrong with it
        raise SagaDefinitionError(
            f"timezone {name!r} is not known here: use a name such as 'Europe/Berlin'; where the "
            "system has no zones, pip install tzdata"
        ) from error


def _cronsim() -> type[CronSim]:
    try:
        from cronsim import CronSim
    except ModuleNotFoundError as error:
        if error.name != "cronsim":
            raise
        raise MissingDriverError(
            "saga_cron needs the module 'cronsim', which is not installed; "
            "run: pip install 'saga-core[cron]'"
        ) from error
    return CronSim
