"""Open stores by URL, list the backends there are, tell observers what happened.

A backend is an entry point of the group `saga.backends`; its name is the URL scheme. Only the
plugin that is asked for is imported, so a backend whose driver is missing breaks no other. Every
way in which a plugin can be wrong is an error that names its distribution.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pluggy
from pydantic import ValidationError

from saga_core.discovery import (
    Published,
    did_you_mean,
    import_failed,
    lacks,
    listing,
    published,
    register,
)
from saga_core.errors import (
    BackendConflictError,
    BackendNotFoundError,
    SagaDefinitionError,
    SagaError,
    StoreUrlError,
)
from saga_core.hookspecs import BackendSpec, Capability, ObservedEvent, StoreOptions
from saga_core.store import CONTRACT_VERSION, SagaStore

__all__ = [
    "BackendInfo",
    "ObserverHooks",
    "StoreTarget",
    "available_backends",
    "build_hooks",
    "check_contract",
    "load_backend",
    "open_store",
    "resolve_store",
]

logger = logging.getLogger("saga_core")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)(?:\+[A-Za-z0-9_.-]+)?\Z")
_ALIASES = {
    "postgres": "postgresql",
    "rediss": "redis+tls",
    "unix": "redis+unix",
    "valkey": "redis",
    "valkeys": "redis+tls",
}
"""Schemes in common use beside a backend's own; a backend published under one goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """An installed backend, usable or not."""

    name: str
    """The URL scheme."""
    distribution: str
    version: str
    summary: str | None = None
    capabilities: frozenset[Capability] = frozenset()
    problem: str | None = None
    """Why it cannot be used and what to do about it; None for a usable backend."""

    @property
    def usable(self) -> bool:
        return self.problem is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTarget:
    """What a store URL and its options mean."""

    backend: BackendSpec
    url: str = field(repr=False)
    """As the backend gets it: its scheme is the backend's own name. May hold a password."""
    options: StoreOptions = field(repr=False)
    """An instance of `backend.options`."""
    source: Published = field(repr=False)


def available_backends() -> Mapping[str, BackendInfo]:
    """List the installed backends by URL scheme.

    Imports each of them to learn whether its driver is there. What is wrong with one is told in
    its `problem` and hides no other.
    """
    found: dict[str, BackendInfo] = {}
    for name, backend in published().items():
        info = BackendInfo(name=name, distribution=backend.distribution, version=backend.version)
        try:
            spec = backend.load()
        except SagaError as error:
            found[name] = replace(info, problem=str(error))
        else:
            found[name] = replace(info, summary=spec.summary, capabilities=spec.capabilities)
    return found


def load_backend(name: str) -> BackendSpec:
    """Import one backend and return what it tells about itself.

    Raises `BackendNotFoundError` for a name nobody publishes, `MissingDriverError` when a module
    outside the plugin's own distribution cannot be found, `BackendConflictError` for a name that
    is published twice or a plugin that is put together wrongly.
    """
    return _find(name).load()


def resolve_store(url: str, **options: Any) -> StoreTarget:
    """Find the backend of a URL and check the options, without connecting.

    Raises what `load_backend` does, and `StoreUrlError`, which never repeats the URL or the
    value of an option: either may be a secret.
    """
    name, url = _split(url)
    source = _find(name)
    backend = source.load()
    return StoreTarget(backend=backend, url=url, options=_validate(backend, options), source=source)


@asynccontextmanager
async def open_store(
    url: str, *, create_schema: bool | None = None, **options: Any
) -> AsyncIterator[SagaStore]:
    """Open the store that a URL names; close it at the end of the block.

    The URL's scheme, up to any `+driver`, names the backend. `create_schema=None` leaves to the
    backend whether a missing schema is made. `options` are the backend's own, such as
    `namespace`. Raises what `resolve_store` does and what the backend raises on opening.
    """
    target = resolve_store(url, **options)
    async with AsyncExitStack() as stack:
        try:
            opening = target.backend.open(
                target.url, create_schema=create_schema, options=target.options
            )
            store = await stack.enter_async_context(opening)
        except ModuleNotFoundError as error:  # a driver that is only imported here
            raise import_failed(target.source, error) from error
        check_contract(store, what=str(target.source))
        yield store


def check_contract(store: SagaStore, *, what: str = "this store") -> None:
    """Raise `BackendConflictError` if the store was written for another `SagaStore` contract."""
    version = getattr(store, "contract_version", None)
    if version != CONTRACT_VERSION:
        theirs = "no contract version" if version is None else f"contract version {version}"
        raise BackendConflictError(
            f"{what} declares {theirs}, this saga_core speaks version {CONTRACT_VERSION}; "
            "install versions of the two that belong together"
        )


class ObserverHooks:
    """Calls the `saga_observe` hooks of some plugins."""

    __slots__ = ("_observers", "active")

    def __init__(self, observers: Sequence[tuple[str, pluggy.HookCaller]]) -> None:
        self._observers = tuple(observers)
        self.active = bool(self._observers)
        """Whether anybody listens. Without, an event need not even be made."""

    def observe(self, event: ObservedEvent) -> None:
        """Tell every plugin. Never raises: what a plugin raises is logged and dropped."""
        for name, saga_observe in self._observers:
            try:
                saga_observe(event=event)
            except Exception:
                logger.exception(
                    "observer %s failed on %s of saga %s; the saga goes on",
                    name,
                    event.kind,
                    event.saga_id,
                )


def build_hooks(plugins: Sequence[object]) -> ObserverHooks:
    """Check plugins that implement `saga_observe` and make them callable.

    Each is called by itself, so one that fails keeps no other from hearing. Raises
    `BackendConflictError` for a plugin with a misspelt hook or without `saga_observe`, and
    `SagaDefinitionError` for what is no sequence.
    """
    if not isinstance(plugins, Iterable):
        kind = type(plugins).__name__
        raise SagaDefinitionError(
            f"plugins must be a sequence of plugins, got {kind}: plugins=[one] for one, () for none"
        )
    observers: list[tuple[str, pluggy.HookCaller]] = []
    for plugin in plugins:
        name = getattr(plugin, "__name__", None) or type(plugin).__qualname__
        what = f"plugin {name}"
        if inspect.isclass(plugin):
            raise BackendConflictError(f"{what} is a class; pass an instance of it")
        manager = register(plugin, what)
        if not manager.hook.saga_observe.get_hookimpls():
            raise BackendConflictError(f"{what} {lacks(plugin, 'saga_observe')}")
        observers.append((name, manager.hook.saga_observe))
    return ObserverHooks(observers)


def _split(url: str) -> tuple[str, str]:
    """Split off the backend's name; return it and the URL with an alias replaced by it."""
    if not isinstance(url, str):
        raise StoreUrlError(f"a store URL is a string, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    match = _SCHEME.match(scheme)
    if not separator or match is None:
        raise StoreUrlError(
            "a store URL begins with a scheme and '://', as in 'sqlite:///orders.db' or "
            f"'postgresql://user@host/database'; schemes here: {listing(published())}"
        )
    written = match[1]
    name = written.lower()
    meant = name if name in published() else _ALIASES.get(name, name)
    return meant.partition("+")[0], f"{meant}{scheme[len(written) :]}://{rest}"


def _find(name: str) -> Published:
    found = published()
    if name not in found:
        raise BackendNotFoundError(
            f"no installed backend has the URL scheme {name!r}"
            f"{did_you_mean(name, [*found, *_ALIASES])}; installed: {listing(found)}"
        )
    return found[name]


def _validate(spec: BackendSpec, options: Mapping[str, Any]) -> StoreOptions:
    try:
        return spec.options.model_validate(dict(options))
    except ValidationError as error:
        allowed = sorted(spec.options.model_fields)
        wrong = [
            _option_error(".".join(map(str, detail["loc"])), detail, allowed)
            for detail in error.errors(include_url=False, include_context=False)
        ]
        text = f"backend {spec.name!r}: {'; '.join(wrong)}; its options: {', '.join(allowed)}"
    # Outside the handler: pydantic's error may show the value, which may be a secret.
    raise StoreUrlError(text)


def _option_error(option: str, detail: Mapping[str, Any], allowed: Sequence[str]) -> str:
    if detail["type"] == "extra_forbidden":
        return f"there is no option {option!r}{did_you_mean(option, allowed)}"
    message = str(detail["msg"])
    if detail["type"] in {"value_error", "assertion_error"} and str(detail["input"]) in message:
        message = "the value is refused"
    return f"option {option!r}: {message}"
