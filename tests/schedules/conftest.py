"""The rules of schedules run on every store."""

from __future__ import annotations

from tests.behaviour.conftest import harness, store

__all__ = ["harness", "store"]
