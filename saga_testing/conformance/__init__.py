"""The executable contract of `SagaStore`: what a store must do, as tests with a rule for a name.

A backend's author writes one harness and one test module; see `docs/write-a-backend.md`. Needs
the extra `conformance`: pytest and pytest-asyncio.
"""

from pkgutil import iter_modules

import pytest

# Before the import of the rules, so that a failing assert in them is explained.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

from saga_testing.conformance.guard import StoreConformance, rules  # noqa: E402
from saga_testing.conformance.harness import Business, StoreHarness  # noqa: E402

__all__ = ["Business", "StoreConformance", "StoreHarness", "rules"]
