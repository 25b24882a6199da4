"""What models of several parallel rows (AltUp) do to them, and learned activations."""

from __future__ import annotations

import math

from numba import float32

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.operands import BLEND, ELEMENTS, PIECE, RESCALE, TRANSFORM, XIELU
from ggq_kernels.run.team import take
from ggq_kernels.vector.functions import xielu as xielu_of
from ggq_kernels.vector.simd import (
    add,
    first_lanes,
    fma,
    load_f32,
    maximum,
    mul,
    read_f32,
    read_f64,
    read_i64,
    splat_f32,
    store_f32,
    store_some,
    subtract,
    total,
)


@op
def xielu(row: int, team: int) -> None:
    """out = xIELU(source)"""
    n, source = read_i64(read_i64(row + XIELU.tokens)), read_i64(row + XIELU.source)
    stride, width = read_i64(row + XIELU.source_stride), read_i64(row + XIELU.width)
    out, out_stride = read_i64(row + XIELU.out), read_i64(row + XIELU.out_stride)
    rise, fall = float32(read_f64(row + XIELU.rise)), float32(read_f64(row + XIELU.fall))
    beta, pieces = float32(read_f64(row + XIELU.beta)), (width + PIECE - 1) // PIECE
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        t, start = job // pieces, job % pieces * PIECE
        x, y = source + t * stride, out + t * out_stride
        for c in range(start * 4, min(start + PIECE, width) * 4, 64):
            store_f32(y + c, xielu_of(load_f32(x + c), rise, fall, beta))


@op
def blend(row: int, team: int) -> None:
    """Parts of a total += sums of parts of a source, in shares of each token; see `BLEND`."""
    n, source = read_i64(read_i64(row + BLEND.tokens)), read_i64(row + BLEND.source)
    source_stride, shares = read_i64(row + BLEND.source_stride), read_i64(row + BLEND.shares)
    shares_stride, out = read_i64(row + BLEND.shares_stride), read_i64(row + BLEND.total)
    out_stride, width = read_i64(row + BLEND.total_stride), read_i64(row + BLEND.width)
    sources, parts = read_i64(row + BLEND.sources), read_i64(row + BLEND.parts)
    base = float32(read_f64(row + BLEND.base))
    while True:
        t = take(team, 1)
        if t >= n:
            return
        for k in range(parts):
            y = out + t * out_stride + k * width * 4
            for i in range(sources):
                x, share = source + t * source_stride + i * width * 4, base
                if shares != 0:
                    share += read_f32(shares + t * shares_stride + 4 * (k * sources + i))
                factor = splat_f32(share)
                for c in range(0, width, 16):
                    store_some(y + 4 * c, fma(load_f32(x + 4 * c), factor, load_f32(y + 4 * c)), width - c)


@inlined
def mean_square(x: int, width: int) -> float:
    """The mean of the squares of `width` numbers at an address; NaN where it is not finite."""
    squares = splat_f32(0.0)
    for c in range(0, width, 16):
        v = first_lanes(load_f32(x + c * 4), width - c)
        squares = fma(v, v, squares)
    found = total(squares) / width
    return found + (found - found)


@op
def rescale(row: int, team: int) -> None:
    """A row gets the size of another one; see `RESCALE`."""
    n, buffer = read_i64(read_i64(row + RESCALE.tokens)), read_i64(row + RESCALE.buffer)
    stride, width = read_i64(row + RESCALE.stride), read_i64(row + RESCALE.width)
    like, like_stride = read_i64(row + RESCALE.like), read_i64(row + RESCALE.like_stride)
    like_width, least = read_i64(row + RESCALE.like_width), read_f64(row + RESCALE.least)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x, own = buffer + t * stride, mean_square(buffer + t * stride, width)
        size = mean_square(like + t * like_stride, like_width)
        if own < least:
            own = least
        factor = splat_f32(float32(math.sqrt(size / own)))
        for c in range(0, width * 4, 64):
            store_f32(x + c, mul(load_f32(x + c), factor))


@op
def gaussian_top_k(row: int, team: int) -> None:
    """buffer = max(buffer - mean - scale * standard deviation, 0)"""
    n, buffer = read_i64(read_i64(row + ELEMENTS.tokens)), read_i64(row + ELEMENTS.source)
    stride, width = read_i64(row + ELEMENTS.source_stride), read_i64(row + ELEMENTS.width)
    deviations = read_f64(row + ELEMENTS.scale)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x, sums = buffer + t * stride, splat_f32(0.0)
        for c in range(0, width, 16):
            sums = add(sums, first_lanes(load_f32(x + c * 4), width - c))
        mean = total(sums) / width
        centre, squares = splat_f32(float32(mean)), splat_f32(0.0)
        for c in range(0, width, 16):
            v = first_lanes(subtract(load_f32(x + c * 4), centre), width - c)
            squares = fma(v, v, squares)
        bound = mean + deviations * math.sqrt(total(squares) / width)
        bound += bound - bound  # NaN where it is not finite: the comparison below would lose it
        low, zero = splat_f32(float32(bound)), splat_f32(0.0)
        lost = mul(low, zero)
        for c in range(0, width, 16):
            v = add(maximum(subtract(load_f32(x + c * 4), low), zero), lost)
            store_f32(x + c * 4, first_lanes(v, width - c))


@op
def scale_columns(row: int, team: int) -> None:
    """buffer *= factors"""
    n, buffer = read_i64(read_i64(row + TRANSFORM.tokens)), read_i64(row + TRANSFORM.source)
    stride, width = read_i64(row + TRANSFORM.source_stride), read_i64(row + TRANSFORM.width)
    factors = read_i64(row + TRANSFORM.factors)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x = buffer + t * stride
        for c in range(0, width * 4, 64):
            store_f32(x + c, mul(load_f32(x + c), load_f32(factors + c)))
