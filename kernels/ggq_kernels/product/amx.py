"""The product of many tokens with a matrix by tiles of bf16.

    out[t, r] = sum over columns c of bf16(x[t, c]) * bf16(step[r, c] * number[r, c] - offset[r, c])

Weights are expanded to bf16 a panel at a time, with scales and zero-points folded in, and each panel is multiplied with
all tokens: no scale is left in the inner loop, so every scheme multiplies at one speed.

A thread takes some tiles of 16 rows at a time. It expands PANEL blocks of 32 columns of all of them, then multiplies
four tiles of rows at a time with all tokens, whose bf16 numbers row/bf16.py has written in tiles of 16 tokens and 32
columns. Sums wait in memory of their own from one panel to the next: in the output, the rows of a tile often lie a
power of two apart and would push each other out of the cache.

Error bound: rounding an activation or a weight to bf16 changes it by at most u = 2**-8 of its size, so a product by at
most 2 u + u**2 of its own. Products are exact in float32. A term of a sum over n columns meets at most 16 + n / 32
roundings of 2**-24: those of its tile's even or odd columns, then one for each tile. So |error| <= (2 u + u**2 +
gamma(16 + n / 32)) * sum of |terms|, and what `expand_steps` rounds. Subnormal numbers count as 0.

Source: the processor's additions as of Intel's manual, volume 2, TDPBF16PS.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.product.linear import (
    BF16,
    C2,
    C3,
    C4,
    F16,
    M_BYTES,
    M_END,
    M_START,
    MATRICES,
    Q1,
    Q2,
    Q3,
    Q4,
    Q5,
    Q6,
    Q8,
    SHARES,
    TILES,
    TOKEN_COUNT,
    X_BF16,
    aligned_scratch,
)
from ggq_kernels.product.operands import ADD, COLUMNS
from ggq_kernels.product.planes import (
    BLOCK,
    HALF_BLOCK,
    BlockNumbers,
    piece_columns,
    plane0_bytes,
    plane1_bytes,
    step_and_negative,
)
from ggq_kernels.product.products import M_BIAS, M_OUT, M_STRIDE
from ggq_kernels.product.steps import M_PLANE0, M_PLANE1, M_TABLE, expand_steps
from ggq_kernels.run.team import release, seen, take
from ggq_kernels.vector.isa import load_value, value_bytes
from ggq_kernels.vector.simd import (
    I64,
    F32x16,
    I32x16,
    TagType,
    add,
    constant,
    load_f32,
    multiply_add,
    primitive,
    read_i64,
    splat_f32,
    store,
    store_f32,
)
from ggq_kernels.vector.tile_registers import (
    CONFIGURATION,
    TILE,
    TILE_BYTES,
    configure,
    load_sums,
    multiply_add_tiles,
    pair_to_bf16,
    release_tiles,
    store_sums,
    zero_sums,
)

ROWS = 4
"""Tiles of rows that are multiplied with one tile of tokens at a time."""
PANEL = 8
"""Blocks of 32 columns of a panel. Of four tiles of rows (32 KiB), one of tokens (8) and their sums (4) all stay in a
first-level cache of 48 KiB. Loads, stores and expansion alone, without the multiplications, take 11.7 ns for each
(16 x 16 x 32) of a product of 512 tokens; with 4 blocks 13.2, with 9, which do not fit, 16.2 (Emerald Rapids)."""
SLOT = PANEL * TILE_BYTES
"""Bytes of one tile of 16 rows of a panel."""
CHUNK = 16
"""Most tiles of 16 rows that a thread takes: for all but the first four, activations come from the second-level cache
(8: 4 to 7 % more time for the loads and stores of a product of 2048 rows)."""
TOKEN_TILES = 32
"""Tiles of tokens between which panels are kept; more tokens have them expanded again. With CHUNK they make 512 KiB of
sums, which with 256 KiB of activations and 128 KiB of weights stay in a second-level cache of 2 MiB."""
SUMS = ROWS * TILE_BYTES
"""Bytes of the sums of a tile of tokens and ROWS of rows."""
STEPS = 2 * PANEL * (BLOCK // HALF_BLOCK) * 64
"""Bytes of the steps and the offsets of a tile's panel."""
HEAD = CONFIGURATION + STEPS
"""Bytes of a thread's memory before its panels."""


@primitive(types.void, None, *[types.int64] * 6)
def expand_block(
    b: Any, codes: TagType, _: Any, steps: Any, offsets: Any, plane0: Any, plane1: Any, table: Any, out: Any
) -> None:
    """Write step * number - offset of 16 rows and 32 columns as a tile of bf16 weights: (16 pairs of columns, 16 rows,
    2). A lane of a quad of codes is a row, as it is in a tile, so that no byte changes its lane but to be paired."""
    block = BlockNumbers(b, codes, (plane0, plane1), table)
    for q in range(BLOCK // 4):
        four, weights = b.bitcast(block.quad(q), I32x16.ir), []
        step, negative = step_and_negative(b, codes, steps, offsets, q)
        for j in range(4):
            number = b.and_(b.lshr(four, constant(I32x16.ir, 8 * j)), constant(I32x16.ir, 255))
            weights.append(multiply_add(b, step, b.sitofp(number, F32x16.ir), negative))
        for pair in range(2):
            store(b, pair_to_bf16(b, *weights[2 * pair : 2 * pair + 2]), b.add(out, I64(128 * q + 64 * pair)), 64)


@primitive(types.void, types.int64, F32x16, F32x16)
def store_pair(b: Any, out: Any, even: Any, odd: Any) -> None:
    """Write two columns of 16 rows as a row of a tile of bf16 weights."""
    store(b, pair_to_bf16(b, even, odd), out, 64)


@inlined
def expand_codes(codes: Any, m: int, tile: int, columns: int, first: int, count: int, steps: int, out: int) -> None:
    """Write blocks first .. first + count - 1 of a tile of codes as bf16."""
    blocks, table, offsets = columns // BLOCK, read_i64(m + M_TABLE), steps + STEPS // 2
    piece = piece_columns(codes)
    pieces = BLOCK // piece
    expand_steps(m, tile, piece, 0, first * pieces, count * pieces, steps, offsets)
    plane0 = read_i64(m + M_PLANE0) + (tile * blocks + first) * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + (tile * blocks + first) * plane1_bytes(codes)
    for at in range(0, count * pieces * 64, pieces * 64):
        expand_block(codes, steps + at, offsets + at, plane0, plane1, table, out)
        plane0 += plane0_bytes(codes)
        plane1 += plane1_bytes(codes)
        out += TILE_BYTES


@inlined
def expand_values(kind: Any, m: int, tile: int, columns: int, first: int, count: int, _: int, out: int) -> None:
    """The same of whole floats; columns beyond the last are zero."""
    step, zero = TILE * value_bytes(kind), splat_f32(0.0)
    start, end = first * BLOCK, (first + count) * BLOCK
    w = read_i64(m + M_PLANE0) + (tile * columns + start) * step
    for c in range(start, end, 2):
        if c + 1 < columns:
            store_pair(out, load_value(kind, w), load_value(kind, w + step))
        elif c < columns:
            store_pair(out, load_value(kind, w), zero)
        else:
            store_pair(out, zero, zero)
        w += 2 * step
        out += 64


def expand(form: Any, m: int, tile: int, columns: int, first: int, count: int, steps: int, out: int) -> None:
    """The function of the two above that the form's tag asks for."""
    raise NotImplementedError


@overload(expand, strict=False)
def _expand(form: Any, m: int, tile: int, columns: int, first: int, count: int, steps: int, out: int) -> Any:
    chosen = expand_values if form.kind == "value" else expand_codes
    return lambda form, m, tile, columns, first, count, steps, out: chosen(
        form, m, tile, columns, first, count, steps, out
    )


@inlined
def matrix_of(m: int, tile: int) -> int:
    """The descriptor of the matrix that a tile belongs to, from that of an earlier tile."""
    while tile >= read_i64(m + M_END):
        m += M_BYTES
    return m


@inlined
def put(sums: int, m: int, tile: int, count: int, row: int, token: int, n: int) -> None:
    """Write, or add, the sums of up to 16 tokens and some tiles of one matrix to the output, with the bias where there
    is one; token by token, since outputs of tokens lie pages apart."""
    bias, stride, at = read_i64(m + M_BIAS), read_i64(m + M_STRIDE), (tile - read_i64(m + M_START)) * 64
    out, adds = read_i64(m + M_OUT) + token * stride + at, read_i64(row + ADD) != 0
    for i in range(min(n - token, TILE)):
        for j in range(count):
            v = load_f32(sums + j * TILE_BYTES + i * 64)
            if bias != 0:
                v = add(v, load_f32(bias + at + j * 64))
            if adds:
                v = add(v, load_f32(out + j * 64))
            store_f32(out + j * 64, v)
        out += stride


@inlined
def multiply_panel(panel: int, sums: int, row: int, first: int, count: int, place: tuple[int, int, int, int]) -> None:
    """Multiply the expanded panels of up to four tiles of rows with some tiles of tokens, and put what is whole.

    Args:
        panel, sums: Addresses: of the first tile's panel, and of the sums with the first tokens.
        first, count: The first of the tiles of rows, and how many there are; for less than four the last is multiplied
            again.
        place: First tile of tokens and last (excluded), first block of the panel, and how many it has.
    """
    start, stop, block, steps = place
    n, blocks = read_i64(read_i64(row + TOKEN_COUNT)), (read_i64(row + COLUMNS) + BLOCK - 1) // BLOCK
    last = (count - 1) * SLOT
    second, third, fourth = panel + min(SLOT, last), panel + min(2 * SLOT, last), panel + min(3 * SLOT, last)
    x = read_i64(row + X_BF16) + (start * blocks + block) * TILE_BYTES
    for t in range(start, stop):
        if block == 0:
            zero_sums()
        else:
            load_sums(sums)
        multiply_add_tiles(x, panel, second, third, fourth, steps)
        store_sums(sums)
        if block + steps == blocks:
            m, i = read_i64(row + MATRICES), 0
            while i < min(count, ROWS):
                m = matrix_of(m, first + i)
                same = min(min(count, ROWS) - i, read_i64(m + M_END) - first - i)
                put(sums + i * TILE_BYTES, m, first + i, same, row, t * TILE, n)
                i += same
        x += blocks * TILE_BYTES
        sums += CHUNK // ROWS * SUMS


@inlined
def linear_tiles(form: Any, row: int, team: int) -> None:
    """Take tiles of all matrices of this operation until none is left; see the module's docstring."""
    n, tiles, columns = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + TILES), read_i64(row + COLUMNS)
    blocks, token_tiles = (columns + BLOCK - 1) // BLOCK, (n + TILE - 1) // TILE
    memory, scratch = aligned_scratch(HEAD + CHUNK * SLOT + min(token_tiles, TOKEN_TILES) * (CHUNK // ROWS) * SUMS)
    steps, panels, sums = scratch + CONFIGURATION, scratch + HEAD, scratch + HEAD + CHUNK * SLOT
    configure(scratch)
    while True:
        size = min(max((tiles - seen(team)) // read_i64(row + SHARES) // ROWS * ROWS, ROWS), CHUNK)
        first = take(team, size)
        last = min(first + size, tiles)
        if first >= last:
            release_tiles()
            release(memory)
            return
        for start in range(0, token_tiles, TOKEN_TILES):
            stop = min(start + TOKEN_TILES, token_tiles)
            for block in range(0, blocks, PANEL):
                count, m = min(PANEL, blocks - block), read_i64(row + MATRICES)
                for tile in range(first, last):
                    m = matrix_of(m, tile)
                    out = panels + (tile - first) * SLOT
                    expand(form, m, tile - read_i64(m + M_START), columns, block, count, steps, out)
                for i in range(0, last - first, ROWS):
                    place = (start, stop, block, count)
                    multiply_panel(panels + i * SLOT, sums + i // ROWS * SUMS, row, first + i, last - first - i, place)


# One small function for each kernel: Numba caches functions by name, and only those that a model asks for are compiled.


@op
def tiles_q1(row: int, team: int) -> None:
    linear_tiles(Q1, row, team)


@op
def tiles_q2(row: int, team: int) -> None:
    linear_tiles(Q2, row, team)


@op
def tiles_q3(row: int, team: int) -> None:
    linear_tiles(Q3, row, team)


@op
def tiles_q4(row: int, team: int) -> None:
    linear_tiles(Q4, row, team)


@op
def tiles_q5(row: int, team: int) -> None:
    linear_tiles(Q5, row, team)


@op
def tiles_q6(row: int, team: int) -> None:
    linear_tiles(Q6, row, team)


@op
def tiles_q8(row: int, team: int) -> None:
    linear_tiles(Q8, row, team)


@op
def tiles_c2(row: int, team: int) -> None:
    linear_tiles(C2, row, team)


@op
def tiles_c3(row: int, team: int) -> None:
    linear_tiles(C3, row, team)


@op
def tiles_c4(row: int, team: int) -> None:
    linear_tiles(C4, row, team)


@op
def tiles_f16(row: int, team: int) -> None:
    linear_tiles(F16, row, team)


@op
def tiles_bf16(row: int, team: int) -> None:
    linear_tiles(BF16, row, team)
