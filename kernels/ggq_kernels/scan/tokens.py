"""Linear attention token by token: what a single token or a few go through.

Columns of a state do not depend on each other, so that a block stays in the first-level cache (128 keys of 64 columns
take 32 KB) while all tokens of a run go through it one by one: each reads it twice and writes it once.

With m = key @ S and o = query @ S of the state S before a token: written = rate * (value - left * m), or rate * value
in a scan; out = left * o + (query . key) * written; S = left * S + key^T written.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32

from ggq_kernels.code.compiled import inlined
from ggq_kernels.scan.operands import RUN, SCAN
from ggq_kernels.vector.functions import exp2_minus, sigmoid, softplus
from ggq_kernels.vector.simd import (
    add,
    first_lanes,
    fma,
    load_f32,
    maximum,
    minimum,
    mul,
    read_f32,
    read_f64,
    read_i64,
    splat_f32,
    store_f32,
    store_some,
    tag_value,
    total,
)
from ggq_kernels.vector.tiles import tile_fma, tile_load, tile_mul, tile_plus, tile_store, tile_zeros

LEAST = 1e-6
"""Added to the square of the length that queries and keys are divided by."""


@inlined
def gather(source: int, width: int, out: int) -> float:
    """Copy `width` numbers and zeros up to whole vectors; the sum of their squares."""
    squares = splat_f32(0.0)
    for c in range(0, width, 16):
        v = first_lanes(load_f32(source + c * 4), width - c)
        squares = fma(v, v, squares)
        store_f32(out + c * 4, v)
    return total(squares)


@inlined
def scale(x: int, width: int, factor: float) -> None:
    """Multiply numbers in whole vectors."""
    by = splat_f32(factor)
    for c in range(0, width * 4, 64):
        store_f32(x + c, mul(load_f32(x + c), by))


@inlined
def keys_of(rule: Any, row: int, token: int, head: int, query: int, key: int) -> float:
    """Query and key of a head of a token; their product."""
    dim, mixed = read_i64(row + SCAN.key_dim), token + head * read_i64(row + SCAN.key_dim) * 4
    queries = gather(mixed + read_i64(row + SCAN.query), dim, query)
    keys = gather(mixed + read_i64(row + SCAN.key), dim, key)
    if tag_value(rule) == 1:
        scale(query, dim, float32(1.0 / math.sqrt((queries + LEAST) * dim)) + (queries - queries))
        scale(key, dim, float32(1.0 / math.sqrt(keys + LEAST)) + (keys - keys))
    product = splat_f32(0.0)
    for c in range(0, dim * 4, 64):
        product = fma(load_f32(query + c), load_f32(key + c), product)
    return total(product)


@inlined
def step(rule: Any, row: int, t: int, head: int, found: int) -> None:
    """What is left of the state, and the rate at which is written, 16 copies each."""
    store_f32(found, splat_f32(read_f32(read_i64(row + SCAN.step) + t * read_i64(row + SCAN.step_stride) + head * 4)))
    if tag_value(rule) == 1:
        rate = read_i64(row + SCAN.rate) + t * read_i64(row + SCAN.rate_stride) + head * 4
        store_f32(found + 64, splat_f32(read_f32(rate)))
    open_gates(rule, row, head, found, found + 64)


@inlined
def open_gates(rule: Any, row: int, head: int, steps: int, rates: int) -> None:
    """Make of 16 steps what is left of the state behind them, and of what lies at `rates` the rates of writing."""
    open_ = softplus(add(load_f32(steps), splat_f32(read_f32(read_i64(row + SCAN.shift) + head * 4))))
    if tag_value(rule) == 1:
        store_f32(rates, sigmoid(load_f32(rates)))
    else:  # what is compared comes second: a NaN stays
        open_ = maximum(splat_f32(float32(read_f64(row + SCAN.least))), open_)
        open_ = minimum(splat_f32(float32(read_f64(row + SCAN.most))), open_)
        store_f32(rates, open_)
    store_f32(steps, exp2_minus(mul(open_, splat_f32(read_f32(read_i64(row + SCAN.speed) + head * 4))), 0.0))


@inlined
def update(
    rule: Any, size: Any, row: int, source: int, target: int, product: float, value: int, query: int, key: int, two: int
) -> None:
    """One token in a block: the state's numbers from `source` to `target`, `value` becomes the result."""
    dim, width = read_i64(row + SCAN.key_dim), tag_value(size) * 64
    known, seen = tile_zeros(size), tile_zeros(size)
    for d in range(dim):
        s = tile_load(size, source + d * width, 64)
        seen = tile_fma(seen, s, splat_f32(read_f32(query + 4 * d)))
        if tag_value(rule) == 1:
            known = tile_fma(known, s, splat_f32(read_f32(key + 4 * d)))
    left, rate = load_f32(two), load_f32(two + 64)
    written = tile_load(size, value, 64)
    if tag_value(rule) == 1:
        written = tile_plus(written, tile_mul(known, mul(left, splat_f32(-1.0))))
    written = tile_mul(written, rate)
    tile_store(value, 64, tile_fma(tile_mul(seen, left), written, splat_f32(product)))
    for d in range(dim):
        s = tile_mul(tile_load(size, source + d * width, 64), left)
        tile_store(target + d * width, 64, tile_fma(s, written, splat_f32(read_f32(key + 4 * d))))


@inlined
def block_of_run(rule: Any, size: Any, row: int, run: int, head: int, block: int, scratch: int) -> None:
    """All tokens of a run in one block of columns of one head."""
    dim, value_dim, lanes = read_i64(row + SCAN.key_dim), read_i64(row + SCAN.value_dim), tag_value(size) * 16
    share, blocks = read_i64(row + SCAN.heads) // read_i64(row + SCAN.key_heads), (value_dim + lanes - 1) // lanes
    before = read_i64(row + SCAN.offset) + (head * blocks + block) * dim * lanes * 4
    source, target = read_i64(run + RUN.source), read_i64(run + RUN.target) + before
    if source == 0:
        source = target
        for c in range(0, dim * lanes * 4, 64):
            store_f32(target + c, splat_f32(0.0))
    else:
        source += before
    wide = (dim + 15) // 16 * 64
    query, key, value = scratch + 128, scratch + 128 + wide, scratch + 128 + 2 * wide
    mixed, stride = read_i64(row + SCAN.mixed), read_i64(row + SCAN.mixed_stride)
    column = head * value_dim + block * lanes
    left = min(lanes, value_dim - block * lanes)
    skips = read_i64(row + SCAN.skip)
    first = read_i64(run + RUN.first)
    for t in range(first, first + read_i64(run + RUN.tokens)):
        token = mixed + t * stride
        product = keys_of(rule, row, token, head // share, query, key)
        step(rule, row, t, head, scratch)
        x = token + read_i64(row + SCAN.value) + column * 4
        gather(x, left, value)
        for c in range((left + 15) // 16 * 16, lanes, 16):
            store_f32(value + c * 4, splat_f32(0.0))
        update(rule, size, row, source, target, product, value, query, key, scratch)
        source = target
        out = read_i64(row + SCAN.out) + t * read_i64(row + SCAN.out_stride) + column * 4
        for c in range(0, left, 16):
            y = load_f32(value + c * 4)
            if tag_value(rule) == 0:
                y = fma(load_f32(x + c * 4), splat_f32(read_f32(skips + head * 4)), y)
            store_some(out + c * 4, y, left - c)
