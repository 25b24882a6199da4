"""Settings of the whole suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from ggq.convert import behind
from tests.kit.checkpoints import TEXT, tiny
from tests.kit.format_files import small_bytes, write_small

# Seeded, without deadlines: a shared machine's pauses are not failures, and a failure must come back.
settings.register_profile("ggq", derandomize=True, deadline=None)
settings.load_profile("ggq")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of compiled code, which `.ci/run` repeats for other instruction sets."""
    for item in items:
        if item.path.parent.name == "kernels":
            item.add_marker("kernels")


def pytest_sessionstart() -> None:
    """Have interrupts arrive, also under nohup or behind a shell's &, which pass on that they are ignored; have no
    command compile anything that no test asked for.

    Emulate the tile instructions where kernels are compiled for AMX and this machine has none; pytest's own handler of
    their signal has been set by now."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[behind.OFF] = "0"
    if "+amx-tile" in os.environ.get("NUMBA_CPU_FEATURES", ""):
        from ggq_kernels.code import permission
        from tests.kit import tile_emulator

        if not permission.tiles_allowed():
            tile_emulator.install()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file to calibrate on."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint."""
    return tiny(tmp_path / "m")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small .ggq file."""
    path = tmp_path / "small.ggq"
    write_small(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a .ggq file is to be written."""
    return tmp_path / "made.ggq"


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The bytes of a small .ggq file that nothing interrupted."""
    return small_bytes(tmp_path)
