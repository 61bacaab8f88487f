"""The console's tests publish plugins, as those of the plugins do."""

from ..plugins.conftest import publish

__all__ = ["publish"]
