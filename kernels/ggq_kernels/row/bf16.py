"""Activations rounded to bf16, for products by tiles of many tokens (product/amx.py)."""

from __future__ import annotations

from ggq_kernels.code.compiled import op
from ggq_kernels.row.activations import (
    OUT_BF16,
    PIECE,
    Q_FACTORS,
    Q_ORDER,
    Q_UP,
    SOURCE,
    SOURCE_STRIDE,
    TOKEN_COUNT,
    WIDTH,
    gate_columns,
    transform_columns,
)
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.vector.simd import load_f32, read_i64
from ggq_kernels.vector.tile_registers import TILE_BYTES, store_bf16

TILE = 16
"""Tokens of a tile."""
BLOCK = 32
"""Columns of one."""


@op
def round_bf16(row: int, team: int) -> None:
    """Round rows to bf16, to nearest and halves to even, in tiles (16 tokens, 32 columns), all columns of 16 tokens one
    after the other. What is rounded is what `quantize` would round; rows of a last tile that have no token keep what
    they held."""
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    out, columns, up = read_i64(row + OUT_BF16), read_i64(row + WIDTH), read_i64(row + Q_UP)
    order, factors = read_i64(row + Q_ORDER), read_i64(row + Q_FACTORS)
    blocks, pieces, memory = (columns + BLOCK - 1) // BLOCK, (columns + PIECE - 1) // PIECE, allocate(4 * PIECE)
    while True:
        job = take(team, 1)
        if job >= (n + TILE - 1) // TILE * pieces:
            release(memory)
            return
        first, start = job // pieces * TILE, job % pieces * PIECE
        stop = min(start + PIECE, blocks * BLOCK)
        for t in range(first, min(first + TILE, n)):
            x = source + t * stride + start * 4
            if order != 0 or factors != 0:
                transform_columns(source + t * stride, order, factors, start, stop, memory)
                x = memory
            if up != 0:
                gate_columns(x, up + t * stride + start * 4, stop - start, memory)
                x = memory
            target = out + (first // TILE * blocks + start // BLOCK) * TILE_BYTES + (t - first) * 64
            for _ in range(start, stop, BLOCK):
                store_bf16(target, load_f32(x), load_f32(x + 64))
                x += BLOCK * 4
                target += TILE_BYTES


@op
def nothing(row: int, team: int) -> None:
    """What is done to few tokens that a matrix of floats takes as they are."""
