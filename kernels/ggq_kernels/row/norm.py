"""Normalizing rows, or equal parts of rows.

Sums are float32 in 16 lanes. A row that holds a NaN or an infinity, or numbers whose squares float32 cannot hold, gives
NaN throughout.
"""

from __future__ import annotations

import math

from numba import float32

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.operands import NORM
from ggq_kernels.run.team import take
from ggq_kernels.vector.simd import (
    add,
    first_lanes,
    fma,
    load_f32,
    mul,
    read_f64,
    read_i64,
    splat_f32,
    store_f32,
    store_some,
    subtract,
    total,
)


@inlined
def inverse_root(squares: float, width: int, epsilon: float) -> float:
    """1 / sqrt(squares / width + epsilon); NaN for an infinite sum of squares, which would make a row of zeros."""
    return float32(1.0 / math.sqrt(squares / width + epsilon)) + (squares - squares)


@op
def rms_norm(row: int, team: int) -> None:
    """out = x / sqrt(mean(x * x) + epsilon) * weight"""
    n, source = read_i64(read_i64(row + NORM.tokens)), read_i64(row + NORM.source)
    stride, width = read_i64(row + NORM.source_stride), read_i64(row + NORM.width)
    out, out_stride = read_i64(row + NORM.out), read_i64(row + NORM.out_stride)
    weight, epsilon = read_i64(row + NORM.weight), read_f64(read_i64(row + NORM.epsilon))
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x, y = source + t * stride, out + t * out_stride
        squares = splat_f32(0.0)
        for c in range(0, width * 4, 64):
            v = load_f32(x + c)
            squares = fma(v, v, squares)
        factor = splat_f32(inverse_root(total(squares), width, epsilon))
        for c in range(0, width * 4, 64):
            store_f32(y + c, mul(mul(load_f32(x + c), factor), load_f32(weight + c)))


@inlined
def norm_part(x: int, y: int, width: int, weight: int, bias: int, epsilon: float, centred: bool) -> None:
    """One part of a row, of any width: what lies behind it is neither used nor changed."""
    mean, squares = splat_f32(0.0), splat_f32(0.0)
    if centred:
        for c in range(0, width, 16):
            mean = add(mean, first_lanes(load_f32(x + c * 4), width - c))
        mean = splat_f32(float32(total(mean) / width))
    for c in range(0, width, 16):
        v = first_lanes(subtract(load_f32(x + c * 4), mean), width - c)
        squares = fma(v, v, squares)
    factor = splat_f32(inverse_root(total(squares), width, epsilon))
    for c in range(0, width, 16):
        v = mul(subtract(load_f32(x + c * 4), mean), factor)
        if weight != 0:
            v = mul(v, load_f32(weight + c * 4))
        if bias != 0:
            v = add(v, load_f32(bias + c * 4))
        store_some(y + c * 4, v, width - c)


@inlined
def norm_parts(centred: bool, row: int, team: int) -> None:
    """Every part of every row."""
    n, source = read_i64(read_i64(row + NORM.tokens)), read_i64(row + NORM.source)
    stride, width = read_i64(row + NORM.source_stride), read_i64(row + NORM.width)
    out, out_stride, heads = read_i64(row + NORM.out), read_i64(row + NORM.out_stride), read_i64(row + NORM.heads)
    weight, bias, epsilon = read_i64(row + NORM.weight), read_i64(row + NORM.bias), read_i64(row + NORM.epsilon)
    part, small, step = width // heads, read_f64(epsilon), read_i64(row + NORM.step)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        for h in range(heads):
            at, own = h * part * 4, h * step
            x, y = source + t * stride + at, out + t * out_stride + at
            w = weight + own if weight != 0 else 0
            norm_part(x, y, part, w, bias + own if bias != 0 else 0, small, centred)


@op
def rms_norm_parts(row: int, team: int) -> None:
    """out = x / sqrt(mean(x * x) + epsilon) * weight + bias, part by part."""
    norm_parts(False, row, team)


@op
def layer_norm(row: int, team: int) -> None:
    """out = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, part by part."""
    norm_parts(True, row, team)
