"""A seed that plays the same in every process, whichever modules that has loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["repeatable"]


@contextmanager
def repeatable() -> Iterator[None]:
    """Let Hypothesis draw no constants that it has found in the modules of the process.

    A test alone loads fewer modules than a whole suite does, so that a seed would not repeat what
    failed. A version of it that has no such constants is left alone.
    """
    providers: Any = importlib.import_module("hypothesis.internal.conjecture.providers")
    names = ("_get_local_constants", "CONSTANTS_CACHE")
    if not all(hasattr(providers, name) for name in (*names, "Constants")):
        yield
        return
    nothing = providers.Constants()
    before = [getattr(providers, name) for name in names]
    providers._get_local_constants = lambda: nothing
    providers.CONSTANTS_CACHE = type(before[1])(1024)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(providers, name, value)
