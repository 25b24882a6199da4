"""Rows of a packed matrix as float32: the embedding of tokens."""

from __future__ import annotations

from typing import Any

from numba import float32, int64

from ggq_kernels.compiled import inlined, op
from ggq_kernels.isa import VALUES, read_value, value_bytes
from ggq_kernels.simd import read_i64, read_u8, write_f32
from ggq_kernels.team import take

# Operands of a row, as byte offsets.
TOKEN_COUNT, TOKEN_IDS, OUT, OUT_STRIDE, COLUMNS = 8, 16, 24, 32, 40
PLANE0, PLANE1, WIDTH0, WIDTH1, SCALES, ZEROS, ZERO, GROUP, PADDED = 48, 56, 64, 72, 80, 88, 96, 104, 112


F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]


@inlined
def field(plane: int, width: int, lane: int, column: int) -> int:
    """A plane's bits of the code in one lane and column of a tile; `plane` is the tile's address, width in bits."""
    run, quad = 8 // width, column // 4
    byte = read_u8(plane + quad // run * 64 + lane * 4 + column % 4)
    return (int64(byte) >> (quad % run * width)) & ((1 << width) - 1)


@op
def embed_codes(row: int, team: int) -> None:
    """out[i] = row ids[i] of a quantized matrix: scale * (code - zero), each product rounded once to float32."""
    n, ids = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + TOKEN_IDS)
    out, stride, columns = read_i64(row + OUT), read_i64(row + OUT_STRIDE), read_i64(row + COLUMNS)
    plane0, plane1, width0, width1 = (
        read_i64(row + PLANE0),
        read_i64(row + PLANE1),
        read_i64(row + WIDTH0),
        read_i64(row + WIDTH1),
    )
    scales, zeros, group, padded = (
        read_i64(row + SCALES),
        read_i64(row + ZEROS),
        read_i64(row + GROUP),
        read_i64(row + PADDED),
    )
    while True:
        t = take(team, 1)
        if t >= n:
            return
        token = read_i64(ids + 8 * t)
        tile, lane = token // 16, token % 16
        low, high = plane0 + tile * padded * 2 * width0, plane1 + tile * padded * 2 * width1
        for c in range(columns):
            place = (tile * (padded // group) + c // group) * 16 + lane
            zero = read_i64(row + ZERO)
            if zeros != 0:
                zero = int64(read_u8(zeros + place))
            code = field(low, width0, lane, c)
            if width1 != 0:
                code |= field(high, width1, lane, c) << width0
            write_f32(out + t * stride + 4 * c, read_value(F16, scales + 2 * place) * float32(code - zero))


@inlined
def embed_values(kind: Any, row: int, team: int) -> None:
    """out[i] = row ids[i] of a matrix of whole floats."""
    n, ids = read_i64(read_i64(row + TOKEN_COUNT)), read_i64(row + TOKEN_IDS)
    out, stride, columns = read_i64(row + OUT), read_i64(row + OUT_STRIDE), read_i64(row + COLUMNS)
    plane, step = read_i64(row + PLANE0), value_bytes(kind)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        token = read_i64(ids + 8 * t)
        source = plane + (token // 16 * columns * 16 + token % 16) * step
        for c in range(columns):
            write_f32(out + t * stride + 4 * c, read_value(kind, source + c * 16 * step))


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
