"""Settings of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Seeded, without deadlines: a shared machine's pauses are not failures, and a failure must come back.
settings.register_profile("ggq", derandomize=True, deadline=None)
settings.load_profile("ggq")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of compiled code, which `.ci/run` repeats for other instruction sets."""
    for item in items:
        if item.path.name.startswith("test_kernels"):
            item.add_marker("kernels")
