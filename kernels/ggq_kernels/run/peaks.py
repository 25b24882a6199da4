"""Kernels that do one thing over and over: what a machine can do at most."""

from __future__ import annotations

from numba import float32

from ggq_kernels.code.compiled import op
from ggq_kernels.product.linear import Q4, aligned_scratch
from ggq_kernels.product.planes import BLOCK_BYTES, dot_bytes, sums_of, tile_sum
from ggq_kernels.run.team import release, take
from ggq_kernels.vector.isa import ISA, TOKENS
from ggq_kernels.vector.simd import Tag, add, load_f32, read_i64, splat_f32, total, write_f32
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
INTEGER_REPEATS = 1 << 14
"""Blocks of an integer product at a time."""
PEAK_TOKENS = 16 if ISA == "avx512-vnni" else TOKENS
"""Tokens of that product: with eight sums it waits for them, the product of a model does not (it has other work)."""
SUMS = Tag("tokens", PEAK_TOKENS)


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
        acc = sums_of(SUMS)
        for i in range(INTEGER_REPEATS):
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
