"""What is done to numbers one by one: adding to a buffer, and bounding smoothly."""

from __future__ import annotations

from numba import float32

from ggq_kernels.code.compiled import op
from ggq_kernels.row.operands import ELEMENTS, PIECE
from ggq_kernels.run.team import take
from ggq_kernels.vector.functions import tanh
from ggq_kernels.vector.simd import fma, load_f32, mul, read_f64, read_i64, splat_f32, store_f32


@op
def add_scaled(row: int, team: int) -> None:
    """out += source * scale"""
    n, source = read_i64(read_i64(row + ELEMENTS.tokens)), read_i64(row + ELEMENTS.source)
    stride, width = read_i64(row + ELEMENTS.source_stride), read_i64(row + ELEMENTS.width)
    out, out_stride = read_i64(row + ELEMENTS.out), read_i64(row + ELEMENTS.out_stride)
    scale, pieces = splat_f32(float32(read_f64(row + ELEMENTS.scale))), (width + PIECE - 1) // PIECE
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        t, start = job // pieces, job % pieces * PIECE
        x, y = source + t * stride, out + t * out_stride
        for c in range(start * 4, min(start + PIECE, width) * 4, 64):
            store_f32(y + c, fma(load_f32(x + c), scale, load_f32(y + c)))


@op
def soft_cap(row: int, team: int) -> None:
    """out = cap * tanh(source * scale / cap), or source * scale where the cap is 0."""
    n, source = read_i64(read_i64(row + ELEMENTS.tokens)), read_i64(row + ELEMENTS.source)
    stride, width = read_i64(row + ELEMENTS.source_stride), read_i64(row + ELEMENTS.width)
    out, out_stride = read_i64(row + ELEMENTS.out), read_i64(row + ELEMENTS.out_stride)
    cap, scale = read_f64(row + ELEMENTS.cap), read_f64(row + ELEMENTS.scale)
    capped, pieces = cap != 0.0, (width + PIECE - 1) // PIECE
    factor, most = splat_f32(float32(scale / cap if capped else scale)), splat_f32(float32(cap))
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        t, start = job // pieces, job % pieces * PIECE
        x, y = source + t * stride, out + t * out_stride
        for c in range(start * 4, min(start + PIECE, width) * 4, 64):
            v = mul(load_f32(x + c), factor)
            if capped:
                v = mul(tanh(v), most)
            store_f32(y + c, v)
