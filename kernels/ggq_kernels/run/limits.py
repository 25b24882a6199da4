"""What this machine can do, to hold a speed against: reading memory, and products without memory."""

from __future__ import annotations

import time

import numpy as np
from numba import float32

from ggq_kernels.code.compiled import op
from ggq_kernels.product.linear import MANY, Q4, aligned_scratch
from ggq_kernels.product.planes import BLOCK_BYTES, dot_bytes, sums_of, tile_sum
from ggq_kernels.run.calls import EVERY, bf16_from, row
from ggq_kernels.run.team import release, take
from ggq_kernels.run.threads import Team, aligned_zeros
from ggq_kernels.vector.isa import TOKENS
from ggq_kernels.vector.simd import add, load_f32, read_i64, splat_f32, total, write_f32
from ggq_kernels.vector.tile_registers import (
    CONFIGURATION,
    TILE_BYTES,
    configure,
    multiply_add_tiles,
    release_tiles,
    store_sums,
    zero_sums,
)

COUNT, SOURCE, SIZE, OUT = 8, 16, 24, 32
PIECE = 1 << 18
"""Bytes that one thread reads, or repeats of a product, at a time."""
RUN = PIECE // 4
"""Bytes that it reads one after the other."""
TILE_STEPS, TILE_REPEATS = 4, 1 << 10
"""Blocks of 32 columns of a product by tiles, and how often it is repeated at a time."""
RUN_BYTES = TILE_STEPS * TILE_BYTES
"""Bytes of one of its operands."""
BUFFER_BYTES = 1 << 29
"""More than any last-level cache that this package will meet."""


@op
def read_memory(row: int, team: int) -> None:
    """Read a buffer once, each piece in four runs side by side: a seventh faster than in one."""
    source, size, out = read_i64(row + SOURCE), read_i64(row + SIZE), read_i64(row + OUT)
    while True:
        piece = take(team, 1)
        if piece >= size // PIECE:
            return
        a = b = c = d = splat_f32(float32(0.0))
        start = source + piece * PIECE
        for i in range(start, start + RUN, 64):
            a, b = add(a, load_f32(i)), add(b, load_f32(i + RUN))
            c, d = add(c, load_f32(i + 2 * RUN)), add(d, load_f32(i + 3 * RUN))
        write_f32(out, total(add(add(a, b), add(c, d))))


@op
def multiply(row: int, team: int) -> None:
    """The integer product of 4-bit numbers and a tile of tokens, over and over on operands that stay in first-level
    cache."""
    source, count, out = read_i64(row + SOURCE), read_i64(row + SIZE), read_i64(row + OUT)
    while True:
        piece = take(team, 1)
        if piece >= count:
            return
        acc = sums_of(MANY)
        for i in range(1 << 14):
            acc = dot_bytes(Q4, acc, 1, source + i % 4 * BLOCK_BYTES, source + 4 * BLOCK_BYTES + i % 4 * 64)
        write_f32(out, tile_sum(acc))


@op
def multiply_tiles(row: int, team: int) -> None:
    """The product of bf16 by tile registers, over and over on operands that stay in first-level cache."""
    source, count = read_i64(row + SOURCE), read_i64(row + SIZE)
    memory, scratch = aligned_scratch(CONFIGURATION + 4 * TILE_BYTES)
    configure(scratch)
    while True:
        piece = take(team, 1)
        if piece >= count:
            release_tiles()
            release(memory)
            return
        zero_sums()
        for _ in range(TILE_REPEATS):
            first, third = source + RUN_BYTES, source + 3 * RUN_BYTES
            multiply_add_tiles(source, first, first + RUN_BYTES, third, third + RUN_BYTES, TILE_STEPS)
        store_sums(scratch + CONFIGURATION)


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
        operands = {SOURCE: self._buffer.ctypes.data, SIZE: self._size, OUT: self._out.ctypes.data}
        self._tape = np.stack([row(read_memory, operands)])

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
    operands = {SOURCE: buffer.ctypes.data, SIZE: count, OUT: out.ctypes.data}
    try:
        seconds = min(_seconds(team, np.stack([row(multiply, operands)]), repeat))
        return count * (1 << 14) * 16 * 32 * TOKENS * 2 / seconds / 1e9
    finally:
        team.close()


def tile_peak(threads: int | None = None, repeat: int = 5, pieces: int = 64) -> float:
    """GOP/s (two operations a product) of bf16 products by tile registers, out of first-level cache; 0 where this
    process has none. Each piece is 134 million products."""
    if bf16_from() == EVERY:
        return 0.0
    team, buffer = Team(threads), aligned_zeros(5 * RUN_BYTES)
    operands = {SOURCE: buffer.ctypes.data, SIZE: pieces}
    try:
        seconds = min(_seconds(team, np.stack([row(multiply_tiles, operands)]), repeat))
        return pieces * TILE_REPEATS * TILE_STEPS * 4 * (16 * 16 * 32) * 2 / seconds / 1e9
    finally:
        team.close()
