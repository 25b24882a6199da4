"""Activations rounded to int8, for products with codes."""

from __future__ import annotations

from typing import Any

from numba import float32

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.gate import gate_columns
from ggq_kernels.row.gather import transform_columns
from ggq_kernels.row.operands import PIECE, ROUND
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.vector.functions import CLAMPED, GELU, GELU_TANH, RELU, RELU2, SIGMOID, SILU
from ggq_kernels.vector.isa import TOKENS
from ggq_kernels.vector.simd import (
    absolute,
    add_i32,
    div,
    larger_size,
    largest_size,
    load_f32,
    maximum,
    minimum,
    mul,
    nearest,
    read_f64,
    read_i64,
    splat_f32,
    store_quads,
    total_i32,
    write_f32,
    write_i32,
    zeros_i32,
)

TINY = 1e-36
"""Groups of activations whose largest magnitude is below this are rounded to zero: 127 over less would not be
finite."""
LARGEST = 3.4028234663852886e38
"""The largest float32."""


@inlined
def peak_of(source: int, columns: int) -> float:
    """The largest magnitude of some columns, a multiple of 16; NaN where there is one."""
    peak = absolute(load_f32(source))
    for c in range(16, columns, 16):
        peak = larger_size(peak, load_f32(source + c * 4))
    return largest_size(peak)


@inlined
def quantize_group(
    top: float, source: int, group: int, target: int, stride: int, scale: int, offset: int, negative: int
) -> None:
    """One group of a token: codes, scale = top / 127, negative = -(their sum), offset = negative * scale. A top that is
    not finite makes a scale that is not, which says so to whoever multiplies the codes."""
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
def fixed_top(top: float, peak: float) -> float:
    """What is rounded to 127 where that is given: `top`, or the peak where that is not finite."""
    return top if peak <= LARGEST else peak


@inlined
def round_rows(kind: Any, row: int, team: int) -> None:
    """Round rows to int8 in tiles of TOKENS tokens, (columns / 4, TOKENS, 4), with scales, offsets and sums (columns /
    group, TOKENS); a last single token stands alone. The arithmetic is float32's: code = rint(x * (127 / largest)),
    within +-127; `largest` is that of the group or of the row, or is given. What is rounded is the source, or
    the source with an order and factors, or the gated source.
    """
    n, source = read_i64(read_i64(row + ROUND.tokens)), read_i64(row + ROUND.source)
    stride, columns = read_i64(row + ROUND.source_stride), read_i64(row + ROUND.width)
    out, group, form = read_i64(row + ROUND.out), read_i64(row + ROUND.group), read_i64(row + ROUND.form)
    scales, offsets, sums = read_i64(row + ROUND.scales), read_i64(row + ROUND.offsets), read_i64(row + ROUND.sums)
    order, factors, up = read_i64(row + ROUND.order), read_i64(row + ROUND.factors), read_i64(row + ROUND.up)
    piece = columns if form == 1 else max(group, PIECE // group * group)
    pieces = (columns + piece - 1) // piece
    tiles, moved = (n + TOKENS - 1) // TOKENS, order != 0 or factors != 0
    fixed = float32(read_f64(row + ROUND.step) * 127.0)
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
                gate_columns(kind, x, up + (first + t) * stride + start * 4, stop - start, memory)
                x = memory
            top = fixed
            if form == 1:
                top = peak_of(x, columns)
            for c in range(start, stop, group):
                if form == 0:
                    top = peak_of(x, group)
                elif form == 2:
                    top = fixed_top(fixed, peak_of(x, group))
                place = (first * (columns // group) + c // group * width + t) * 4
                target = out + first * columns + c * width + 4 * t
                quantize_group(top, x, group, target, 4 * width, scales + place, offsets + place, sums + place)
                x += group * 4


@op
def quantize(row: int, team: int) -> None:
    """Round rows, or what SiLU gates."""
    round_rows(SILU, row, team)


@op
def quantize_gelu_tanh(row: int, team: int) -> None:
    """Round what GELU by tanh gates."""
    round_rows(GELU_TANH, row, team)


@op
def quantize_gelu(row: int, team: int) -> None:
    """Round what GELU gates."""
    round_rows(GELU, row, team)


@op
def quantize_relu(row: int, team: int) -> None:
    """Round what ReLU gates."""
    round_rows(RELU, row, team)


@op
def quantize_relu2(row: int, team: int) -> None:
    """Round what the square of ReLU gates."""
    round_rows(RELU2, row, team)


@op
def quantize_sigmoid(row: int, team: int) -> None:
    """Round what a sigmoid gates."""
    round_rows(SIGMOID, row, team)


@op
def quantize_clamped_swiglu(row: int, team: int) -> None:
    """Round what a clamped SwiGLU makes."""
    round_rows(CLAMPED, row, team)
