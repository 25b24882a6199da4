"""Attention over a paged key-value cache: register tiles for both products, softmax by pages in one pass.

A page holds PAGE positions of one sequence, for every layer and key-value head: keys in tiles of 16 positions with
the position as the lane, (PAGE / 16, dim, 16), so that scores need no horizontal sum; values by rows, (PAGE, dim
padded to 16). The rows of a register tile are pairs of a token and a query head that share a key-value head, so a
long prompt and one token with grouped heads are the same case, and each loaded key serves the whole tile. Pages that no
window of a tile's tokens reaches are not touched: their addresses may be 0. A token sees up to its own position and,
where it is asked for, some behind it, up to the end of its run.

Error bound: products and sums are float32 over dim and over positions; exp2 is within 3e-7; a total is rescaled once
a page. A NaN or an infinity in a query, a key, a value that is seen or a sink never gives a finite result.
"""

from __future__ import annotations

from typing import Any

from numba import float32

from ggq_kernels.attend.operands import ATTENTION, EVERY, PAGE, RUN, RUN_BYTES, STORE
from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.vector.functions import LOG2_E, exp2_minus, tanh
from ggq_kernels.vector.isa import (
    FLOAT_ROWS,
    VALUES,
    load_value,
    scatter_values,
    store_values,
    value_bytes,
    write_value,
)
from ggq_kernels.vector.simd import (
    Tag,
    add,
    largest,
    load_f32,
    mask_between,
    maximum,
    mul,
    read_f32,
    read_f64,
    read_i64,
    splat_f32,
    store_f32,
    store_some,
    total,
    write_f32,
)
from ggq_kernels.vector.tiles import tile_add, tile_outer, tile_store, tile_zeros

ROWS = Tag("tokens", FLOAT_ROWS)


@inlined
def key_bytes(kind: Any, dim: int) -> int:
    """Bytes of one head's keys in a page."""
    return PAGE * dim * value_bytes(kind)


@inlined
def head_bytes(kind: Any, dim: int) -> int:
    """Bytes of one head's keys and values in a page."""
    return key_bytes(kind, dim) + PAGE * ((dim + 15) // 16 * 16) * value_bytes(kind)


@inlined
def store_rows(kind: Any, row: int, team: int) -> None:
    """Append keys and values of the batch to the cache."""
    n, keys, values = read_i64(read_i64(row + STORE.tokens)), read_i64(row + STORE.keys), read_i64(row + STORE.values)
    stride, heads, dim = read_i64(row + STORE.stride), read_i64(row + STORE.kv_heads), read_i64(row + STORE.dim)
    positions, tables = read_i64(row + STORE.positions), read_i64(row + STORE.tables)
    layer = read_i64(row + STORE.layer_offset)
    step, wide = value_bytes(kind), (dim + 15) // 16 * 16
    while True:
        t = take(team, 1)
        if t >= n:
            return
        position = read_i64(positions + 8 * t)
        page = read_i64(read_i64(tables + 8 * t) + position // PAGE * 8) + layer
        place = position % PAGE
        for h in range(heads):
            base = page + h * head_bytes(kind, dim)
            key = base + (place // 16 * dim * 16 + place % 16) * step
            value = base + key_bytes(kind, dim) + place * wide * step
            source = t * stride + h * dim * 4
            for d in range(0, dim, 16):
                if d + 16 <= dim:
                    scatter_values(kind, key + d * 16 * step, 16 * step, load_f32(keys + source + d * 4))
                    store_values(kind, value + d * step, load_f32(values + source + d * 4))
                else:
                    for i in range(d, dim):
                        write_value(kind, key + i * 16 * step, read_f32(keys + source + i * 4))
                        write_value(kind, value + i * step, read_f32(values + source + i * 4))


@inlined
def gather_queries(row: int, first_pair: int, pairs: int, share: int, kv: int, queries: int) -> None:
    """Scaled queries of a tile, (dim, ROWS); missing pairs are zero."""
    dim, stride, scale = (
        read_i64(row + ATTENTION.dim),
        read_i64(row + ATTENTION.query_stride),
        float32(read_f64(read_i64(row + ATTENTION.scale))),
    )
    source = read_i64(row + ATTENTION.query)
    for m in range(FLOAT_ROWS):
        pair = first_pair + m
        head = source + pair // share * stride + (kv * share + pair % share) * dim * 4
        for d in range(dim):
            x = read_f32(head + d * 4) * scale if m < pairs else float32(0.0)
            write_f32(queries + (d * FLOAT_ROWS + m) * 4, x)


@inlined
def page_scores(kind: Any, keys: int, count: int, dim: int, queries: int, scores: int) -> None:
    """scores[m, p] = query m . key p for the first `count` positions of a page, in whole tiles of 16."""
    step = 16 * value_bytes(kind)
    for p in range(0, count, 16):
        acc, key = tile_zeros(ROWS), keys + p * dim * value_bytes(kind)
        for d in range(dim):
            acc = tile_outer(acc, load_value(kind, key), queries + d * FLOAT_ROWS * 4, 4)
            key += step
        tile_store(scores + p * 4, PAGE * 4, acc)


@inlined
def cap_scores(scores: int, count: int, rows: int, cap: float) -> None:
    """scores = cap * tanh(scores / cap) of the rows of a page; not finite where they were not."""
    most, factor = splat_f32(cap), splat_f32(float32(1.0) / cap)
    for m in range(rows):
        for p in range(0, count, 16):
            at = scores + (m * PAGE + p) * 4
            store_f32(at, mul(tanh(mul(load_f32(at), factor)), most))


@inlined
def page_softmax(scores: int, count: int, first: int, limit: int, sums: int, wide: int, state: int) -> None:
    """Turn one row of scores into weights 2**(score - peak), rescaling what earlier pages gave; state holds peak and
    total. Positions from `first` to `limit` - 1 of the page are seen."""
    if first >= count:  # the window begins behind this page: the row is here for others of its tile
        for p in range(0, count, 16):
            store_f32(scores + p * 4, splat_f32(0.0))
        return
    old = read_f32(state)
    top = splat_f32(old)
    if first <= 0 and limit >= PAGE:
        for p in range(0, PAGE, 16):
            top = maximum(top, load_f32(scores + p * 4))
    else:
        for p in range(0, count, 16):
            v = mask_between(load_f32(scores + p * 4), p, first, limit, -1e30)
            store_f32(scores + p * 4, v)
            top = maximum(top, v)
    new, s = largest(top), splat_f32(0.0)
    for p in range(0, count, 16):
        e = exp2_minus(load_f32(scores + p * 4), new)
        store_f32(scores + p * 4, e)
        s = add(s, e)
    for p in range(0, first, 16):  # not 2**-126, whose products with values are too small to be normal, and slow
        store_f32(scores + p * 4, mask_between(load_f32(scores + p * 4), p, first, PAGE, 0.0))
    fix = float32(0.0)
    if old > -1e29:
        fix = largest(exp2_minus(splat_f32(old), new))
    write_f32(state, new)
    write_f32(state + 4, read_f32(state + 4) * fix + total(s))
    if fix != 1.0:
        for d in range(0, wide * 4, 64):
            store_f32(sums + d, mul(load_f32(sums + d), splat_f32(fix)))


@inlined
def begin(row: int, head: int, share: int, first: int, state: int) -> None:
    """Peak and total of each row of a tile before its first page: nothing, or a sink alone."""
    sinks = read_i64(row + ATTENTION.sinks)
    for m in range(FLOAT_ROWS):
        peak, weight = float32(-1e30), float32(0.0)
        if sinks != 0:
            peak = read_f32(sinks + (head + (first + m) % share) * 4) * float32(LOG2_E)
            weight = float32(1.0) + (peak - peak)  # NaN where the sink is not finite
        write_f32(state + 8 * m, peak)
        write_f32(state + 8 * m + 4, weight)


@inlined
def page_values(kind: Any, values: int, count: int, wide: int, scores: int, sums: int) -> None:
    """sums[m] += sum over positions of weight[m, p] * value[p]"""
    for d in range(0, wide, 16):
        acc, value = tile_zeros(ROWS), values + d * value_bytes(kind)
        for p in range(count):
            acc = tile_outer(acc, load_value(kind, value), scores + p * 4, PAGE * 4)
            value += wide * value_bytes(kind)
        tile_add(sums + d * 4, wide * 4, acc)


@inlined
def attend(kind: Any, row: int, run: int, job: int, scratch: int) -> None:
    """One tile of pairs of one run and key-value head, the last tokens first, since they take longest."""
    heads, kv_heads, dim = (
        read_i64(row + ATTENTION.heads),
        read_i64(row + ATTENTION.kv_heads),
        read_i64(row + ATTENTION.dim),
    )
    share, wide = heads // kv_heads, (dim + 15) // 16 * 16
    tokens, start, table = read_i64(run + RUN.tokens), read_i64(run + RUN.start), read_i64(run + RUN.table)
    kv, tiles = job % kv_heads, (tokens * share + FLOAT_ROWS - 1) // FLOAT_ROWS
    first = (tiles - 1 - job // kv_heads) * FLOAT_ROWS
    pairs = min(FLOAT_ROWS, tokens * share - first)
    queries, scores = scratch, scratch + FLOAT_ROWS * dim * 4
    sums = scores + FLOAT_ROWS * PAGE * 4
    state = sums + FLOAT_ROWS * wide * 4
    base = read_i64(run + RUN.first) * share
    gather_queries(row, base + first, pairs, share, kv, queries)
    begin(row, kv * share, share, first, state)
    for d in range(0, FLOAT_ROWS * wide * 4, 64):
        store_f32(sums + d, splat_f32(0.0))
    window, cap = read_i64(row + ATTENTION.window), float32(read_f64(row + ATTENTION.softcap))
    ahead, whole = read_i64(row + ATTENTION.ahead), start + tokens
    end, seen = min(whole, start + (first + pairs - 1) // share + 1 + ahead), 0
    if window > 0:
        seen = max(0, start + first // share + 1 - window)
    else:
        window = EVERY
    for p in range(seen // PAGE * PAGE, end, PAGE):
        count = min(PAGE, end - p)
        page = read_i64(table + p // PAGE * 8) + read_i64(row + ATTENTION.layer_offset) + kv * head_bytes(kind, dim)
        page_scores(kind, page, count, dim, queries, scores)
        if cap != 0.0:
            cap_scores(scores, count, pairs, cap)
        for m in range(pairs):  # missing pairs' scores stay 0
            behind = start + (first + m) // share + 1
            lowest, limit = behind - window - p, min(whole, behind + ahead) - p
            page_softmax(scores + m * PAGE * 4, count, lowest, limit, sums + m * wide * 4, wide, state + 8 * m)
        page_values(kind, page + key_bytes(kind, dim), count, wide, scores, sums)
    out, stride = read_i64(row + ATTENTION.out), read_i64(row + ATTENTION.out_stride)
    for m in range(pairs):
        pair = base + first + m
        target = out + pair // share * stride + (kv * share + pair % share) * dim * 4
        factor = splat_f32(float32(1.0) / read_f32(state + 8 * m + 4))
        for d in range(0, dim, 16):
            store_some(target + d * 4, mul(load_f32(sums + (m * wide + d) * 4), factor), dim - d)


@inlined
def attend_all(kind: Any, row: int, team: int) -> None:
    """Take tiles of all runs of the batch until none is left."""
    count, runs = read_i64(read_i64(row + ATTENTION.run_count)), read_i64(row + ATTENTION.runs)
    kv_heads, dim = read_i64(row + ATTENTION.kv_heads), read_i64(row + ATTENTION.dim)
    share, wide = read_i64(row + ATTENTION.heads) // kv_heads, (dim + 15) // 16 * 16
    last = runs + (count - 1) * RUN_BYTES
    jobs = read_i64(last + RUN.jobs) + (read_i64(last + RUN.tokens) * share + FLOAT_ROWS - 1) // FLOAT_ROWS * kv_heads
    scratch = allocate(4 * FLOAT_ROWS * (dim + PAGE + wide + 2))
    while True:
        job = take(team, 1)
        if job >= jobs:
            release(scratch)
            return
        run = runs
        while run < last and job >= read_i64(run + RUN_BYTES + RUN.jobs):
            run += RUN_BYTES
        attend(kind, row, run, job - read_i64(run + RUN.jobs), scratch)


F16, F32 = VALUES["f16"], VALUES["f32"]


@op
def store_kv_f16(row: int, team: int) -> None:
    """Keys and values into a float16 cache."""
    store_rows(F16, row, team)


@op
def store_kv_f32(row: int, team: int) -> None:
    """Keys and values into a float32 cache."""
    store_rows(F32, row, team)


@op
def attention_f16(row: int, team: int) -> None:
    """Attention over a float16 cache."""
    attend_all(F16, row, team)


@op
def attention_f32(row: int, team: int) -> None:
    """Attention over a float32 cache."""
    attend_all(F32, row, team)
