"""Memory of the process, as the system tells it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from ggq.engine.footprint import memory_beside, peak_memory


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = bytearray(before + (64 << 20))
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    assert peak_memory() >= len(held) > before > 1 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process its mappings")
def test_memory_beside_a_file_does_not_count_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "big file"
    path.write_bytes(bytes(64 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        before = memory_beside(path)
        assert sum(pages[::4096]) == 0
        after, other = memory_beside(path), memory_beside(tmp_path)
    assert before and after and other
    assert after - before < 16 << 20 < 48 << 20 < other - before
