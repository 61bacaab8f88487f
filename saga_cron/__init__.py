"""Start sagas by the clock: cron lines, one run per tick however many workers there are."""

from saga_cron.listing import ScheduleInfo, list_schedules
from saga_cron.schedule import Schedule
from saga_cron.schedules import Schedules

__all__ = ["Schedule", "ScheduleInfo", "Schedules", "list_schedules"]
