"""Read annotations, and judge whether a value declared one way may be used another way."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, ForwardRef, Literal, NewType, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["arguments_of", "filled", "fits", "hints_of", "is_open", "members", "name_of", "without"]

_UNJUDGED = (Any, object, typing.Self, inspect.Parameter.empty)

# A method with types made inside a function is read again when a subclass inherits it, and by
# then that function may have returned.
_read: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def hints_of(function: Any, namespace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a function's annotations as types, `Annotated` kept.

    Types made inside a function that is still running are found there, if it is of the same
    module. `namespace` stands in for the globals of what has none. Raises what
    `typing.get_type_hints` raises, `NameError` above all.
    """
    if namespace is None:
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(function, dict(namespace), include_extras=True)
    except NameError:
        key = getattr(function, "__func__", function)
        if key in _read:
            return dict(_read[key])
        found = typing.get_type_hints(
            function, dict(namespace), _locals_of(namespace), include_extras=True
        )
        _read[key] = dict(found)
        return found


def _locals_of(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the running functions of a module, the innermost winning."""
    names: dict[str, Any] = {}
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is namespace and frame.f_locals is not namespace:
            names = {**frame.f_locals, **names}
        outer = frame.f_back
        if outer is None:
            break
        frame = outer
    return names


def arguments_of(cls: type, base: type) -> tuple[Any, ...]:
    """Return what `cls` puts in the place of the type variables of its generic ancestor `base`.

    Empty if it says nothing. A name in quotes that cannot be found is left out as Any.
    """
    for parent in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = typing.get_origin(parent) or parent
        arguments = tuple(_named(argument, cls) for argument in typing.get_args(parent))
        if origin is base:
            return arguments
        if isinstance(origin, type) and issubclass(origin, base):
            inner = arguments_of(origin, base)
            own = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
            if inner:
                return tuple(filled(kind, own) for kind in inner)
    return ()


def _named(argument: Any, cls: type) -> Any:
    if not isinstance(argument, str | ForwardRef):
        return argument

    def holder() -> None: ...

    holder.__annotations__ = {"it": argument}
    try:
        return hints_of(holder, vars(sys.modules[cls.__module__]))["it"]
    except Exception:
        return Any


def filled(kind: Any, values: Mapping[Any, Any]) -> Any:
    """Return the type with its type variables replaced, as far as `values` has them."""
    if isinstance(kind, TypeVar):
        return values.get(kind, kind)
    variables = _variables(kind)
    if not any(variable in values for variable in variables):
        return kind
    return kind[tuple(values.get(variable, variable) for variable in variables)]


def is_open(kind: Any) -> bool:
    """Tell whether type variables are left in a type."""
    return isinstance(kind, TypeVar) or bool(_variables(kind))


def _variables(kind: Any) -> tuple[Any, ...]:
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        of_model = getattr(kind, "__pydantic_generic_metadata__", None) or {}
        # Without a subscript a generic class means that of Any.
        return tuple(of_model.get("parameters", ())) if of_model.get("origin") else ()
    return tuple(getattr(kind, "__parameters__", ()))


def members(kind: Any) -> tuple[Any, ...]:
    """Return what a union is of; any other type is a union of one."""
    kind = _bare(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def without(kind: Any, kinds: tuple[type, ...]) -> Any:
    """Return a union without some of its members; what is no union, or nothing else, as it is."""
    every = members(kind)
    kept = tuple(member for member in every if member not in kinds)
    if not kept:
        return every[0]
    return kind if len(kept) == len(every) else typing.Union[kept]  # noqa: UP007 - made here


def fits(given: Any, wanted: Any) -> bool:
    """Tell whether a value declared `given` may be used where `wanted` is declared.

    What only a type checker could judge passes: the value is validated when it is there.
    """
    given, wanted = _bare(given), _bare(wanted)
    if given == wanted or _unjudged(given) or _unjudged(wanted):
        return True
    if len(members(given)) > 1:
        return all(fits(member, wanted) for member in members(given))
    if len(members(wanted)) > 1:
        return any(fits(given, member) for member in members(wanted))
    if typing.get_origin(given) is Literal:
        return all(fits(type(value), wanted) for value in typing.get_args(given))
    if typing.get_origin(wanted) is Literal:
        return any(fits(given, type(value)) for value in typing.get_args(wanted))
    return _class_fits(
        typing.get_origin(given) or given, typing.get_origin(wanted) or wanted
    ) and _arguments_fit(typing.get_args(given), typing.get_args(wanted))


def _class_fits(given: Any, wanted: Any) -> bool:
    if not isinstance(given, type) or not isinstance(wanted, type):
        return True
    if hasattr(wanted, "__required_keys__"):  # a TypedDict, of whichever module
        return issubclass(given, Mapping)
    if wanted is float and given is int:
        return True
    try:
        return issubclass(given, wanted)
    except TypeError:  # a protocol that is for type checkers
        return True


def _arguments_fit(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if len(given) != len(wanted):
        return True
    return all(map(fits, given, wanted))


def _unjudged(kind: Any) -> bool:
    return (
        any(kind is one for one in _UNJUDGED)
        or kind is Ellipsis
        or isinstance(kind, TypeVar | ForwardRef | str | list)
    )


def _bare(kind: Any) -> Any:
    """Return the type behind `Annotated`, `NewType` and aliases. None is its own type."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = kind.__origin__
        elif isinstance(kind, NewType):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        else:
            return type(None) if kind is None else kind


def name_of(kind: Any) -> str:
    """Return a type's name for a message."""
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
