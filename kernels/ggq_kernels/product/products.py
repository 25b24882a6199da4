"""The product of tiles of 16 rows with tiles of tokens, of packed codes or of floats.

    out[t, r] = sum over pieces p of x_scale[t, p] * (step[r, p] * sum of number * x8  -  offset[r, p] * sum of x8)

Where the same integer is subtracted from all numbers, targets that gain by it (isa.FOLDED) begin the sum of number * x8
with -(sum of x8) times that, and there is no offset.

Activations come from activations.py, rounded to int8 per piece of the columns. Of a panel of columns that stays in
first-level cache, scales are expanded and, for more than a few tokens, codes taken out of their planes, once. Plain f16
scales of a few tokens are used as they are. With float32 activations the weights are converted in registers instead.

Error bound: int8 sums are exact. Each of the columns / piece pieces adds two products and two sums of float32 to a
total, so |error| <= gamma(2 * pieces + 4) * sum of |terms|, gamma(n) = n u / (1 - n u), u = 2**-24
(tests/test_kernels_linear.py).
"""

from __future__ import annotations

from typing import Any

from ggq_kernels.code.compiled import inlined
from ggq_kernels.product.beginnings import beginning, expands_offsets, folds
from ggq_kernels.product.operands import ADD, COLUMNS, X_GROUP, X_OFFSET, X_SCALE, X_STRIDE, X
from ggq_kernels.product.planes import (
    BLOCK,
    BLOCK_BYTES,
    FIRST,
    LATER,
    begin_sums,
    dot_block,
    dot_bytes,
    dot_in_turn,
    dot_tiles,
    lowest,
    outer_add,
    outer_add_tiles,
    outer_block,
    piece_columns,
    plane0_bytes,
    plane1_bytes,
    prefetch_codes,
    scale_add,
    scale_add_tiles,
    tile_tokens,
    unpack_block,
)
from ggq_kernels.product.steps import (
    M_GROUP,
    M_MINIMUMS,
    M_PLANE0,
    M_PLANE1,
    M_SCALES,
    M_SHIFT,
    M_SUB_WIDTH0,
    M_TABLE,
    expand_steps,
    middle_of,
    prefetch_levels,
)
from ggq_kernels.product.sums import token_bytes
from ggq_kernels.vector.isa import (
    AHEAD,
    AHEAD_EXPANDED,
    FOLDED,
    load_f16,
    load_value,
    prefetch,
    tile_load_f16,
    value_bytes,
)
from ggq_kernels.vector.simd import load_f32, mul, read_i64, splat_f32, store_f32, tag_value
from ggq_kernels.vector.tiles import (
    tile_add,
    tile_add_vector,
    tile_load,
    tile_mul,
    tile_outer,
    tile_plus,
    tile_store,
    tile_zeros,
)

PANEL = 1024
"""Columns that are expanded at a time: 16 KiB of bytes, which stay in a first-level cache with the activations."""
WIDE_PANEL, PAIR_PANEL = 4096, 2048
"""The same of steps and offsets alone, of one tile and of two: 16 KiB at groups of 32."""
SCRATCH = PANEL * 20
"""Bytes of the largest of these panels."""
PREFETCHING = 4
"""Tiles of tokens that prefetch the next panel, each a part of it: memory then gives it evenly over their time."""
# Words of one matrix descriptor behind those of steps.py.
M_OUT, M_STRIDE, M_BIAS = range(M_SHIFT + 8, M_SHIFT + 32, 8)


@inlined
def plain_scales(m: int, piece: int) -> bool:
    """Whether a piece's step is an f16 number as it is stored, and its offset a multiple of it."""
    return not expands_offsets(m) and read_i64(m + M_SUB_WIDTH0) == 0 and read_i64(m + M_GROUP) == piece


@inlined
def plain_blocks(m: int, row: int) -> bool:
    """Whether pieces are blocks with plain scales, for `multiply_plain`."""
    return plain_scales(m, BLOCK) and read_i64(row + X_GROUP) == BLOCK


@inlined
def multiply_plain(codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, begun: int, scratch: int) -> Any:
    """The same as `multiply_packed` of such matrices, without memory between steps and branches, and for the first
    tokens of a tile too."""
    columns, width = read_i64(row + COLUMNS), tile_tokens(tokens)
    blocks, table = columns // BLOCK, read_i64(m + M_TABLE)
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    x = read_i64(row + X) + token * columns
    x_scale = read_i64(row + X_SCALE) + token * blocks * 4
    x_offset = read_i64(row + X_OFFSET) + token * blocks * 4
    x_sum, each = beginning(m, token * blocks * 4, begun, scratch)
    scale, point = read_i64(m + M_SCALES) + tile * blocks * 32, middle_of(m, lowest(codes))
    total = tile_zeros(tokens)
    for _ in range(blocks):
        acc = dot_block(codes, tokens, begin_sums(tokens, x_sum), 1, plane0, plane1, table, x)
        step = load_f16(scale)
        total = scale_add(total, acc, step, x_scale)
        if not FOLDED:
            total = outer_add(total, mul(step, point), x_offset)
        plane0 += plane0_bytes(codes)
        plane1 += plane1_bytes(codes)
        x += BLOCK * width
        x_scale += 4 * width
        x_offset += 4 * width
        x_sum += each * width
        scale += 32
    return total


@inlined
def multiply_packed(codes: Any, tokens: Any, m: int, tile: int, row: int, token: int, begun: int, scratch: int) -> Any:
    """16 rows times a few tokens, the codes straight from their planes; int8 activations."""
    if plain_blocks(m, row):
        return multiply_plain(codes, tokens, m, tile, row, token, begun, scratch)
    columns, piece, width = read_i64(row + COLUMNS), read_i64(row + X_GROUP), tag_value(tokens)
    blocks, table, pieces = columns // BLOCK, read_i64(m + M_TABLE), columns // piece
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    x = read_i64(row + X) + token * columns
    x_scale = read_i64(row + X_SCALE) + token * pieces * 4
    x_offset = read_i64(row + X_OFFSET) + token * pieces * 4
    x_sum, each = beginning(m, token * pieces * 4, begun, scratch)
    steps, offsets, plain = scratch, scratch + WIDE_PANEL * 2 if expands_offsets(m) else 0, plain_scales(m, piece)
    scale, point = read_i64(m + M_SCALES) + tile * pieces * 32, middle_of(m, lowest(codes))
    total = tile_zeros(tokens)
    for start in range(0, columns, WIDE_PANEL):
        count = min(WIDE_PANEL, columns - start) // piece
        if not plain:
            expand_steps(m, tile, piece, lowest(codes), start // piece, count, steps, offsets)
        for i in range(count):
            acc = dot_block(codes, tokens, begin_sums(tokens, x_sum), piece // BLOCK, plane0, plane1, table, x)
            plane0 += piece // BLOCK * plane0_bytes(codes)
            plane1 += piece // BLOCK * plane1_bytes(codes)
            x += piece * width
            if plain:
                step = load_f16(scale)
                scale += 32
            else:
                step = load_f32(steps + i * 64)
            total = scale_add(total, acc, step, x_scale)
            if offsets != 0:
                total = outer_add(total, load_f32(offsets + i * 64), x_offset)
            elif not FOLDED:
                total = outer_add(total, mul(step, point), x_offset)
            x_scale += 4 * width
            x_offset += 4 * width
            x_sum += each * width
    return total


@inlined
def multiply_tiles(
    codes: Any, tiles: Any, m: int, tile: int, apart: int, row: int, token: int, sums: int, begun: int, scratch: int
) -> Any:
    """One tile of 16 rows, or two so many tiles apart, times one token, the codes straight from their planes; int8
    activations, or their tables at `sums`."""
    columns, piece = read_i64(row + COLUMNS), read_i64(row + X_GROUP)
    blocks, table, pieces = columns // BLOCK, read_i64(m + M_TABLE), columns // piece
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    scale, point = read_i64(m + M_SCALES) + tile * pieces * 32, middle_of(m, lowest(codes))
    next0, next1 = apart * blocks * plane0_bytes(codes), apart * blocks * plane1_bytes(codes)
    next_scale, next_step = apart * pieces * 32, PAIR_PANEL * 2
    x = sums if token_bytes(codes) > 1 else read_i64(row + X) + token * columns
    x_scale = read_i64(row + X_SCALE) + token * pieces * 4
    x_offset = read_i64(row + X_OFFSET) + token * pieces * 4
    x_sum, each = beginning(m, token * pieces * 4, begun, scratch)
    steps, offsets, plain = scratch, scratch + 2 * next_step if expands_offsets(m) else 0, plain_scales(m, piece)
    ahead = (AHEAD if plain else AHEAD_EXPANDED) // tag_value(tiles)
    leveled = read_i64(m + M_MINIMUMS) != 0 and read_i64(m + M_SUB_WIDTH0) != 0
    total = tile_zeros(tiles)
    if plain and piece == BLOCK:  # the same without memory between steps and branches: a quarter faster
        for _ in range(blocks):
            acc = dot_tiles(codes, begin_sums(tiles, x_sum), 1, plane0, plane1, next0, next1, ahead, table, x)
            step = tile_load_f16(tiles, scale, next_scale)
            total = scale_add_tiles(total, acc, step, x_scale)
            if not FOLDED:
                total = outer_add_tiles(total, tile_mul(step, point), x_offset)
            plane0 += plane0_bytes(codes)
            plane1 += plane1_bytes(codes)
            x += BLOCK * token_bytes(codes)
            x_scale += 4
            x_offset += 4
            x_sum += each
            scale += 32
        return total
    for start in range(0, columns, PAIR_PANEL):
        first, count = start // piece, min(PAIR_PANEL, columns - start) // piece
        if not plain:
            for k in range(tag_value(tiles)):
                out, low = k * next_step, offsets + k * next_step if offsets else 0
                expand_steps(m, tile + k * apart, piece, lowest(codes), first, count, steps + out, low)
                if start == 0 and leveled:  # 3 to 4 % of a token of q4m-g32-s6; scales alone gain nothing
                    prefetch_levels(m, tile + k * apart + 1)
        for i in range(0, count * 64, 64):
            acc = dot_tiles(
                codes, begin_sums(tiles, x_sum), piece // BLOCK, plane0, plane1, next0, next1, ahead, table, x
            )
            plane0 += piece // BLOCK * plane0_bytes(codes)
            plane1 += piece // BLOCK * plane1_bytes(codes)
            x += piece * token_bytes(codes)
            if plain:
                step = tile_load_f16(tiles, scale, next_scale)
                scale += 32
            else:
                step = tile_load(tiles, steps + i, next_step)
            total = scale_add_tiles(total, acc, step, x_scale)
            if offsets != 0:
                total = outer_add_tiles(total, tile_load(tiles, offsets + i, next_step), x_offset)
            elif not FOLDED:
                total = outer_add_tiles(total, tile_mul(step, point), x_offset)
            x_scale += 4
            x_offset += 4
            x_sum += each
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
def later_codes(
    codes: Any, m: int, tile: int, columns: int, end: int, piece: int, part: int, every: int, count: int
) -> Any:
    """What a tile of tokens, the part-th, prefetches of the panel that begins at column `end`: see `multiply_panel`."""
    if part >= every:
        return 0, 0, 0, 0
    skipped = (count + every - 1) // every * part * piece
    after = tile * (columns // BLOCK) + (end + skipped) // BLOCK
    plane0 = read_i64(m + M_PLANE0) + after * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + after * plane1_bytes(codes)
    if not plain_scales(m, piece):
        return every, plane0, plane1, plane0
    return every, plane0, plane1, read_i64(m + M_SCALES) + (tile * columns + end + skipped) // piece * 32


@inlined
def multiply_blocks(
    codes: Any,
    turn: Any,
    many: Any,
    m: int,
    row: int,
    x: int,
    place: int,
    planes: tuple[int, int],
    count: int,
    later: tuple[int, int, int, int],
    begun: int,
    scratch: int,
    kept: int,
) -> None:
    """The same as `multiply_panel` where pieces are blocks, whose codes the first tile of tokens takes out of their
    planes for the others."""
    every, later0, later1, later_scale = later
    plane0, plane1 = planes
    left, width, table = min(every, 1), tile_tokens(many), read_i64(m + M_TABLE)
    steps, offsets, quads = scratch, 0 if folds(m) else scratch + PANEL * 2, scratch + PANEL * 4
    x_scale, x_offset = read_i64(row + X_SCALE) + place, read_i64(row + X_OFFSET) + place
    x_sum, each = beginning(m, place, begun, scratch)
    total = tile_load(many, kept, 64)
    for _ in range(count):  # without branches nothing but the totals is spilled
        left -= 1
        if left == 0:
            prefetch_codes(codes, later0, later1)
            prefetch(later_scale)
            later0 += plane0_bytes(codes)
            later1 += plane1_bytes(codes)
            later_scale += 64
            left = every
        acc = dot_in_turn(codes, turn, many, begin_sums(many, x_sum), plane0, plane1, table, quads, x)
        total = scale_add(total, acc, load_f32(steps), x_scale)
        if not FOLDED or offsets != 0:
            total = outer_add(total, load_f32(offsets), x_offset)
            offsets += 64
        plane0 += plane0_bytes(codes)
        plane1 += plane1_bytes(codes)
        quads += BLOCK_BYTES
        x += BLOCK * width
        steps += 64
        x_scale += 4 * width
        x_offset += 4 * width
        x_sum += each * width
    tile_store(kept, 64, total)


@inlined
def multiply_panel(
    codes: Any,
    many: Any,
    m: int,
    row: int,
    x: int,
    place: int,
    count: int,
    later: tuple[int, int, int, int],
    begun: int,
    scratch: int,
    kept: int,
) -> None:
    """Add the product of `count` pieces of an expanded panel with a tile of tokens to totals kept at an address.

    `place` is how far the scales of these tokens and pieces lie behind the first of all, in bytes. `later` is what is
    prefetched of the next panel: of how many blocks one, or none where that is 0, and the addresses of codes in both
    planes and of scales. Sizes are given and totals stay in memory, because a call for each tile of tokens would divide
    and return a tile.
    """
    every, later0, later1, later_scale = later
    left = min(every, 1)
    piece, width = read_i64(row + X_GROUP), tag_value(many)
    steps, offsets, quads = scratch, 0 if folds(m) else scratch + PANEL * 2, scratch + PANEL * 4
    x_scale, x_offset = read_i64(row + X_SCALE) + place, read_i64(row + X_OFFSET) + place
    x_sum, each = beginning(m, place, begun, scratch)
    total, blocks = tile_load(many, kept, 64), piece // BLOCK
    for _ in range(count):
        left -= 1
        if left == 0:
            prefetch(later_scale)
            later_scale += 64
            left = every
            for _ in range(blocks):
                prefetch_codes(codes, later0, later1)
                later0 += plane0_bytes(codes)
                later1 += plane1_bytes(codes)
        acc = dot_bytes(codes, begin_sums(many, x_sum), blocks, quads, x)
        total = scale_add(total, acc, load_f32(steps), x_scale)
        if not FOLDED or offsets != 0:
            total = outer_add(total, load_f32(offsets), x_offset)
            offsets += 64
        quads += blocks * BLOCK_BYTES
        x += piece * width
        steps += 64
        x_scale += 4 * width
        x_offset += 4 * width
        x_sum += each * width
    tile_store(kept, 64, total)


@inlined
def put(total: Any, row: int, out: int, stride: int) -> None:
    """Write or add a tile to the output."""
    if read_i64(row + ADD) != 0:
        tile_add(out, stride, total)
    else:
        tile_store(out, stride, total)


@inlined
def write(total: Any, m: int, tile: int, row: int, token: int) -> None:
    """Add the bias where there is one, and write or add the tile of tokens to the output."""
    bias, stride = read_i64(m + M_BIAS), read_i64(m + M_STRIDE)
    if bias != 0:
        total = tile_add_vector(total, load_f32(bias + tile * 64))
    out = read_i64(m + M_OUT) + token * stride + tile * 64
    put(total, row, out, stride)


@inlined
def prefetch_out(m: int, tile: int, token: int, count: int) -> None:
    """Ask for the lines that `write` will write, each on a page of its own: waiting for them took 4 % of a prompt."""
    stride = read_i64(m + M_STRIDE)
    out = read_i64(m + M_OUT) + token * stride + tile * 64
    for _ in range(count):
        prefetch(out)
        out += stride


@inlined
def write_tiles(total: Any, tiles: Any, m: int, tile: int, apart: int, row: int, token: int, scratch: int) -> None:
    """The same of one tile or two and one token; a tile that is 0 apart from itself is written once."""
    bias = read_i64(m + M_BIAS)
    if bias != 0:
        total = tile_plus(total, tile_load(tiles, bias + tile * 64, apart * 64))
    out = read_i64(m + M_OUT) + token * read_i64(m + M_STRIDE) + tile * 64
    stride = apart * 64 if apart else scratch - out
    put(total, row, out, stride)


@inlined
def multiply_many(
    codes: Any,
    many: Any,
    some: Any,
    m: int,
    tile: int,
    row: int,
    token: int,
    stop: int,
    n: int,
    begun: int,
    scratch: int,
) -> None:
    """16 rows times tokens token .. stop - 1, whole tiles of them, panel by panel; int8 activations.

    There are n tokens: of a tile behind the first, `some` are enough where it has no more."""
    columns, piece, width = read_i64(row + COLUMNS), read_i64(row + X_GROUP), tag_value(many)
    totals, pieces = scratch + SCRATCH, columns // piece
    every = min((stop - token) // width, PREFETCHING)
    for t in range(stop - token):
        store_f32(totals + t * 64, splat_f32(0.0))
    for start in range(0, columns, PANEL):
        end = min(start + PANEL, columns)
        first, count = start // piece, (end - start) // piece
        expand_steps(m, tile, piece, lowest(codes), first, count, scratch, 0 if folds(m) else scratch + PANEL * 2)
        at = tile * (columns // BLOCK) + start // BLOCK
        planes = (
            read_i64(m + M_PLANE0) + at * plane0_bytes(codes),
            read_i64(m + M_PLANE1) + at * plane1_bytes(codes),
        )
        if piece != BLOCK:
            unpack_panel(codes, m, tile, columns, start, end, scratch + PANEL * 4)
        for t in range(token, stop, width):
            x, place = read_i64(row + X) + t * columns + start * width, (t * pieces + first * width) * 4
            kept = totals + (t - token) * 64
            part = (t - token) // width
            later = later_codes(codes, m, tile, columns, end, piece, part, every, count)
            if end == columns:
                prefetch_out(m, tile, t, width)
            if piece != BLOCK:
                multiply_panel(codes, many, m, row, x, place, count, later, begun, scratch, kept)
            elif part == 0:
                multiply_blocks(codes, FIRST, many, m, row, x, place, planes, count, later, begun, scratch, kept)
            elif n - t <= tag_value(some) and tag_value(some) < width:
                multiply_blocks(codes, LATER, some, m, row, x, place, planes, count, later, begun, scratch, kept)
            else:
                multiply_blocks(codes, LATER, many, m, row, x, place, planes, count, later, begun, scratch, kept)
    for t in range(token, stop, width):
        write(tile_load(many, totals + (t - token) * 64, 64), m, tile, row, t)


@inlined
def multiply_float(codes: Any, many: Any, m: int, tile: int, row: int, token: int, scratch: int) -> Any:
    """16 rows times a tile of tokens; float32 activations."""
    columns, stride = read_i64(row + COLUMNS), read_i64(row + X_STRIDE)
    blocks, table = columns // BLOCK, read_i64(m + M_TABLE)
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    x, piece = read_i64(row + X) + token * stride, piece_columns(codes)
    steps, offsets = scratch, scratch + PANEL * 4
    total = tile_zeros(many)
    for start in range(0, columns, PANEL):
        count = min(PANEL, columns - start) // piece
        expand_steps(m, tile, piece, 0, start // piece, count, steps, offsets)
        for at in range(0, count * 64, BLOCK // piece * 64):
            total = outer_block(codes, total, steps + at, offsets + at, plane0, plane1, table, x, stride)
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
