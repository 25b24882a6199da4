"""Memory for what is laid out: new pages take longer to get than all that is written to them."""

from __future__ import annotations

import mmap
import re

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 21
"""Bytes of a large page."""
ROOM = 1.25
"""Large pages are asked for where so many times the size lies free in runs of their length: where the system must first
move other pages together they take six times as long as small ones (2.6 s a GB, where memory is full of files)."""

FREE_RUNS = "/proc/buddyinfo"
"""Says how many runs of 1, 2, 4 ... pages are free in each zone of memory."""


def new_memory(size: int, free_runs: str = FREE_RUNS) -> NDArray[np.uint8]:
    """Zeros, uint8 (size,), in large pages where those are at hand.

    Args:
        size: Bytes.
        free_runs: The system's list of free runs.
    """
    flag = getattr(mmap, "MADV_HUGEPAGE", None)
    if flag is None or large_bytes(free_runs) < ROOM * size:
        return np.frombuffer(mmap.mmap(-1, size), np.uint8)
    memory = mmap.mmap(-1, size + LARGE)
    memory.madvise(flag)
    whole = np.frombuffer(memory, np.uint8)
    return whole[-whole.ctypes.data % LARGE :][:size]


def large_bytes(free_runs: str) -> int:
    """Bytes that are free in runs of large pages; 0 where that is not known."""
    try:
        with open(free_runs) as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    first, total = (LARGE // mmap.PAGESIZE).bit_length() - 1, 0
    for line in lines:
        found = re.fullmatch(r"Node \d+, zone +\w+((?: +\d+)+) *", line)
        counts = [int(word) for word in found[1].split()] if found else []
        total += sum(count << order for order, count in enumerate(counts) if order >= first)
    return total * mmap.PAGESIZE
