"""Quantized matrix x activations: the fused dequantize-and-multiply, on packed codes, for a prompt and for one token
alike.

    out[t, r] = sum over groups g of scale[r, g] * x_scale[t, g] * (sum of code * x8  -  zero[r, g] * sum of x8)

Activations come from activations.py in tiles of TOKENS tokens (a last single token stands alone). With float32
activations the codes are converted in registers instead. A thread takes a few tiles of 16 rows at a time and computes
them for all tokens, in blocks of tokens that stay in its second-level cache.

Error bound: int8 sums are exact. Each of the columns / x_group activation groups adds two products and two sums of
float32 to a total, so |error| <= gamma(2 * groups + 4) * sum of |terms|, gamma(n) = n u / (1 - n u), u = 2**-24
(tests/test_kernels_linear.py).
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from ggq_kernels.compiled import inlined, op
from ggq_kernels.isa import FLOAT_ROWS, TOKENS, VALUES, load_f16, load_value, value_bytes
from ggq_kernels.planes import (
    CODES,
    dot_block,
    outer_add,
    outer_block,
    plane0_bytes,
    plane1_bytes,
    scale_add,
    sums_of,
    zero_vector,
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
    tile_fma,
    tile_outer,
    tile_store,
    tile_zeros,
)
from ggq_kernels.team import take

AHEAD = 2048
"""Bytes by which codes are asked for in advance: 25.5 GB/s became 31.8 on two cores (512: 25.9, 1024: 30.9, 4096:
28.4)."""
MANY, ONE, FLOAT_MANY = Tag("tokens", TOKENS), Tag("tokens", 1), Tag("tokens", FLOAT_ROWS)
SYMMETRIC, ZERO_POINT = Tag("zero", 0), Tag("zero", 1)

# Operands of a row, as byte offsets; all kernels of this file have the same.
TOKEN_COUNT, MATRICES, TILES, CHUNK, TOKEN_BLOCK, ADD = 8, 16, 24, 32, 40, 48
COLUMNS, GROUP, X_GROUP, X, X_SCALE, X_OFFSET, X_STRIDE = 56, 64, 72, 80, 88, 96, 104
# Words of one matrix descriptor, as byte offsets; descriptors follow each other, M_END is the first tile of the next.
M_PLANE0, M_PLANE1, M_SCALES, M_ZEROS, M_OUT, M_STRIDE, M_BIAS, M_START, M_END, M_BYTES = range(0, 80, 8)


@inlined
def prefetch_ahead(codes: Any, tokens: Any, plane0: int, plane1: int) -> None:
    """Ask for the codes that a single token will need next; a tile of tokens computes long enough for them to come."""
    if tag_value(tokens) == 1:
        for i in range(0, plane0_bytes(codes), 64):
            prefetch(plane0 + AHEAD + i)
        for i in range(0, plane1_bytes(codes), 64):
            prefetch(plane1 + AHEAD + i)


@inlined
def product_int8(codes: Any, zero: Any, tokens: Any, m: int, tile: int, row: int, token: int) -> Any:
    """One tile of 16 rows times a tile of tokens, the first of them `token`; int8 activations."""
    columns, group, x_group = read_i64(row + COLUMNS), read_i64(row + GROUP), read_i64(row + X_GROUP)
    groups, blocks, step = columns // group, columns // 32, 4 * tag_value(tokens)
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    scales = read_i64(m + M_SCALES) + tile * groups * 32
    zeros = read_i64(m + M_ZEROS) + tile * groups * 16
    x = read_i64(row + X) + token * columns
    x_scale = read_i64(row + X_SCALE) + token * (columns // x_group) * 4
    x_offset = read_i64(row + X_OFFSET) + token * (columns // x_group) * 4
    total = tile_zeros(tokens)
    if group == 32:
        for _ in range(groups):
            prefetch_ahead(codes, tokens, plane0, plane1)
            acc = dot_block(codes, sums_of(tokens), plane0, plane1, x)
            scale = load_f16(scales)
            total = scale_add(total, acc, scale, x_scale)
            total = outer_add(total, mul(scale, zero_vector(codes, zero, zeros)), x_offset)
            plane0 += plane0_bytes(codes)
            plane1 += plane1_bytes(codes)
            x += 8 * step
            x_scale += step
            x_offset += step
            scales += 32
            zeros += 16
        return total
    for _ in range(groups):
        scale = load_f16(scales)
        offset = mul(scale, zero_vector(codes, zero, zeros))
        for _ in range(group // x_group):
            acc = sums_of(tokens)
            for _ in range(x_group // 32):
                prefetch_ahead(codes, tokens, plane0, plane1)
                acc = dot_block(codes, acc, plane0, plane1, x)
                plane0 += plane0_bytes(codes)
                plane1 += plane1_bytes(codes)
                x += 8 * step
            total = scale_add(total, acc, scale, x_scale)
            total = outer_add(total, offset, x_offset)
            x_scale += step
            x_offset += step
        scales += 32
        zeros += 16
    return total


@inlined
def product_float(codes: Any, zero: Any, tokens: Any, m: int, tile: int, row: int, token: int) -> Any:
    """One tile of 16 rows times a tile of tokens; float32 activations."""
    columns, group, stride = read_i64(row + COLUMNS), read_i64(row + GROUP), read_i64(row + X_STRIDE)
    groups, blocks = columns // group, columns // 32
    plane0 = read_i64(m + M_PLANE0) + tile * blocks * plane0_bytes(codes)
    plane1 = read_i64(m + M_PLANE1) + tile * blocks * plane1_bytes(codes)
    scales = read_i64(m + M_SCALES) + tile * groups * 32
    zeros = read_i64(m + M_ZEROS) + tile * groups * 16
    x = read_i64(row + X) + token * stride
    total = tile_zeros(tokens)
    for _ in range(groups):
        point = zero_vector(codes, zero, zeros)
        acc = tile_zeros(tokens)
        for _ in range(group // 32):
            acc = outer_block(codes, acc, point, plane0, plane1, x, stride)
            plane0 += plane0_bytes(codes)
            plane1 += plane1_bytes(codes)
            x += 128
        total = tile_fma(total, load_f16(scales), acc)
        scales += 32
        zeros += 16
    return total


@inlined
def product_values(kind: Any, zero: Any, tokens: Any, m: int, tile: int, row: int, token: int) -> Any:
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


def product(form: Any, codes: Any, zero: Any, tokens: Any, m: int, tile: int, row: int, token: int) -> Any:
    """The product of the form's tag; a function as an argument would keep Numba from caching the kernel."""
    raise NotImplementedError


@overload(product, strict=False)  # annotations need not be equal
def _product(form: Any, codes: Any, zero: Any, tokens: Any, m: int, tile: int, row: int, token: int) -> Any:
    chosen = PRODUCTS[form.values[0]]
    return lambda form, codes, zero, tokens, m, tile, row, token: chosen(codes, zero, tokens, m, tile, row, token)


PRODUCTS = {"int8": product_int8, "float32": product_float, "whole": product_values}
INT8, FLOAT32, WHOLE = (Tag("form", name) for name in PRODUCTS)


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
def linear(form: Any, codes: Any, zero: Any, many: Any, row: int, team: int) -> None:
    """Take tiles of all matrices of this operation until none is left; see the module's docstring."""
    n, tiles, chunk = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + TILES), read_i64(row + CHUNK)
    block, width = read_i64(row + TOKEN_BLOCK), tag_value(many)
    whole = n if n % width == 1 else (n + width - 1) // width * width
    while True:
        first = take(team, chunk)
        if first >= tiles:
            return
        last = min(first + chunk, tiles)
        for start in range(0, n, block):
            stop = min(start + block, whole)
            m = read_i64(row + MATRICES)
            for tile in range(first, last):
                while tile >= read_i64(m + M_END):
                    m += M_BYTES
                t = tile - read_i64(m + M_START)
                token = start
                while token + width <= stop:
                    write(product(form, codes, zero, many, m, t, row, token), m, t, row, token)
                    token += width
                if token < stop:
                    write(product(form, codes, zero, ONE, m, t, row, token), m, t, row, token)


Q2 = CODES[2]
Q3 = CODES[3]
Q4 = CODES[4]
Q5 = CODES[5]
Q6 = CODES[6]
Q8 = CODES[8]
F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]

# One small function for each kernel: Numba caches functions by name, and only those that a model asks for are compiled.


@op
def linear_q2_int8(row: int, team: int) -> None:
    linear(INT8, Q2, SYMMETRIC, MANY, row, team)


@op
def linear_q2_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q2, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_q2z_int8(row: int, team: int) -> None:
    linear(INT8, Q2, ZERO_POINT, MANY, row, team)


@op
def linear_q2z_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q2, ZERO_POINT, FLOAT_MANY, row, team)


@op
def linear_q3_int8(row: int, team: int) -> None:
    linear(INT8, Q3, SYMMETRIC, MANY, row, team)


@op
def linear_q3_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q3, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_q3z_int8(row: int, team: int) -> None:
    linear(INT8, Q3, ZERO_POINT, MANY, row, team)


@op
def linear_q3z_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q3, ZERO_POINT, FLOAT_MANY, row, team)


@op
def linear_q4_int8(row: int, team: int) -> None:
    linear(INT8, Q4, SYMMETRIC, MANY, row, team)


@op
def linear_q4_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q4, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_q4z_int8(row: int, team: int) -> None:
    linear(INT8, Q4, ZERO_POINT, MANY, row, team)


@op
def linear_q4z_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q4, ZERO_POINT, FLOAT_MANY, row, team)


@op
def linear_q5_int8(row: int, team: int) -> None:
    linear(INT8, Q5, SYMMETRIC, MANY, row, team)


@op
def linear_q5_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q5, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_q5z_int8(row: int, team: int) -> None:
    linear(INT8, Q5, ZERO_POINT, MANY, row, team)


@op
def linear_q5z_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q5, ZERO_POINT, FLOAT_MANY, row, team)


@op
def linear_q6_int8(row: int, team: int) -> None:
    linear(INT8, Q6, SYMMETRIC, MANY, row, team)


@op
def linear_q6_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q6, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_q6z_int8(row: int, team: int) -> None:
    linear(INT8, Q6, ZERO_POINT, MANY, row, team)


@op
def linear_q6z_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q6, ZERO_POINT, FLOAT_MANY, row, team)


@op
def linear_q8_int8(row: int, team: int) -> None:
    linear(INT8, Q8, SYMMETRIC, MANY, row, team)


@op
def linear_q8_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q8, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_q8z_int8(row: int, team: int) -> None:
    linear(INT8, Q8, ZERO_POINT, MANY, row, team)


@op
def linear_q8z_float32(row: int, team: int) -> None:
    linear(FLOAT32, Q8, ZERO_POINT, FLOAT_MANY, row, team)


@op
def linear_f32(row: int, team: int) -> None:
    linear(WHOLE, F32, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_f16(row: int, team: int) -> None:
    linear(WHOLE, F16, SYMMETRIC, FLOAT_MANY, row, team)


@op
def linear_bf16(row: int, team: int) -> None:
    linear(WHOLE, BF16, SYMMETRIC, FLOAT_MANY, row, team)
