"""What happens to activations between matrices: rounding to int8, norms, RoPE, gates, and the gathering of rows.

Every operation takes rows (or pieces of rows) from the team's counter. Buffers are float32 rows whose stride covers
the padding of every matrix that reads them; columns from a row's width to its stride stay zero.
"""

from __future__ import annotations

import math

from numba import float32, int64

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.vector.isa import TOKENS
from ggq_kernels.vector.simd import (
    absolute,
    add_i32,
    div,
    fma,
    largest,
    load_f32,
    maximum,
    minimum,
    mul,
    nearest,
    read_f32,
    read_f64,
    read_i32,
    read_i64,
    sigmoid,
    splat_f32,
    store_f32,
    store_quads,
    total,
    total_i32,
    write_f32,
    write_i32,
    zeros_i32,
)

# Operands of a row, as byte offsets.
TOKEN_COUNT, SOURCE, SOURCE_STRIDE, OUT, OUT_STRIDE, WIDTH = 8, 16, 24, 32, 40, 48
# quantize: columns of a piece, scales, offsets, sums, the matrix's order and factors of columns (0 for none), the form
# (0 a scale for each piece, 1 for each token, 2 a fixed one), and that as a float64; a gate's second source (0: none);
# where bf16.py writes
Q_GROUP, Q_SCALE, Q_OFFSET, Q_SUM, Q_ORDER, Q_FACTORS, Q_FORM, Q_STEP, Q_UP, OUT_BF16 = range(56, 136, 8)
# norm: the address of the weights; epsilon, a float64 at an address
N_WEIGHT, N_EPSILON = 56, 64
# rope: heads, size of a head, the table of (cosines, sines) by position, positions by token
R_HEADS, R_DIM, R_TABLE, R_POSITIONS = 56, 64, 72, 80
# gate: the second source
G_UP = 56
# select: row numbers
S_ROWS = 56

PIECE = 1024
"""Columns of a row that one thread takes at a time where columns do not depend on each other."""
TINY = 1e-36
"""Groups of activations whose largest magnitude is below this are rounded to zero: 127 over less would not be
finite."""


@inlined
def peak_of(source: int, columns: int) -> float:
    """The largest magnitude of some columns, a multiple of 16."""
    peak = absolute(load_f32(source))
    for c in range(16, columns, 16):
        peak = maximum(peak, absolute(load_f32(source + c * 4)))
    return largest(peak)


@inlined
def quantize_group(
    top: float, source: int, group: int, target: int, stride: int, scale: int, offset: int, negative: int
) -> None:
    """One group of a token: codes, scale = top / 127, negative = -(their sum), offset = negative * scale."""
    inverse = splat_f32(0.0)
    if top >= TINY:
        inverse = div(splat_f32(127.0), splat_f32(top))
    sums, least, most = zeros_i32(), splat_f32(-127.0), splat_f32(127.0)
    for c in range(0, group, 16):
        codes = nearest(minimum(maximum(mul(load_f32(source + c * 4), inverse), least), most))
        store_quads(target + c // 4 * stride, stride, codes)
        sums = add_i32(sums, codes)
    step = top / float32(127.0)
    write_f32(scale, step)
    added = total_i32(sums)
    write_i32(negative, -added)
    write_f32(offset, -step * float32(added))


@inlined
def transform_columns(source: int, order: int, factors: int, first: int, last: int, out: int) -> None:
    """out[c - first] = source[order[c]] * factors[c]; `order` or `factors` is 0 for none."""
    for c in range(first, last):
        place = c
        if order != 0:
            place = int64(read_i32(order + 4 * c))
        x = read_f32(source + 4 * place)
        if factors != 0:
            x *= read_f32(factors + 4 * c)
        write_f32(out + 4 * (c - first), x)


@inlined
def gate_columns(gate: int, up: int, columns: int, out: int) -> None:
    """out = gate * sigmoid(gate) * up, for a multiple of 16 columns."""
    for c in range(0, columns * 4, 64):
        g = load_f32(gate + c)
        store_f32(out + c, mul(mul(g, sigmoid(g)), load_f32(up + c)))


@op
def transform(row: int, team: int) -> None:
    """Rows with their columns in another order and times a factor each."""
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    out, out_stride, width = read_i64(row + OUT), read_i64(row + OUT_STRIDE), read_i64(row + WIDTH)
    order, factors = read_i64(row + Q_ORDER), read_i64(row + Q_FACTORS)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        transform_columns(source + t * stride, order, factors, 0, width, out + t * out_stride)


@op
def quantize(row: int, team: int) -> None:
    """Round rows to int8 in tiles of TOKENS tokens, (columns / 4, TOKENS, 4), with scales, offsets and sums (columns /
    group, TOKENS); a last single token stands alone. The arithmetic is float32's: code = rint(x * (127 / largest)),
    within +-127; `largest` is that of the group or of the row, or is given. What is rounded is the source, or
    the source with an order and factors, or the gated source.
    """
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    out, columns, group = read_i64(row + OUT), read_i64(row + WIDTH), read_i64(row + Q_GROUP)
    scales, offsets, sums = read_i64(row + Q_SCALE), read_i64(row + Q_OFFSET), read_i64(row + Q_SUM)
    order, factors, form = read_i64(row + Q_ORDER), read_i64(row + Q_FACTORS), read_i64(row + Q_FORM)
    piece = columns if form == 1 else max(group, PIECE // group * group)
    pieces = (columns + piece - 1) // piece
    tiles, moved, up = (n + TOKENS - 1) // TOKENS, order != 0 or factors != 0, read_i64(row + Q_UP)
    memory = allocate(4 * piece)
    while True:
        job = take(team, 1)
        if job >= tiles * pieces:
            release(memory)
            return
        first, start = job // pieces * TOKENS, job % pieces * piece
        width, stop = 1 if n - first == 1 else TOKENS, min(start + piece, columns)
        for t in range(width):
            x = source + (first + t) * stride + start * 4
            if moved:
                transform_columns(source + (first + t) * stride, order, factors, start, stop, memory)
                x = memory
            if up != 0:
                gate_columns(x, up + (first + t) * stride + start * 4, stop - start, memory)
                x = memory
            top = float32(read_f64(row + Q_STEP) * 127.0)
            if form == 1:
                top = peak_of(x, columns)
            for c in range(start, stop, group):
                if form == 0:
                    top = peak_of(x, group)
                place = (first * (columns // group) + c // group * width + t) * 4
                target = out + first * columns + c * width + 4 * t
                quantize_group(top, x, group, target, 4 * width, scales + place, offsets + place, sums + place)
                x += group * 4


@op
def rms_norm(row: int, team: int) -> None:
    """out = x / sqrt(mean(x * x) + epsilon) * weight; sums are float32 in 16 lanes."""
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    out, out_stride, width = read_i64(row + OUT), read_i64(row + OUT_STRIDE), read_i64(row + WIDTH)
    weight, epsilon = read_i64(row + N_WEIGHT), read_f64(read_i64(row + N_EPSILON))
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x, y = source + t * stride, out + t * out_stride
        squares = splat_f32(0.0)
        for c in range(0, width * 4, 64):
            v = load_f32(x + c)
            squares = fma(v, v, squares)
        factor = splat_f32(float32(1.0 / math.sqrt(total(squares) / width + epsilon)))
        for c in range(0, width * 4, 64):
            store_f32(y + c, mul(mul(load_f32(x + c), factor), load_f32(weight + c)))


@inlined
def rotate_half(head: int, half: int, table: int) -> None:
    """Rotate x[i] and x[i + half] by the angle of cosine table[i], sine table[half + i]."""
    i = 0
    while i + 16 <= half:
        c, s = load_f32(table + i * 4), load_f32(table + (half + i) * 4)
        a, b = load_f32(head + i * 4), load_f32(head + (half + i) * 4)
        store_f32(head + i * 4, fma(a, c, mul(mul(b, s), splat_f32(-1.0))))
        store_f32(head + (half + i) * 4, fma(b, c, mul(a, s)))
        i += 16
    while i < half:
        rotate_pair(head + i * 4, head + (half + i) * 4, table + i * 4, table + (half + i) * 4)
        i += 1


@inlined
def rotate_pair(first: int, second: int, cosine: int, sine: int) -> None:
    """Rotate one pair of numbers at two addresses."""
    a, b, c, s = read_f32(first), read_f32(second), read_f32(cosine), read_f32(sine)
    write_f32(first, a * c - b * s)
    write_f32(second, b * c + a * s)


@inlined
def rope(pairs: bool, row: int, team: int) -> None:
    """Rotate the heads of each token in place: neighbouring numbers, or the two halves against each other."""
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    heads, dim, table, positions = (
        read_i64(row + R_HEADS),
        read_i64(row + R_DIM),
        read_i64(read_i64(row + R_TABLE)),
        read_i64(row + R_POSITIONS),
    )
    while True:
        t = take(team, 1)
        if t >= n:
            return
        angles = table + read_i64(positions + 8 * t) * dim * 4
        for h in range(heads):
            head = source + t * stride + h * dim * 4
            if pairs:
                for i in range(dim // 2):
                    rotate_pair(head + 8 * i, head + 8 * i + 4, angles + 4 * i, angles + (dim // 2 + i) * 4)
            else:
                rotate_half(head, dim // 2, angles)


@op
def rope_half(row: int, team: int) -> None:
    """Rotate the two halves of each head against each other, as Hugging Face stores Llama."""
    rope(False, row, team)


@op
def rope_pairs(row: int, team: int) -> None:
    """Rotate neighbouring numbers of each head."""
    rope(True, row, team)


@op
def gate_silu(row: int, team: int) -> None:
    """out = gate * sigmoid(gate) * up"""
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    out, out_stride, width = read_i64(row + OUT), read_i64(row + OUT_STRIDE), read_i64(row + WIDTH)
    up, pieces = read_i64(row + G_UP), (width + PIECE - 1) // PIECE
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        t, start = job // pieces, job % pieces * PIECE
        columns, at = min(PIECE, width - start), t * stride + start * 4
        gate_columns(source + at, up + at, columns, out + t * out_stride + start * 4)


@op
def select(row: int, team: int) -> None:
    """out[i] = source[rows[i]]"""
    n, source, stride = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + SOURCE), read_i64(row + SOURCE_STRIDE)
    out, out_stride, width = read_i64(row + OUT), read_i64(row + OUT_STRIDE), read_i64(row + WIDTH)
    rows = read_i64(row + S_ROWS)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x = source + read_i64(rows + 8 * t) * stride
        for c in range(0, width * 4, 64):
            store_f32(out + t * out_stride + c, load_f32(x + c))
