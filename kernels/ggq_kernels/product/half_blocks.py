"""The product of codes in groups that end in the middle of a block of 32 columns: of 16 columns, or an odd multiple.

    out[t, r] = sum over pieces p of x_scale[t, p] * (step[r, p] * sum of number * x8  -  offset[r, p] * sum of x8)

as in products.py, with pieces of 16 columns, two in each block: their sums of products are kept apart, since a unit of
a 1-bit plane holds both. Steps and offsets are always expanded first (steps.py).

Error bound: that of products.py with columns / 16 pieces.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.product.linear import (
    FEW,
    FLOAT32,
    M_BYTES,
    M_END,
    M_START,
    MANY,
    MATRICES,
    ONE,
    TOKEN_BLOCK,
    TOKEN_COUNT,
    aligned_scratch,
    linear_float,
    take_tiles,
)
from ggq_kernels.product.operands import COLUMNS, X_OFFSET, X_SCALE, X
from ggq_kernels.product.planes import (
    BLOCK,
    BLOCK_BYTES,
    HALF_BLOCK,
    HALF_CODES,
    HALF_TABLE_CODES,
    BlockNumbers,
    lowest,
    plane0_bytes,
    plane1_bytes,
    prefetch_block,
    span,
)
from ggq_kernels.product.products import PANEL, SCRATCH, WIDE_PANEL, unpack_panel, write
from ggq_kernels.product.steps import M_PLANE0, M_PLANE1, M_TABLE, expand_steps
from ggq_kernels.run.team import release
from ggq_kernels.vector.isa import AHEAD_EXPANDED, Products
from ggq_kernels.vector.simd import (
    FLOAT,
    I64,
    F32x16,
    I32x16,
    TagType,
    Tile,
    load,
    multiply_add,
    primitive,
    read_i64,
    rows,
    splat,
    tag_value,
)
from ggq_kernels.vector.tiles import tile_load, tile_store, tile_zeros

QUADS = HALF_BLOCK // 4
"""Quads of columns of a piece."""
STEPS_AT, OFFSETS_AT = PANEL * 2, WIDE_PANEL * 2
"""Bytes of the steps of PANEL // 2 and of WIDE_PANEL // 2 columns; the offsets lie behind them."""


def _products(b: Any, codes: TagType, tile: Tile) -> Products:
    return Products(b, span(codes), [ir.Constant(I32x16.ir, None)] * tile.m, True)


def _scaled(b: Any, half: int, totals: list[Any], sums: list[Any], at: tuple[Any, Any, Any, Any]) -> list[Any]:
    """Totals plus the sums of one half of a block, times its steps and scales, less its offsets."""
    steps, offsets, x_scale, x_offset = at
    m = len(totals)
    step, offset = (load(b, place, F32x16.ir, 64, 64 * half) for place in (steps, offsets))
    found = []
    for i, (total, total_of_products) in enumerate(zip(totals, sums)):
        place = 4 * (half * m + i)
        scale, below = (splat(b, F32x16.ir, load(b, x, FLOAT, 4, place)) for x in (x_scale, x_offset))
        total = multiply_add(b, b.sitofp(total_of_products, F32x16.ir), b.fmul(step, scale), total)
        found.append(multiply_add(b, offset, below, total))
    return found


@primitive(lambda codes, t, *_: t, None, None, *[types.int64] * 9)
def add_half_blocks(
    b: Any,
    codes: TagType,
    tile: Tile,
    _: Any,
    t: Any,
    steps: Any,
    offsets: Any,
    plane0: Any,
    plane1: Any,
    ahead: Any,
    table: Any,
    x: Any,
    x_scale: Any,
    x_offset: Any,
) -> Any:
    """row i of t += 16 rows and 32 columns . activations of token i, straight from the planes; the codes `ahead` bytes
    later are prefetched.

    Steps and offsets are float32 (2, 16), those of activations (2, M); `x` holds int8 (8, M, 4).
    """
    totals = [b.extract_value(t, i) for i in range(tile.m)]
    block = BlockNumbers(b, codes, (plane0, plane1), table)
    prefetch_block(b, codes, (plane0, plane1), 0, ahead)
    for half in range(2):
        products = _products(b, codes, tile)
        for q in range(half * QUADS, (half + 1) * QUADS):
            products.dot(block.signed_quad(q), x, 4 * q * tile.m)
        products.flush()
        totals = _scaled(b, half, totals, products.sums, (steps, offsets, x_scale, x_offset))
    return rows(b, tile, lambda i: totals[i])


@primitive(lambda codes, t, *_: t, None, None, *[types.int64] * 6)
def add_bytes(
    b: Any,
    codes: TagType,
    tile: Tile,
    _: Any,
    t: Any,
    steps: Any,
    offsets: Any,
    quads: Any,
    x: Any,
    x_scale: Any,
    x_offset: Any,
) -> Any:
    """The same of a block that `unpack_block` has written to `quads`."""
    totals = [b.extract_value(t, i) for i in range(tile.m)]
    for half in range(2):
        products = _products(b, codes, tile)
        codes_at = b.add(quads, I64(half * BLOCK_BYTES // 2))
        products.dot_bytes(codes_at, b.add(x, I64(half * HALF_BLOCK * tile.m)), QUADS)
        products.flush()
        totals = _scaled(b, half, totals, products.sums, (steps, offsets, x_scale, x_offset))
    return rows(b, tile, lambda i: totals[i])


@inlined
def multiply_few(codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    """16 rows times a few tokens or one, the codes straight from their planes."""
    columns, width = read_i64(row + COLUMNS), tag_value(tokens)
    blocks, table, pieces = columns // BLOCK, read_i64(m + M_TABLE), columns // HALF_BLOCK
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    x = read_i64(row + X) + token * columns
    x_scale = read_i64(row + X_SCALE) + token * pieces * 4
    x_offset = read_i64(row + X_OFFSET) + token * pieces * 4
    total = tile_zeros(tokens)
    for start in range(0, columns, WIDE_PANEL // 2):
        count = min(WIDE_PANEL // 2, columns - start) // HALF_BLOCK
        expand_steps(m, tile, HALF_BLOCK, lowest(codes), start // HALF_BLOCK, count, scratch, scratch + OFFSETS_AT)
        for steps in range(scratch, scratch + count * 64, 128):
            offsets = steps + OFFSETS_AT
            total = add_half_blocks(
                codes, total, steps, offsets, plane0, plane1, AHEAD_EXPANDED, table, x, x_scale, x_offset
            )
            plane0 += plane0_bytes(codes)
            plane1 += plane1_bytes(codes)
            x += BLOCK * width
            x_scale += 8 * width
            x_offset += 8 * width
    return total


@inlined
def multiply_panel(codes: Any, total: Any, row: int, token: int, width: int, start: int, stop: int, at: int) -> Any:
    """Add the product of an expanded panel with a tile of tokens."""
    columns = read_i64(row + COLUMNS)
    x = read_i64(row + X) + token * columns + start * width
    place = (token * (columns // HALF_BLOCK) + start // HALF_BLOCK * width) * 4
    x_scale, x_offset = read_i64(row + X_SCALE) + place, read_i64(row + X_OFFSET) + place
    quads = at + 2 * STEPS_AT
    for steps in range(at, at + (stop - start) // HALF_BLOCK * 64, 128):
        total = add_bytes(codes, total, steps, steps + STEPS_AT, quads, x, x_scale, x_offset)
        quads += BLOCK_BYTES
        x += BLOCK * width
        x_scale += 8 * width
        x_offset += 8 * width
    return total


@inlined
def multiply_many(codes: Any, m: int, tile: int, row: int, token: int, stop: int, scratch: int) -> None:
    """16 rows times tokens token .. stop - 1, whole tiles of them, panel by panel."""
    columns, width, totals = read_i64(row + COLUMNS), tag_value(MANY), scratch + SCRATCH
    for start in range(0, columns, PANEL // 2):
        end = min(start + PANEL // 2, columns)
        count = (end - start) // HALF_BLOCK
        expand_steps(m, tile, HALF_BLOCK, lowest(codes), start // HALF_BLOCK, count, scratch, scratch + STEPS_AT)
        unpack_panel(codes, m, tile, columns, start, end, scratch + 2 * STEPS_AT)
        for t in range(token, stop, width):
            kept = totals + (t - token) * 64
            total = tile_zeros(MANY) if start == 0 else tile_load(MANY, kept, 64)
            total = multiply_panel(codes, total, row, t, width, start, end, scratch)
            if end == columns:
                write(total, m, tile, row, t)
            else:
                tile_store(kept, 64, total)


@inlined
def linear_half_blocks(codes: Any, row: int, team: int) -> None:
    """Take tiles of all matrices of this operation until none is left."""
    n = read_i64(read_i64(row + TOKEN_COUNT))
    block, width, few = read_i64(row + TOKEN_BLOCK), tag_value(MANY), read_i64(row + FEW)
    whole = n if n % width == 1 else (n + width - 1) // width * width
    memory, scratch = aligned_scratch(SCRATCH + (min(block, whole) + width) * 64)
    while True:
        first, last = take_tiles(row, team, n)
        if first >= last:
            release(memory)
            return
        for start in range(0, n, block):
            stop = min(start + block, whole)
            many = start + (stop - start) // width * width
            m = read_i64(row + MATRICES)
            for tile in range(first, last):
                while tile >= read_i64(m + M_END):
                    m += M_BYTES
                t = tile - read_i64(m + M_START)
                if many - start > few:
                    multiply_many(codes, m, t, row, start, many, scratch)
                else:
                    for token in range(start, many, width):
                        write(multiply_few(codes, MANY, m, t, row, token, scratch), m, t, row, token)
                if many < stop:
                    write(multiply_few(codes, ONE, m, t, row, many, scratch), m, t, row, many)


Q1 = HALF_CODES[1]
Q2 = HALF_CODES[2]
Q3 = HALF_CODES[3]
Q4 = HALF_CODES[4]
Q5 = HALF_CODES[5]
Q6 = HALF_CODES[6]
Q8 = HALF_CODES[8]
C2 = HALF_TABLE_CODES[2]
C3 = HALF_TABLE_CODES[3]
C4 = HALF_TABLE_CODES[4]

# One small function for each kernel, as in linear.py.


@op
def half_blocks_q1_int8(row: int, team: int) -> None:
    linear_half_blocks(Q1, row, team)


@op
def half_blocks_q1_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q1, row, team)


@op
def half_blocks_q2_int8(row: int, team: int) -> None:
    linear_half_blocks(Q2, row, team)


@op
def half_blocks_q2_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q2, row, team)


@op
def half_blocks_q3_int8(row: int, team: int) -> None:
    linear_half_blocks(Q3, row, team)


@op
def half_blocks_q3_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q3, row, team)


@op
def half_blocks_q4_int8(row: int, team: int) -> None:
    linear_half_blocks(Q4, row, team)


@op
def half_blocks_q4_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q4, row, team)


@op
def half_blocks_q5_int8(row: int, team: int) -> None:
    linear_half_blocks(Q5, row, team)


@op
def half_blocks_q5_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q5, row, team)


@op
def half_blocks_q6_int8(row: int, team: int) -> None:
    linear_half_blocks(Q6, row, team)


@op
def half_blocks_q6_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q6, row, team)


@op
def half_blocks_q8_int8(row: int, team: int) -> None:
    linear_half_blocks(Q8, row, team)


@op
def half_blocks_q8_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q8, row, team)


@op
def half_blocks_c2_int8(row: int, team: int) -> None:
    linear_half_blocks(C2, row, team)


@op
def half_blocks_c2_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C2, row, team)


@op
def half_blocks_c3_int8(row: int, team: int) -> None:
    linear_half_blocks(C3, row, team)


@op
def half_blocks_c3_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C3, row, team)


@op
def half_blocks_c4_int8(row: int, team: int) -> None:
    linear_half_blocks(C4, row, team)


@op
def half_blocks_c4_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C4, row, team)
