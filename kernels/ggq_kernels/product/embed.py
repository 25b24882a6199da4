"""Rows of a packed matrix as float32: the embedding of tokens."""

from __future__ import annotations

from typing import Any

from numba import float32, int64

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.product.operands import EMBED
from ggq_kernels.product.planes import HALF_BLOCK
from ggq_kernels.product.steps import (
    M_GROUP,
    M_GROUPS,
    M_MIDDLE,
    M_MINIMUMS,
    M_PLANE0,
    M_PLANE1,
    M_TABLE,
    M_ZEROS,
    expand_steps,
)
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.vector.isa import VALUES, read_value, value_bytes
from ggq_kernels.vector.simd import read_f32, read_f64, read_i32, read_i64, read_u8, write_f32

F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]


@inlined
def field(plane: int, width: int, lane: int, column: int) -> int:
    """A plane's bits of the code in one lane and column of a tile; `plane` is the tile's address, width in bits."""
    run, quad = 8 // width, column // 4
    byte = read_u8(plane + quad // run * 64 + lane * 4 + column % 4)
    return (int64(byte) >> (quad % run * width)) & ((1 << width) - 1)


@inlined
def clear_padding(out: int, columns: int, stride: int) -> None:
    """Zeros behind a row: what an earlier pass that was not finite left there would spread to every later one."""
    for c in range(columns, stride // 4):
        write_f32(out + 4 * c, float32(0.0))


@op
def embed_codes(row: int, team: int) -> None:
    """out[i] = row ids[i] of a quantized matrix, rounded as the reference rounds it; put in the column and times the
    factor that the matrix's transform names, where there is one, and times the scale."""
    n, ids, m = read_i64(read_i64(row + EMBED.tokens)), read_i64(row + EMBED.ids), read_i64(row + EMBED.matrix)
    out, stride, columns = read_i64(row + EMBED.out), read_i64(row + EMBED.out_stride), read_i64(row + EMBED.columns)
    width0, width1, padded = read_i64(row + EMBED.width0), read_i64(row + EMBED.width1), read_i64(row + EMBED.padded)
    order, factors, table = read_i64(row + EMBED.order), read_i64(row + EMBED.factors), read_i64(m + M_TABLE)
    scale = float32(read_f64(row + EMBED.scale))
    zeros, minimums, groups = read_i64(m + M_ZEROS), read_i64(m + M_MINIMUMS), read_i64(m + M_GROUPS)
    group, steps, point = read_i64(m + M_GROUP), allocate(128), float32(read_f64(m + M_MIDDLE))
    while True:
        t = take(team, 1)
        if t >= n:
            release(steps)
            return
        token = read_i64(ids + 8 * t)
        tile, lane = token // 16, token % 16
        low = read_i64(m + M_PLANE0) + tile * padded * 2 * width0
        high = read_i64(m + M_PLANE1) + tile * padded * 2 * width1
        for c in range(columns):
            if c % HALF_BLOCK == 0:
                expand_steps(m, tile, HALF_BLOCK, 0, c // HALF_BLOCK, 1, steps, steps + 64)
                if zeros != 0:
                    point = float32(read_u8(zeros + (tile * groups + c // group) * 16 + lane))
            number = field(low, width0, lane, c)
            if width1 != 0:
                number |= field(high, width1, lane, c) << width0
            if table != 0:
                number = int64(read_u8(table + number))
            elif width0 == 1:
                number *= 2
            if minimums != 0:
                value = read_f32(steps + 4 * lane) * float32(number) - read_f32(steps + 64 + 4 * lane)
            else:
                value = read_f32(steps + 4 * lane) * (float32(number) - point)
            if factors != 0:
                value *= read_f32(factors + 4 * c)
            value *= scale
            place = c
            if order != 0:
                place = int64(read_i32(order + 4 * c))
            write_f32(out + t * stride + 4 * place, value)
        clear_padding(out + t * stride, columns, stride)


@inlined
def embed_values(kind: Any, row: int, team: int) -> None:
    """out[i] = row ids[i] of a matrix of whole floats, times the scale."""
    n, ids = read_i64(read_i64(row + EMBED.tokens)), read_i64(row + EMBED.ids)
    out, stride, columns = read_i64(row + EMBED.out), read_i64(row + EMBED.out_stride), read_i64(row + EMBED.columns)
    plane, step, scale = read_i64(row + EMBED.values), value_bytes(kind), float32(read_f64(row + EMBED.scale))
    while True:
        t = take(team, 1)
        if t >= n:
            return
        token = read_i64(ids + 8 * t)
        source = plane + (token // 16 * columns * 16 + token % 16) * step
        for c in range(columns):
            write_f32(out + t * stride + 4 * c, read_value(kind, source + c * 16 * step) * scale)
        clear_padding(out + t * stride, columns, stride)


@op
def embed_f32(row: int, team: int) -> None:
    """Rows of a float32 matrix."""
    embed_values(F32, row, team)


@op
def embed_f16(row: int, team: int) -> None:
    """Rows of a float16 matrix."""
    embed_values(F16, row, team)


@op
def embed_bf16(row: int, team: int) -> None:
    """Rows of a bfloat16 matrix."""
    embed_values(BF16, row, team)
