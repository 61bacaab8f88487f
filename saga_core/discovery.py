"""Turn an entry point into a checked `BackendSpec`, or say what is wrong with it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Sequence
from importlib.metadata import EntryPoint, entry_points

import pluggy

from saga_core import hookspecs
from saga_core.errors import BackendConflictError, MissingDriverError, SagaError
from saga_core.hookspecs import BackendSpec

__all__ = [
    "ENTRY_POINT_GROUP",
    "Published",
    "did_you_mean",
    "import_failed",
    "lacks",
    "listing",
    "published",
    "register",
]

ENTRY_POINT_GROUP = "saga.backends"


class Published:
    """A backend name and every distribution that publishes it. Nothing is imported yet."""

    def __init__(self, name: str, points: Sequence[EntryPoint]) -> None:
        self.name = name
        self.points = tuple(points)

    @property
    def distribution(self) -> str:
        return " and ".join(_dist_name(point) for point in self.points)

    @property
    def version(self) -> str:
        return " and ".join(_dist_version(point) for point in self.points)

    def __str__(self) -> str:
        return f"backend {self.name!r} of {' and '.join(map(_origin, self.points))}"

    def load(self) -> BackendSpec:
        """Import the plugin and ask it for its spec.

        Raises `MissingDriverError` when a module outside the plugin's own distribution cannot be
        found, `BackendConflictError` for a name that is published twice or a malformed plugin.
        """
        if len(self.points) > 1:
            raise BackendConflictError(
                f"backend {self.name!r} is published by "
                f"{' and by '.join(map(_origin, self.points))}; uninstall all but one"
            )
        point = self.points[0]
        try:
            plugin = point.load()
            manager = register(plugin, str(self))
            if not manager.hook.saga_backend.get_hookimpls():
                raise BackendConflictError(f"{self}: {point.value} {lacks(plugin, 'saga_backend')}")
            spec = manager.hook.saga_backend()
        except SagaError:
            raise
        except ModuleNotFoundError as error:
            raise import_failed(self, error) from error
        except (Exception, SystemExit) as error:
            raise BackendConflictError(f"{self} cannot be loaded: {_words(error)}") from error
        if not isinstance(spec, BackendSpec):
            raise BackendConflictError(
                f"{self}: saga_backend returned {type(spec).__name__}, not a BackendSpec"
            )
        if spec.name != self.name:
            raise BackendConflictError(
                f"{self} calls itself {spec.name!r}; BackendSpec.name must be the entry-point name"
            )
        return spec


def published() -> dict[str, Published]:
    """Read the entry points of all installed distributions, sorted by name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(point.name, []).append(point)
    return {name: Published(name, found[name]) for name in sorted(found)}


def register(plugin: object, what: str) -> pluggy.PluginManager:
    """Put a plugin under a manager of its own and check each of its hooks.

    Raises `BackendConflictError` for a hook that is misspelt, async or has wrong parameters.
    """
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
                f"{did_you_mean(caller.name, known)}; hooks: {listing(known)}"
            )
        if any(inspect.iscoroutinefunction(impl.function) for impl in caller.get_hookimpls()):
            raise BackendConflictError(f"{what}: {caller.name} is 'async def', hooks are not")
    return manager


def import_failed(backend: Published, error: ModuleNotFoundError) -> SagaError:
    """Tell a driver that is not installed from a plugin that is broken."""
    point = backend.points[0]
    missing = (error.name or "").partition(".")[0]
    if not missing or missing in _own_modules(point):
        return BackendConflictError(f"{backend} cannot be loaded: {_words(error)}")
    return MissingDriverError(
        f"{backend} needs the module {error.name!r}, which is not installed; "
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


def _dist_name(point: EntryPoint) -> str:
    return next(iter(_metadata(point, "Name")), "an unnamed distribution")


def _dist_version(point: EntryPoint) -> str:
    return next(iter(_metadata(point, "Version")), "?")


def _origin(point: EntryPoint) -> str:
    return f"{_dist_name(point)} {_dist_version(point)}"


def _metadata(point: EntryPoint, field: str) -> list[str]:
    """Read a field of the distribution; one without readable metadata has none."""
    try:
        return list(point.dist.metadata.get_all(field) or ()) if point.dist is not None else []
    except (OSError, TypeError, ValueError):
        return []


# --- words ----------------------------------------------------------------------------------------


def lacks(plugin: object, hook: str) -> str:
    """Say that a plugin does not implement a hook, and why if that can be seen."""
    if callable(getattr(plugin, hook, None)):
        return f"has a {hook} that is not marked: put @hookimpl on it"
    return f"does not implement {hook}"


def listing(names: Collection[str]) -> str:
    """Put names in order and in a row."""
    return ", ".join(sorted(names)) or "none"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Point at the name that was probably meant, in brackets; empty if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
