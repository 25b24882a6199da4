"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# Seeded, without deadlines: a shared machine's pauses are not failures, and a failure must come back.
settings.register_profile("ggq", derandomize=True, deadline=None)
settings.load_profile("ggq")
