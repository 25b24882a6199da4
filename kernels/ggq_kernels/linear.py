"""Quantized matrix x activations: the fused dequantize-and-multiply, on packed codes, for a prompt and for one token
alike.

    out[t, r] = sum over pieces p of x_scale[t, p] * (step[r, p] * sum of number * x8  -  offset[r, p] * sum of x8)

Activations come from activations.py in tiles of TOKENS tokens (a last single token stands alone), rounded to int8 per
piece of the columns. A thread takes a few tiles of 16 rows at a time and computes them for all tokens, in blocks of
tokens that stay in its second-level cache and panels of columns that stay in its first: of a panel, scales are
expanded and, for more than FEW tokens, codes taken out of their planes, once. Plain f16 scales of a few tokens are
used as they are. With float32 activations the weights are converted in registers instead.

Error bound: int8 sums are exact. Each of the columns / piece pieces adds two products and two sums of float32 to a
total, so |error| <= gamma(2 * pieces + 4) * sum of |terms|, gamma(n) = n u / (1 - n u), u = 2**-24
(tests/test_kernels_linear.py).
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from ggq_kernels.compiled import inlined, op
from ggq_kernels.isa import FLOAT_ROWS, TOKENS, VALUES, load_f16, load_value, value_bytes
from ggq_kernels.planes import (
    BLOCK,
    BLOCK_BYTES,
    CODES,
    TABLE_CODES,
    dot_block,
    dot_bytes,
    lowest,
    outer_add,
    outer_block,
    plane0_bytes,
    plane1_bytes,
    scale_add,
    sums_of,
    unpack_block,
)
from ggq_kernels.simd import (
    Tag,
    load_f32,
    mul,
    prefetch,
    read_i64,
    tag_value,
    tile_add,
    tile_add_vector,
    tile_load,
    tile_outer,
    tile_store,
    tile_zeros,
)
from ggq_kernels.steps import (
    M_GROUP,
    M_MINIMUMS,
    M_PLANE0,
    M_PLANE1,
    M_SCALES,
    M_SUB_LOWEST,
    M_SUB_WIDTH0,
    M_TABLE,
    M_ZEROS,
    expand_steps,
    middle_of,
)
from ggq_kernels.team import allocate, release, seen, take

AHEAD = 2048
"""Bytes by which codes are asked for in advance: 25.5 GB/s became 31.8 on two cores (512: 25.9, 1024: 30.9, 4096:
28.4)."""
PANEL = 1024
"""Columns that are expanded at a time: 16 KiB of bytes, which stay in a first-level cache with the activations."""
WIDE_PANEL = 4096
"""The same of steps and offsets alone, 16 KiB at groups of 32."""
MANY, ONE, FLOAT_MANY = Tag("tokens", TOKENS), Tag("tokens", 1), Tag("tokens", FLOAT_ROWS)

# Operands of a row, as byte offsets; all kernels of this file have the same.
TOKEN_COUNT, MATRICES, TILES, CHUNK, TOKEN_BLOCK, ADD = 8, 16, 24, 32, 40, 48
COLUMNS, X_GROUP, X, X_SCALE, X_OFFSET, X_STRIDE, FEW, SHARES, LEAST = range(56, 128, 8)
# Words of one matrix descriptor behind those of steps.py; descriptors follow each other, M_END is the first tile of the
# next.
M_OUT, M_STRIDE, M_BIAS, M_START, M_END, M_BYTES = range(M_SUB_LOWEST + 8, M_SUB_LOWEST + 56, 8)


@inlined
def prefetch_ahead(codes: Any, tokens: Any, plane0: int, plane1: int) -> None:
    """Ask for the codes that a single token will need next; a tile of tokens computes long enough for them to come."""
    if tag_value(tokens) == 1:
        for i in range(0, plane0_bytes(codes), 64):
            prefetch(plane0 + AHEAD + i)
        for i in range(0, plane1_bytes(codes), 64):
            prefetch(plane1 + AHEAD + i)


@inlined
def one_point(m: int) -> bool:
    """Whether all offsets are the same multiple of their steps."""
    return read_i64(m + M_ZEROS) | read_i64(m + M_MINIMUMS) == 0


@inlined
def plain_scales(m: int, piece: int) -> bool:
    """Whether a piece's step is an f16 number as it is stored, and its offset a multiple of it."""
    return one_point(m) and read_i64(m + M_SUB_WIDTH0) == 0 and read_i64(m + M_GROUP) == piece


@inlined
def multiply_packed(codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    """16 rows times a few tokens, the codes straight from their planes; int8 activations."""
    columns, piece, width = read_i64(row + COLUMNS), read_i64(row + X_GROUP), tag_value(tokens)
    blocks, table, pieces = columns // BLOCK, read_i64(m + M_TABLE), columns // piece
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    x = read_i64(row + X) + token * columns
    x_scale = read_i64(row + X_SCALE) + token * pieces * 4
    x_offset = read_i64(row + X_OFFSET) + token * pieces * 4
    steps, offsets, plain = scratch, 0 if one_point(m) else scratch + WIDE_PANEL * 2, plain_scales(m, piece)
    scale, point = read_i64(m + M_SCALES) + tile * pieces * 32, middle_of(m, lowest(codes))
    total = tile_zeros(tokens)
    if plain and piece == BLOCK:  # the same without memory between steps and an inner loop: a quarter faster
        for _ in range(blocks):
            prefetch_ahead(codes, tokens, plane0, plane1)
            acc = dot_block(codes, tokens, plane0, plane1, table, x)
            step = load_f16(scale)
            total = scale_add(total, acc, step, x_scale)
            total = outer_add(total, mul(step, point), x_offset)
            plane0 += plane0_bytes(codes)
            plane1 += plane1_bytes(codes)
            x += BLOCK * width
            x_scale += 4 * width
            x_offset += 4 * width
            scale += 32
        return total
    for start in range(0, columns, WIDE_PANEL):
        count = min(WIDE_PANEL, columns - start) // piece
        if not plain:
            expand_steps(m, tile, piece, lowest(codes), start // piece, count, steps, offsets)
        if piece == BLOCK and width == 1:  # without the inner loop, again
            for i in range(0, count * 64, 64):
                prefetch_ahead(codes, tokens, plane0, plane1)
                acc = dot_block(codes, tokens, plane0, plane1, table, x)
                step = load_f32(steps + i)
                total = scale_add(total, acc, step, x_scale)
                total = outer_add(total, mul(step, point) if offsets == 0 else load_f32(offsets + i), x_offset)
                plane0 += plane0_bytes(codes)
                plane1 += plane1_bytes(codes)
                x += BLOCK * width
                x_scale += 4 * width
                x_offset += 4 * width
            continue
        for i in range(count):
            acc = sums_of(tokens)
            for _ in range(piece // BLOCK):
                prefetch_ahead(codes, tokens, plane0, plane1)
                acc = dot_block(codes, acc, plane0, plane1, table, x)
                plane0 += plane0_bytes(codes)
                plane1 += plane1_bytes(codes)
                x += BLOCK * width
            if plain:
                step = load_f16(scale)
                scale += 32
            else:
                step = load_f32(steps + i * 64)
            offset = mul(step, point) if offsets == 0 else load_f32(offsets + i * 64)
            total = scale_add(total, acc, step, x_scale)
            total = outer_add(total, offset, x_offset)
            x_scale += 4 * width
            x_offset += 4 * width
    return total


@inlined
def unpack_panel(codes: Any, m: int, tile: int, columns: int, start: int, stop: int, target: int) -> None:
    """Take the codes of a tile and a panel of columns out of their planes."""
    blocks, table = columns // BLOCK, read_i64(m + M_TABLE)
    first = tile * blocks + start // BLOCK
    plane0 = read_i64(m + M_PLANE0) + first * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + first * plane1_bytes(codes)
    for _ in range(start, stop, BLOCK):
        unpack_block(codes, plane0, plane1, table, target)
        plane0 += plane0_bytes(codes)
        plane1 += plane1_bytes(codes)
        target += BLOCK_BYTES


@inlined
def multiply_panel(codes: Any, many: Any, total: Any, row: int, token: int, start: int, stop: int, scratch: int) -> Any:
    """Add the product of an expanded panel with a tile of tokens."""
    columns, piece, width = read_i64(row + COLUMNS), read_i64(row + X_GROUP), tag_value(many)
    steps, offsets, quads = scratch, scratch + PANEL * 2, scratch + PANEL * 4
    x = read_i64(row + X) + token * columns + start * width
    place = (token * (columns // piece) + start // piece * width) * 4
    x_scale, x_offset = read_i64(row + X_SCALE) + place, read_i64(row + X_OFFSET) + place
    if piece == BLOCK:  # without the inner loop nothing but the totals is spilled
        for _ in range(start, stop, BLOCK):
            total = scale_add(total, dot_bytes(codes, many, quads, x), load_f32(steps), x_scale)
            total = outer_add(total, load_f32(offsets), x_offset)
            quads += BLOCK_BYTES
            x += BLOCK * width
            steps += 64
            offsets += 64
            x_scale += 4 * width
            x_offset += 4 * width
        return total
    for _ in range((stop - start) // piece):
        acc = sums_of(many)
        for _ in range(piece // BLOCK):
            acc = dot_bytes(codes, acc, quads, x)
            quads += BLOCK_BYTES
            x += BLOCK * width
        total = scale_add(total, acc, load_f32(steps), x_scale)
        total = outer_add(total, load_f32(offsets), x_offset)
        steps += 64
        offsets += 64
        x_scale += 4 * width
        x_offset += 4 * width
    return total


@inlined
def write(total: Any, m: int, tile: int, row: int, token: int) -> None:
    """Add the bias where there is one, and write or add the tile of tokens to the output."""
    bias, stride = read_i64(m + M_BIAS), read_i64(m + M_STRIDE)
    if bias != 0:
        total = tile_add_vector(total, load_f32(bias + tile * 64))
    out = read_i64(m + M_OUT) + token * stride + tile * 64
    if read_i64(row + ADD) != 0:
        tile_add(out, stride, total)
    else:
        tile_store(out, stride, total)


@inlined
def multiply_many(codes: Any, many: Any, m: int, tile: int, row: int, token: int, stop: int, scratch: int) -> None:
    """16 rows times tokens token .. stop - 1, whole tiles of them, panel by panel; int8 activations."""
    columns, piece, width = read_i64(row + COLUMNS), read_i64(row + X_GROUP), tag_value(many)
    totals = scratch + PANEL * 20
    for start in range(0, columns, PANEL):
        end = min(start + PANEL, columns)
        count = (end - start) // piece
        expand_steps(m, tile, piece, lowest(codes), start // piece, count, scratch, scratch + PANEL * 2)
        unpack_panel(codes, m, tile, columns, start, end, scratch + PANEL * 4)
        for t in range(token, stop, width):
            kept = totals + (t - token) * 64
            total = tile_zeros(many) if start == 0 else tile_load(many, kept, 64)
            total = multiply_panel(codes, many, total, row, t, start, end, scratch)
            if end == columns:
                write(total, m, tile, row, t)
            else:
                tile_store(kept, 64, total)


@inlined
def multiply_float(codes: Any, many: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    """16 rows times a tile of tokens; float32 activations."""
    columns, stride = read_i64(row + COLUMNS), read_i64(row + X_STRIDE)
    blocks, table = columns // BLOCK, read_i64(m + M_TABLE)
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    x = read_i64(row + X) + token * stride
    steps, offsets = scratch, scratch + PANEL * 2
    total = tile_zeros(many)
    for start in range(0, columns, PANEL):
        count = min(PANEL, columns - start) // BLOCK
        expand_steps(m, tile, BLOCK, 0, start // BLOCK, count, steps, offsets)
        for i in range(count):
            step, offset = load_f32(steps + i * 64), load_f32(offsets + i * 64)
            total = outer_block(codes, total, step, offset, plane0, plane1, table, x, stride)
            plane0 += plane0_bytes(codes)
            plane1 += plane1_bytes(codes)
            x += BLOCK * 4
    return total


@inlined
def multiply_whole(kind: Any, tokens: Any, m: int, tile: int, row: int, token: int, _: int) -> Any:
    """One tile of 16 rows of whole floats times a tile of tokens; float32 activations."""
    columns, stride = read_i64(row + COLUMNS), read_i64(row + X_STRIDE)
    step = 16 * value_bytes(kind)
    w = read_i64(m + M_PLANE0) + tile * columns * step
    x = read_i64(row + X) + token * stride
    total = tile_zeros(tokens)
    for _ in range(columns):
        total = tile_outer(total, load_value(kind, w), x, stride)
        w += step
        x += 4
    return total


def product(form: Any, codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    """The product of the form's tag; a function as an argument would keep Numba from caching the kernel."""
    raise NotImplementedError


@overload(product, strict=False)  # annotations need not be equal
def _product(form: Any, codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    chosen = PRODUCTS[form.values[0]]
    return lambda form, codes, tokens, m, tile, row, token, scratch: chosen(codes, tokens, m, tile, row, token, scratch)


PRODUCTS = {"float32": multiply_float, "whole": multiply_whole}
FLOAT32, WHOLE = (Tag("form", name) for name in PRODUCTS)


@inlined
def aligned_scratch(size: int) -> Any:
    """Memory of a thread, to be released, and the first address in it that is a multiple of 64."""
    memory = allocate(size + 64)
    return memory, (memory + 63) // 64 * 64


@inlined
def take_tiles(row: int, team: int, n: int) -> Any:
    """First and last (excluded) of the tiles that a thread computes next: a part of what is left, so that it reads
    long runs of memory and yet all are done together; few enough to stay in cache where they are gone through again."""
    tiles = read_i64(row + TILES)
    most = read_i64(row + CHUNK) if n > read_i64(row + TOKEN_BLOCK) else tiles
    size = (tiles - seen(team)) // read_i64(row + SHARES)  # whoever else takes some meanwhile, it is a good size
    size = min(max(size, read_i64(row + LEAST)), most)
    first = take(team, size)
    return first, min(first + size, tiles)


@inlined
def linear_int8(codes: Any, row: int, team: int) -> None:
    """Take tiles of all matrices of this operation until none is left; see the module's docstring."""
    n = read_i64(read_i64(row + TOKEN_COUNT))
    block, width, few = read_i64(row + TOKEN_BLOCK), tag_value(MANY), read_i64(row + FEW)
    whole = n if n % width == 1 else (n + width - 1) // width * width
    memory, scratch = aligned_scratch(PANEL * 20 + (min(block, whole) + width) * 64)
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
                    multiply_many(codes, MANY, m, t, row, start, many, scratch)
                else:
                    for token in range(start, many, width):
                        write(multiply_packed(codes, MANY, m, t, row, token, scratch), m, t, row, token)
                if many < stop:
                    write(multiply_packed(codes, ONE, m, t, row, many, scratch), m, t, row, many)


@inlined
def linear_float(form: Any, codes: Any, row: int, team: int) -> None:
    """The same with float32 activations."""
    n = read_i64(read_i64(row + TOKEN_COUNT))
    block, width = read_i64(row + TOKEN_BLOCK), tag_value(FLOAT_MANY)
    whole = n if n % width == 1 else (n + width - 1) // width * width
    memory, scratch = aligned_scratch(PANEL * 4)
    while True:
        first, last = take_tiles(row, team, n)
        if first >= last:
            release(memory)
            return
        for start in range(0, n, block):
            stop = min(start + block, whole)
            m = read_i64(row + MATRICES)
            for tile in range(first, last):
                while tile >= read_i64(m + M_END):
                    m += M_BYTES
                t = tile - read_i64(m + M_START)
                token = start
                while token + width <= stop:
                    write(product(form, codes, FLOAT_MANY, m, t, row, token, scratch), m, t, row, token)
                    token += width
                if token < stop:
                    write(product(form, codes, ONE, m, t, row, token, scratch), m, t, row, token)


Q1 = CODES[1]
Q2 = CODES[2]
Q3 = CODES[3]
Q4 = CODES[4]
Q5 = CODES[5]
Q6 = CODES[6]
Q8 = CODES[8]
C2 = TABLE_CODES[2]
C3 = TABLE_CODES[3]
C4 = TABLE_CODES[4]
F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]

# One small function for each kernel: Numba caches functions by name, and only those that a model asks for are compiled.


@op
def linear_q1_int8(row: int, team: int) -> None:
    linear_int8(Q1, row, team)


@op
def linear_q1_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q1, row, team)


@op
def linear_q2_int8(row: int, team: int) -> None:
    linear_int8(Q2, row, team)


@op
def linear_q2_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q2, row, team)


@op
def linear_q3_int8(row: int, team: int) -> None:
    linear_int8(Q3, row, team)


@op
def linear_q3_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q3, row, team)


@op
def linear_q4_int8(row: int, team: int) -> None:
    linear_int8(Q4, row, team)


@op
def linear_q4_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q4, row, team)


@op
def linear_q5_int8(row: int, team: int) -> None:
    linear_int8(Q5, row, team)


@op
def linear_q5_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q5, row, team)


@op
def linear_q6_int8(row: int, team: int) -> None:
    linear_int8(Q6, row, team)


@op
def linear_q6_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q6, row, team)


@op
def linear_q8_int8(row: int, team: int) -> None:
    linear_int8(Q8, row, team)


@op
def linear_q8_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, Q8, row, team)


@op
def linear_c2_int8(row: int, team: int) -> None:
    linear_int8(C2, row, team)


@op
def linear_c2_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C2, row, team)


@op
def linear_c3_int8(row: int, team: int) -> None:
    linear_int8(C3, row, team)


@op
def linear_c3_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C3, row, team)


@op
def linear_c4_int8(row: int, team: int) -> None:
    linear_int8(C4, row, team)


@op
def linear_c4_float32(row: int, team: int) -> None:
    linear_float(FLOAT32, C4, row, team)


@op
def linear_f32(row: int, team: int) -> None:
    linear_float(WHOLE, F32, row, team)


@op
def linear_f16(row: int, team: int) -> None:
    linear_float(WHOLE, F16, row, team)


@op
def linear_bf16(row: int, team: int) -> None:
    linear_float(WHOLE, BF16, row, team)
