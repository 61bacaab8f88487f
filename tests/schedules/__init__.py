"""Schedules: what each tick starts, on every store."""
