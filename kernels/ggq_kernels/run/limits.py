"""What this machine can do, to hold a speed against: reading memory, and products without memory."""

from __future__ import annotations

import time

import numpy as np

from ggq_kernels.code.ready import module
from ggq_kernels.run.calls import EVERY, bf16_from, row
from ggq_kernels.run.threads import Team, aligned_zeros

peaks = module("peaks")

BUFFER_BYTES = 1 << 29
"""More than any last-level cache that this package will meet."""


class MemoryReader:
    """Reads a buffer beyond every cache, pass by pass, so that it can take turns with what is held against it.

    Args:
        threads: By default all cores.
        size: Bytes of the buffer, by default BUFFER_BYTES.
    """

    def __init__(self, threads: int | None = None, size: int | None = None) -> None:
        self._size = size or BUFFER_BYTES
        self._team, self._buffer, self._out = Team(threads), aligned_zeros(self._size), np.zeros(16, np.float32)
        self._buffer[::4096] = 1  # pages of the kernel's one zero page would be read from cache
        operands = {peaks.SOURCE: self._buffer.ctypes.data, peaks.SIZE: self._size, peaks.OUT: self._out.ctypes.data}
        self._tape = np.stack([row(peaks.read_memory, operands)])

    def rates(self, passes: int) -> list[float]:
        """GB/s of each of some passes, after one that warms up."""
        return [self._size / seconds / 1e9 for seconds in _seconds(self._team, self._tape, passes)]

    def close(self) -> None:
        """End the threads."""
        self._team.close()


def _seconds(team: Team, tape: np.ndarray, repeat: int) -> list[float]:
    team.run(tape)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        team.run(tape)
        seconds.append(time.perf_counter() - start)
    return seconds


def read_bandwidth(threads: int | None = None, repeat: int = 5, size: int | None = None) -> float:
    """GB/s at which so many threads together read memory: the best of some passes; see `MemoryReader`."""
    reader = MemoryReader(threads, size)
    try:
        return max(reader.rates(repeat))
    finally:
        reader.close()


def integer_peak(threads: int | None = None, repeat: int = 5) -> float:
    """GOP/s (two operations a product) of this target's integer dot product of 4-bit numbers, out of first-level
    cache."""
    team, buffer, out, count = Team(threads), aligned_zeros(8192), np.zeros(16, np.float32), 64
    operands = {peaks.SOURCE: buffer.ctypes.data, peaks.SIZE: count, peaks.OUT: out.ctypes.data}
    try:
        seconds = min(_seconds(team, np.stack([row(peaks.multiply, operands)]), repeat))
        return count * peaks.INTEGER_REPEATS * 16 * 32 * peaks.PEAK_TOKENS * 2 / seconds / 1e9
    finally:
        team.close()


def tile_peak(threads: int | None = None, repeat: int = 5, pieces: int = 64) -> float:
    """GOP/s (two operations a product) of bf16 products by tile registers, out of first-level cache; 0 where this
    process has none. Each piece is 134 million products."""
    if bf16_from() == EVERY:
        return 0.0
    team, buffer = Team(threads), aligned_zeros(5 * peaks.RUN_BYTES)
    operands = {peaks.SOURCE: buffer.ctypes.data, peaks.SIZE: pieces}
    try:
        seconds = min(_seconds(team, np.stack([row(peaks.multiply_tiles, operands)]), repeat))
        return pieces * peaks.TILE_REPEATS * peaks.TILE_STEPS * 4 * (16 * 16 * 32) * 2 / seconds / 1e9
    finally:
        team.close()
