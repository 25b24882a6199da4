"""Memory in large pages where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggq.gguf.kept import pages
from ggq.gguf.kept.pages import LARGE, large_bytes, new_memory

ZONES = """Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone   Normal   1973   5132   1851   1050    596    581    342    209    111     {large}      2
"""


@pytest.fixture
def zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("mmap.PAGESIZE", 4096)
    path = tmp_path / "buddyinfo"
    path.write_text(ZONES.format(large=40))
    return path


def test_runs_of_large_pages_are_counted(zones: Path) -> None:
    assert large_bytes(str(zones)) == ((1 + 40) + (3 + 2) * 2) * (2 << 20)


@pytest.mark.parametrize("text", ["", "x", "Node 0, zone Normal 1 2 x 4\n", "Node 0, zone\n", "\xff"])
def test_what_is_no_list_counts_nothing(text: str, zones: Path) -> None:
    zones.write_bytes(text.encode("latin-1"))
    assert large_bytes(str(zones)) == large_bytes(str(zones.parent / "none")) == 0


@pytest.mark.parametrize("free", [0, 4000])
def test_memory_is_zeros_of_the_size(free: int, zones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zones.write_text(ZONES.format(large=free))
    size = 3 * LARGE + 4096
    memory = new_memory(size, str(zones))
    assert memory.shape == (size,) and memory.flags.writeable and not memory.any()
    if free and getattr(pages.mmap, "MADV_HUGEPAGE", None) is not None:
        assert memory.ctypes.data % LARGE == 0
    memory[:] = 7
    assert int(memory.sum(dtype=np.int64)) == 7 * size
