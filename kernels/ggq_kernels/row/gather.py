"""Rows moved as they are: those that are wanted, and columns in another order."""

from __future__ import annotations

from numba import int64

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.operands import COPY, SELECT, TRANSFORM
from ggq_kernels.run.team import take
from ggq_kernels.vector.simd import load_f32, read_f32, read_i32, read_i64, splat_f32, store_f32, write_f32


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


@op
def transform(row: int, team: int) -> None:
    """Rows with their columns in another order and times a factor each."""
    n, source = read_i64(read_i64(row + TRANSFORM.tokens)), read_i64(row + TRANSFORM.source)
    stride, width = read_i64(row + TRANSFORM.source_stride), read_i64(row + TRANSFORM.width)
    out, out_stride = read_i64(row + TRANSFORM.out), read_i64(row + TRANSFORM.out_stride)
    order, factors = read_i64(row + TRANSFORM.order), read_i64(row + TRANSFORM.factors)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        transform_columns(source + t * stride, order, factors, 0, width, out + t * out_stride)


@op
def columns(row: int, team: int) -> None:
    """out[i, c] = source[i, c]; what lies behind the last column of out stays."""
    n, source = read_i64(read_i64(row + SELECT.tokens)), read_i64(row + SELECT.source)
    stride, width = read_i64(row + SELECT.source_stride), read_i64(row + SELECT.width)
    out, out_stride = read_i64(row + SELECT.out), read_i64(row + SELECT.out_stride)
    whole = width // 16 * 64
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x, y = source + t * stride, out + t * out_stride
        for c in range(0, whole, 64):
            store_f32(y + c, load_f32(x + c))
        for c in range(whole, width * 4, 4):
            write_f32(y + c, read_f32(x + c))


@op
def copy(row: int, team: int) -> None:
    """Parts of the heads of source into out, the rest of which becomes 0 or stays; see `COPY`."""
    n, source = read_i64(read_i64(row + COPY.tokens)), read_i64(row + COPY.source)
    stride, heads, width = read_i64(row + COPY.source_stride), read_i64(row + COPY.heads), read_i64(row + COPY.width)
    out, out_stride, columns = read_i64(row + COPY.out), read_i64(row + COPY.out_stride), read_i64(row + COPY.columns)
    source_start, source_step = read_i64(row + COPY.source_start), read_i64(row + COPY.source_step)
    start, step, keep = read_i64(row + COPY.start), read_i64(row + COPY.step), read_i64(row + COPY.keep)
    whole = width // 16 * 16
    while True:
        t = take(team, 1)
        if t >= n:
            return
        y = out + t * out_stride
        if keep == 0:
            for c in range(0, columns * 4, 64):
                store_f32(y + c, splat_f32(0.0))
        for h in range(heads):
            a, b = source + t * stride + 4 * (source_start + h * source_step), y + 4 * (start + h * step)
            for c in range(0, whole * 4, 64):
                store_f32(b + c, load_f32(a + c))
            for c in range(whole * 4, width * 4, 4):
                write_f32(b + c, read_f32(a + c))


@op
def select(row: int, team: int) -> None:
    """out[i] = source[rows[i]]"""
    n, source = read_i64(read_i64(row + SELECT.tokens)), read_i64(row + SELECT.source)
    stride, width = read_i64(row + SELECT.source_stride), read_i64(row + SELECT.width)
    out, out_stride, rows = read_i64(row + SELECT.out), read_i64(row + SELECT.out_stride), read_i64(row + SELECT.rows)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        x = source + read_i64(rows + 8 * t) * stride
        for c in range(0, width * 4, 64):
            store_f32(out + t * out_stride + c, load_f32(x + c))
