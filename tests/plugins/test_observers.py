"""Observers hear of every event, and nothing they do reaches a saga."""

from __future__ import annotations

import logging
from uuid import UUID

import pytest

from saga_core.errors import BackendConflictError
from saga_core.hookspecs import ObservedEvent, hookimpl
from saga_core.plugins import build_hooks
from saga_core.status import EntryKind, SagaStatus

EVENT = ObservedEvent(
    saga_id=UUID(int=1), saga_name="order", kind=EntryKind.COMPLETED, status=SagaStatus.RUNNING
)


class Listener:
    def __init__(self) -> None:
        self.heard: list[ObservedEvent] = []

    @hookimpl
    def saga_observe(self, event: ObservedEvent) -> None:
        self.heard.append(event)


class Grumbler:
    @hookimpl
    def saga_observe(self, event: ObservedEvent) -> None:
        raise RuntimeError("no metrics today")


def test_without_plugins_nobody_listens() -> None:
    hooks = build_hooks(())

    assert not hooks.active
    hooks.observe(EVENT)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_observer_that_raises_is_logged_and_keeps_no_other_from_hearing(
    place: int, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Listener(), Listener()
    plugins: list[object] = [first, second]
    plugins.insert(place, Grumbler())
    hooks = build_hooks(plugins)

    with caplog.at_level(logging.ERROR, "saga_core"):
        hooks.observe(EVENT)

    assert hooks.active
    assert first.heard == second.heard == [EVENT]
    assert "observer Grumbler failed" in caplog.text
    assert "no metrics today" in caplog.text


class Misspelt:
    @hookimpl
    def saga_obsrve(self, event: ObservedEvent) -> None: ...


class Unmarked:
    def saga_observe(self, event: ObservedEvent) -> None: ...


class Awaiting:
    @hookimpl
    async def saga_observe(self, event: ObservedEvent) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Misspelt(), "did you mean 'saga_observe'"),
        (Unmarked(), "put @hookimpl on it"),
        (Awaiting(), "is 'async def'"),
        (object(), "does not implement saga_observe"),
        (Listener, "is a class; pass an instance"),
    ],
)
def test_a_plugin_that_would_never_be_called_is_refused(plugin: object, words: str) -> None:
    with pytest.raises(BackendConflictError, match=words):
        build_hooks([plugin])
