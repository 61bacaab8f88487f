"""Real distributions in a temporary folder, found the way pip-installed ones are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Protocol

import pytest

BACKEND = """
    from contextlib import asynccontextmanager

    from saga_core.hookspecs import BackendSpec, Capability, StoreOptions, hookimpl

    class Options(StoreOptions):
        password: str = ""
        port: int = 1

    class Store:
        contract_version = 1

        def __init__(self, url, create_schema, options):
            self.url, self.create_schema, self.options = url, create_schema, options
            self.namespace, self.closed = options.namespace, False

    @asynccontextmanager
    async def open_shop(url, *, create_schema, options):
        store = Store(url, create_schema, options)
        try:
            yield store
        finally:
            store.closed = True

    @hookimpl
    def saga_backend():
        return BackendSpec(
            name="{name}", summary="keeps a shop", open=open_shop, options=Options,
            capabilities=frozenset({{Capability.DURABLE}}),
        )
"""


def backend(name: str) -> str:
    """Source of a plugin that works."""
    return dedent(BACKEND).format(name=name)


class Publish(Protocol):
    def __call__(
        self,
        distribution: str,
        backends: Mapping[str, str],
        modules: Mapping[str, str],
        *,
        version: str = "1.0",
        extras: tuple[str, ...] = (),
    ) -> Path: ...


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Install a distribution: its entry points, its modules, its metadata."""
    before = set(sys.modules)
    installed: list[str] = []

    def install(
        distribution: str,
        backends: Mapping[str, str],
        modules: Mapping[str, str],
        *,
        version: str = "1.0",
        extras: tuple[str, ...] = (),
    ) -> Path:
        site = tmp_path / f"site-{distribution}"
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        metadata += [f"Provides-Extra: {extra}" for extra in extras]
        (info / "METADATA").write_text("\n".join(metadata) + "\n")
        points = [f"{name} = {value}" for name, value in backends.items()]
        (info / "entry_points.txt").write_text("\n".join(["[saga.backends]", *points]) + "\n")
        for name, source in modules.items():
            file = site / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(source))
            installed.append(name.partition("/")[0].removesuffix(".py"))
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in modules))
        monkeypatch.syspath_prepend(site)
        return site

    yield install
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in installed:
            del sys.modules[name]
