"""Find backends by URL scheme and tell observers what happened.

A backend is an entry point of the group `saga.backends`; its name is the URL scheme. Only the
plugin that is asked for is imported, so a backend whose driver is missing breaks no other. Every
way in which a plugin can be wrong is an error that names its distribution.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
from pydantic import ValidationError

from saga_core import hookspecs
from saga_core.errors import (
    BackendConflictError,
    BackendNotFoundError,
    MissingDriverError,
    SagaError,
    StoreUrlError,
)
from saga_core.hookspecs import BackendSpec, Capability, ObservedEvent, StoreOptions
from saga_core.store import CONTRACT_VERSION, SagaStore

__all__ = [
    "ENTRY_POINT_GROUP",
    "BackendInfo",
    "ObserverHooks",
    "available_backends",
    "build_hooks",
    "check_contract",
    "load_backend",
    "open_store",
]

logger = logging.getLogger("saga_core")

ENTRY_POINT_GROUP = "saga.backends"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)(?:\+[A-Za-z0-9_.-]+)?\Z")
_ALIASES = {"postgres": "postgresql"}
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


def available_backends() -> Mapping[str, BackendInfo]:
    """List the installed backends by URL scheme.

    Imports each of them to learn whether its driver is there. What is wrong with one is told in
    its `problem` and hides no other.
    """
    found: dict[str, BackendInfo] = {}
    for name, points in sorted(_published().items()):
        distribution = " and ".join(dict.fromkeys(_dist_name(point) for point in points))
        version = " and ".join(dict.fromkeys(_dist_version(point) for point in points))
        try:
            spec = _load(name, points)
        except Exception as error:
            problem = str(error) if isinstance(error, SagaError) else repr(error)
            found[name] = BackendInfo(
                name=name, distribution=distribution, version=version, problem=problem
            )
        else:
            found[name] = BackendInfo(
                name=name,
                distribution=distribution,
                version=version,
                summary=spec.summary,
                capabilities=spec.capabilities,
            )
    return found


def load_backend(name: str) -> BackendSpec:
    """Import one backend and return what it tells about itself.

    Raises `BackendNotFoundError` for a name nobody publishes, `MissingDriverError` when a module
    outside the plugin's own distribution cannot be found, `BackendConflictError` for a name that
    is published twice or a plugin that is put together wrongly.
    """
    return _load(name, _points(name))


@asynccontextmanager
async def open_store(
    url: str, *, create_schema: bool | None = None, **options: Any
) -> AsyncIterator[SagaStore]:
    """Open the store that a URL names; close it at the end of the block.

    The URL's scheme, up to any `+driver`, names the backend. `create_schema=None` leaves to the
    backend whether a missing schema is made. `options` are the backend's own, such as
    `namespace`. Raises what `load_backend` does, `StoreUrlError` for a wrong URL or option, and
    what the backend raises on opening.
    """
    name, url = _resolve(url)
    points = _points(name)
    spec = _load(name, points)
    validated = _validate(spec, options)
    async with AsyncExitStack() as stack:
        try:
            opening = spec.open(url, create_schema=create_schema, options=validated)
            store = await stack.enter_async_context(opening)
        except ModuleNotFoundError as error:  # a driver that is only imported here
            raise _import_failed(points[0], error) from error
        check_contract(store, backend=f"backend {name!r} of {_origin(points[0])}")
        yield store


def check_contract(store: SagaStore, *, backend: str = "this store") -> None:
    """Raise `BackendConflictError` if the store was written for another `SagaStore` contract."""
    version = getattr(store, "contract_version", None)
    if version != CONTRACT_VERSION:
        theirs = "no contract version" if version is None else f"contract version {version}"
        raise BackendConflictError(
            f"{backend} declares {theirs}, this saga_core speaks version {CONTRACT_VERSION}; "
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
    `BackendConflictError` for a plugin with a misspelt hook or without `saga_observe`.
    """
    observers: list[tuple[str, pluggy.HookCaller]] = []
    for plugin in plugins:
        name = getattr(plugin, "__name__", None) or type(plugin).__qualname__
        what = f"plugin {name}"
        if inspect.isclass(plugin):
            raise BackendConflictError(f"{what} is a class; pass an instance of it")
        manager = _register(plugin, what)
        if not manager.hook.saga_observe.get_hookimpls():
            raise BackendConflictError(f"{what} {_lacks(plugin, 'saga_observe')}")
        observers.append((name, manager.hook.saga_observe))
    return ObserverHooks(observers)


# --- from a URL to an entry point -----------------------------------------------------------------


def _resolve(url: str) -> tuple[str, str]:
    """Split off the backend's name; return it and the URL with an alias replaced by it.

    The text is never repeated in an error: it may hold a password.
    """
    if not isinstance(url, str):
        raise StoreUrlError(f"a store URL is a string, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    match = _SCHEME.match(scheme)
    if not separator or match is None:
        raise StoreUrlError(
            "a store URL begins with a scheme and '://', as in 'sqlite:///orders.db' or "
            f"'postgresql://user@host/database'; schemes here: {_listing(_published())}"
        )
    written = match[1]
    name = written.lower()
    if name in _ALIASES and name not in _published():
        name = _ALIASES[name]
    return name, f"{name}{scheme[len(written) :]}://{rest}"


def _published() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _points(name: str) -> list[EntryPoint]:
    published = _published()
    if name not in published:
        raise BackendNotFoundError(
            f"no installed backend has the URL scheme {name!r}"
            f"{_did_you_mean(name, [*published, *_ALIASES])}; installed: {_listing(published)}"
        )
    return published[name]


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
        return f"there is no option {option!r}{_did_you_mean(option, allowed)}"
    message = str(detail["msg"])
    if detail["type"] in {"value_error", "assertion_error"} and str(detail["input"]) in message:
        message = "the value is refused"
    return f"option {option!r}: {message}"


# --- from an entry point to a spec ----------------------------------------------------------------


def _load(name: str, points: Sequence[EntryPoint]) -> BackendSpec:
    point = points[0]
    if len(points) > 1:
        raise BackendConflictError(
            f"backend {name!r} is published by {' and by '.join(map(_origin, points))}; "
            "uninstall all but one"
        )
    what = f"backend {name!r} of {_origin(point)}"
    try:
        plugin = point.load()
        manager = _register(plugin, what)
        if not manager.hook.saga_backend.get_hookimpls():
            raise BackendConflictError(f"{what}: {point.value} {_lacks(plugin, 'saga_backend')}")
        spec = manager.hook.saga_backend()
    except SagaError:
        raise
    except ModuleNotFoundError as error:
        raise _import_failed(point, error) from error
    except Exception as error:
        raise BackendConflictError(f"{what} cannot be loaded: {_words(error)}") from error
    if not isinstance(spec, BackendSpec):
        raise BackendConflictError(
            f"{what}: saga_backend returned {type(spec).__name__}, not a BackendSpec"
        )
    if spec.name != name:
        raise BackendConflictError(
            f"{what} calls itself {spec.name!r}; BackendSpec.name must be the entry-point name"
        )
    return spec


def _register(plugin: object, what: str) -> pluggy.PluginManager:
    """Put a plugin under a manager of its own and check each of its hooks."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    known = [name for name in vars(manager.hook) if not name.startswith("_")]
    try:
        manager.register(plugin)
    except pluggy.PluginValidationError as error:
        words = " ".join(str(error).split())
        raise BackendConflictError(f"{what} has a hook with wrong parameters: {words}") from error
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            raise BackendConflictError(
                f"{what} implements {caller.name!r}, which is not a hook"
                f"{_did_you_mean(caller.name, known)}; hooks: {_listing(known)}"
            )
        if any(inspect.iscoroutinefunction(impl.function) for impl in caller.get_hookimpls()):
            raise BackendConflictError(f"{what}: {caller.name} is 'async def', hooks are not")
    return manager


def _import_failed(point: EntryPoint, error: ModuleNotFoundError) -> SagaError:
    """Tell a driver that is not installed from a plugin that is broken."""
    what = f"backend {point.name!r} of {_origin(point)}"
    missing = (error.name or "").partition(".")[0]
    if not missing or missing in _own_modules(point):
        return BackendConflictError(f"{what} cannot be loaded: {_words(error)}")
    return MissingDriverError(
        f"{what} needs the module {error.name!r}, which is not installed; "
        f"run: pip install '{_requirement(point)}'"
    )


def _own_modules(point: EntryPoint) -> set[str]:
    """Top-level modules whose absence is a defect of the plugin, not a missing driver."""
    own = {point.module.partition(".")[0], "saga_core"}
    if point.dist is not None:
        own.update(path.parts[0].removesuffix(".py") for path in point.dist.files or ())
        own.update(
            other.module.partition(".")[0]
            for other in point.dist.entry_points
            if other.group == ENTRY_POINT_GROUP
        )
    return own


def _requirement(point: EntryPoint) -> str:
    """What to ask pip for: the distribution, with the extra that is called like the backend."""
    name = _dist_name(point)
    return f"{name}[{point.name}]" if point.name in _metadata(point, "Provides-Extra") else name


# --- words ----------------------------------------------------------------------------------------


def _lacks(plugin: object, hook: str) -> str:
    if callable(getattr(plugin, hook, None)):
        return f"has a {hook} that is not marked: put @hookimpl on it"
    return f"does not implement {hook}"


def _dist_name(point: EntryPoint) -> str:
    return next(iter(_metadata(point, "Name")), "an unnamed distribution")


def _dist_version(point: EntryPoint) -> str:
    return next(iter(_metadata(point, "Version")), "?")


def _metadata(point: EntryPoint, field: str) -> list[str]:
    """Read a field of the distribution; one without readable metadata has none."""
    try:
        return list(point.dist.metadata.get_all(field) or ()) if point.dist is not None else []
    except (OSError, TypeError, ValueError):
        return []


def _origin(point: EntryPoint) -> str:
    return f"{_dist_name(point)} {_dist_version(point)}"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _listing(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _did_you_mean(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
