"""Linear attention in chunks of tokens, as products of matrices: what a prompt goes through.

With the state S before a chunk, a_t what is left of a state at token t, G_t = a_1 * ... * a_t, R_ti = G_t / G_i, and
u_t what token t writes:

    u = rate * (value - G key S) - A u,   A_ti = rate_t R_ti (key_t . key_i) for i < t    (a scan: u = rate * value)
    out = G query S + P u,                P_ti = R_ti (query_t . key_i) for i <= t
    S = G_last S + sum over i of R_last,i key_i^T u_i

The triangular system is solved by blocks of rows from the first token on, which takes as many operations as a product
with its inverse (the UT transform) would. R is a running product, never a difference of sums of logarithms: each
factor is at most 1, and its relative error is that of at most CHUNK roundings.

Source: S. Yang et al., Parallelizing Linear Transformers with the Delta Rule over Sequence Length (2024) and Gated
Delta Networks (2024); T. Dao, A. Gu, Transformers are SSMs (2024), for the scan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ggq_kernels.code.compiled import inlined
from ggq_kernels.scan.operands import RUN, SCAN
from ggq_kernels.scan.tokens import gather, keys_of, open_gates
from ggq_kernels.vector.blocks import (
    COLUMN,
    block_load,
    block_lower,
    block_outer,
    block_plus,
    block_rows,
    block_scale,
    block_solve,
    block_store,
    block_vectors,
    block_zeros,
    no_trace,
    transpose_16,
)
from ggq_kernels.vector.isa import COLUMN_ROWS, STATE_BLOCK
from ggq_kernels.vector.simd import (
    first_lanes,
    fma,
    load_f32,
    mul,
    negative,
    read_f32,
    read_i64,
    splat_f32,
    store_f32,
    store_some,
    tag_value,
    write_f32,
)

CHUNK = 32
"""Tokens of a chunk: products between its tokens grow with it, and passes over the state become fewer. A multiple of 16
and of the rows of every block."""
ROW_BYTES = CHUNK * 4
LEAST_TOKENS = 8
"""Tokens of a run from which on it goes in chunks."""
TOGETHER = 4
"""Up to how many heads with the same keys are computed by one thread, so that products of keys are made once for them:
more would leave too few for a team."""
MOST_BLOCK_ROWS = max(STATE_BLOCK[0], COLUMN_ROWS)


class Chunk(NamedTuple):
    """Addresses of what is kept of a chunk, float32; `wide` is the bytes of a query or key, whole vectors.

    Args:
        query, key: (CHUNK, wide), zeros behind the last token.
        turned: Keys (wide, CHUNK).
        met, alike: Products of queries and keys, and of keys and keys, (CHUNK, CHUNK); of these and the next two
            nothing above the diagonal is used.
        read, known: P and -A of a head.
        fade: R of the last token.
        kept, rate, left, minus: a_t, rate_t, G_t and -rate_t * G_t; the last three are zeros behind the last token.
        written: u, (CHUNK, columns of a block).
        out: Results of a block of rows, as many columns.
        end: Where it ends.
    """

    wide: int
    query: int
    key: int
    turned: int
    met: int
    alike: int
    read: int
    known: int
    fade: int
    kept: int
    rate: int
    left: int
    minus: int
    written: int
    out: int
    end: int


@inlined
def chunk_at(scratch: int, dim: int, lanes: int) -> Any:
    """Where the parts of a chunk lie in scratch memory."""
    wide = (dim + 15) // 16 * 64
    query = (scratch + 63) // 64 * 64
    key = query + CHUNK * wide
    turned = key + CHUNK * wide
    met = turned + wide // 4 * ROW_BYTES
    alike, read, known = met + CHUNK * ROW_BYTES, met + 2 * CHUNK * ROW_BYTES, met + 3 * CHUNK * ROW_BYTES
    fade = known + CHUNK * ROW_BYTES
    kept, rate, left, minus = fade + ROW_BYTES, fade + 2 * ROW_BYTES, fade + 3 * ROW_BYTES, fade + 4 * ROW_BYTES
    written = minus + ROW_BYTES
    out = written + CHUNK * lanes * 4
    end = out + MOST_BLOCK_ROWS * lanes * 4
    return Chunk(wide, query, key, turned, met, alike, read, known, fade, kept, rate, left, minus, written, out, end)


@inlined
def chunk_bytes(dim: int, lanes: int) -> int:
    """Bytes of that memory."""
    return chunk_at(0, dim, lanes).end + 64


@inlined
def zero(at: int, size: int) -> None:
    """Set whole vectors to 0."""
    for c in range(0, size, 64):
        store_f32(at + c, splat_f32(0.0))


@inlined
def read_keys(rule: Any, row: int, first: int, count: int, key_head: int, chunk: Any) -> None:
    """Queries and keys of a chunk, and their products: what heads that share keys have in common."""
    dim, mixed, stride = read_i64(row + SCAN.key_dim), read_i64(row + SCAN.mixed), read_i64(row + SCAN.mixed_stride)
    for i in range(CHUNK):
        query, key = chunk.query + i * chunk.wide, chunk.key + i * chunk.wide
        if i < count:
            keys_of(rule, row, mixed + (first + i) * stride, key_head, query, key)
        else:
            zero(query, chunk.wide)
            zero(key, chunk.wide)
    for i in range(0, CHUNK, 16):
        for d in range(0, chunk.wide, 64):
            turned = chunk.turned + d // 4 * ROW_BYTES + i * 4
            transpose_16(chunk.key + i * chunk.wide + d, chunk.wide, turned, ROW_BYTES)
    products(dim, count, chunk.query, chunk, chunk.met)
    if tag_value(rule) == 1:
        products(dim, count, chunk.key, chunk, chunk.alike)


@inlined
def products(dim: int, count: int, rows: int, chunk: Any, out: int) -> None:
    """out[t, i] = (row t of `rows`) . key_i, of the tiles that have an i <= t."""
    height = block_rows(COLUMN)
    for t in range(0, count, height):
        for i in range(0, t + height, 16):
            acc, keys = block_zeros(COLUMN), chunk.turned + 4 * i
            for d in range(dim):
                acc = block_outer(COLUMN, acc, keys + d * ROW_BYTES, rows + t * chunk.wide + 4 * d, chunk.wide)
            block_store(COLUMN, out + t * ROW_BYTES + 4 * i, ROW_BYTES, acc)


@inlined
def read_gates(rule: Any, row: int, first: int, count: int, head: int, chunk: Any) -> None:
    """What each token of a head leaves of the state, what is left of the state before the chunk, and rates."""
    steps, step_stride = read_i64(row + SCAN.step) + 4 * head, read_i64(row + SCAN.step_stride)
    rates, rate_stride = read_i64(row + SCAN.rate) + 4 * head, read_i64(row + SCAN.rate_stride)
    zero(chunk.fade, 5 * ROW_BYTES)
    for i in range(count):
        write_f32(chunk.kept + 4 * i, read_f32(steps + (first + i) * step_stride))
        if tag_value(rule) == 1:
            write_f32(chunk.rate + 4 * i, read_f32(rates + (first + i) * rate_stride))
    for i in range(0, CHUNK, 16):
        open_gates(rule, row, head, chunk.kept + 4 * i, chunk.rate + 4 * i)
        store_f32(chunk.rate + 4 * i, first_lanes(load_f32(chunk.rate + 4 * i), count - i))
    left = splat_f32(1.0)
    for i in range(count):
        left = no_trace(mul(left, splat_f32(read_f32(chunk.kept + 4 * i))))
        store_some(chunk.left + 4 * i, left, 1)
    for i in range(0, ROW_BYTES, 64):
        store_f32(chunk.minus + i, negative(mul(load_f32(chunk.rate + i), load_f32(chunk.left + i))))


@inlined
def between(rule: Any, count: int, chunk: Any) -> None:
    """P and -A of a head, and R of its last token."""
    for t in range(count):
        kept, rate = splat_f32(read_f32(chunk.kept + 4 * t)), splat_f32(-read_f32(chunk.rate + 4 * t))
        for i in range(0, 4 * t, 64):
            store_f32(chunk.fade + i, no_trace(mul(load_f32(chunk.fade + i), kept)))
        write_f32(chunk.fade + 4 * t, 1.0)
        for i in range(0, 4 * t + 4, 64):
            fade, at = load_f32(chunk.fade + i), t * ROW_BYTES + i
            store_f32(chunk.read + at, mul(load_f32(chunk.met + at), fade))
            if tag_value(rule) == 1:
                store_f32(chunk.known + at, mul(load_f32(chunk.alike + at), mul(fade, rate)))


@inlined
def values(row: int, first: int, count: int, head: int, column: int, lanes: int, chunk: Any) -> None:
    """rate * value of each token in a block of columns; zeros behind its last column and the last token."""
    value_dim, mixed = read_i64(row + SCAN.value_dim), read_i64(row + SCAN.mixed) + read_i64(row + SCAN.value)
    width = min(lanes, value_dim - column)
    zero(chunk.written, CHUNK * lanes * 4)
    for i in range(count):
        source, target = mixed + (first + i) * read_i64(row + SCAN.mixed_stride), chunk.written + i * lanes * 4
        gather(source + (head * value_dim + column) * 4, width, target)
        rate = splat_f32(read_f32(chunk.rate + 4 * i))
        for c in range(0, width * 4, 64):
            store_f32(target + c, mul(load_f32(target + c), rate))


@inlined
def tokens_of_block(rule: Any, block: Any, dim: int, lanes: int, t: int, state: int, chunk: Any) -> None:
    """What a block of rows of tokens from `t` on writes, and its results."""
    wide, line = chunk.wide, lanes * 4
    read, known = chunk.read + t * ROW_BYTES, chunk.known + t * ROW_BYTES
    for c in range(0, line, 64 * block_vectors(block)):
        written = chunk.written + c
        if tag_value(rule) == 1:
            acc = block_zeros(block)
            for d in range(dim):
                acc = block_outer(block, acc, state + d * line + c, chunk.key + t * wide + 4 * d, wide)
            acc = block_scale(block, acc, chunk.minus + 4 * t, 4)
            acc = block_plus(block, acc, written + t * line, line)
            for i in range(t):
                acc = block_outer(block, acc, written + i * line, known + 4 * i, ROW_BYTES)
            block_store(block, written + t * line, line, block_solve(block, acc, known + 4 * t, ROW_BYTES))
        acc = block_zeros(block)
        for d in range(dim):
            acc = block_outer(block, acc, state + d * line + c, chunk.query + t * wide + 4 * d, wide)
        acc = block_scale(block, acc, chunk.left + 4 * t, 4)
        for i in range(t):
            acc = block_outer(block, acc, written + i * line, read + 4 * i, ROW_BYTES)
        acc = block_lower(block, acc, written + t * line, line, read + 4 * t, ROW_BYTES)
        block_store(block, chunk.out + c, line, acc)


@inlined
def results(rule: Any, row: int, first: int, count: int, head: int, column: int, lanes: int, out: int) -> None:
    """Write results of `count` tokens, and in a scan what is added of their values."""
    value_dim, skips = read_i64(row + SCAN.value_dim), read_i64(row + SCAN.skip)
    width, place = min(lanes, value_dim - column), (head * value_dim + column) * 4
    for i in range(count):
        target = read_i64(row + SCAN.out) + (first + i) * read_i64(row + SCAN.out_stride) + place
        x = read_i64(row + SCAN.mixed) + (first + i) * read_i64(row + SCAN.mixed_stride)
        x += read_i64(row + SCAN.value) + place
        for c in range(0, width, 16):
            y = load_f32(out + (i * lanes + c) * 4)
            if tag_value(rule) == 0:
                y = fma(load_f32(x + c * 4), splat_f32(read_f32(skips + head * 4)), y)
            store_some(target + c * 4, y, width - c)


@inlined
def carry(block: Any, dim: int, count: int, lanes: int, d: int, source: int, target: int, chunk: Any) -> None:
    """Rows of the state from `d` on behind the chunk; `written` holds R of the last token times u."""
    line = lanes * 4
    for c in range(0, line, 64 * block_vectors(block)):
        acc = block_scale(block, block_load(block, source + d * line + c, line), chunk.left + 4 * (count - 1), 0)
        for i in range(count):
            acc = block_outer(block, acc, chunk.written + i * line + c, chunk.key + i * chunk.wide + 4 * d, 4)
        block_store(block, target + d * line + c, line, acc)


@inlined
def chunk_of_block(
    rule: Any, block: Any, one: Any, row: int, first: int, count: int, head: int, column: int, lanes: int, source: int,
    target: int, chunk: Any,
) -> None:  # fmt: skip
    """One chunk in a block of columns of one head: results, and the state from `source` to `target`."""
    dim, line, height = read_i64(row + SCAN.key_dim), lanes * 4, block_rows(block)
    values(row, first, count, head, column, lanes, chunk)
    for t in range(0, count, height):
        tokens_of_block(rule, block, dim, lanes, t, source, chunk)
        results(rule, row, first + t, min(height, count - t), head, column, lanes, chunk.out)
    for i in range(count):
        fade = splat_f32(read_f32(chunk.fade + 4 * i))
        for c in range(0, line, 64):
            at = chunk.written + i * line + c
            store_f32(at, mul(load_f32(at), fade))
    for d in range(0, dim - height + 1, height):
        carry(block, dim, count, lanes, d, source, target, chunk)
    for d in range(dim // height * height, dim):
        carry(one, dim, count, lanes, d, source, target, chunk)


@inlined
def chunks_of_run(
    rule: Any, block: Any, one: Any, row: int, run: int, head: int, heads: int, lanes: int, scratch: int
) -> None:
    """All tokens of a run in `heads` heads from `head` on, which share their keys."""
    dim, value_dim = read_i64(row + SCAN.key_dim), read_i64(row + SCAN.value_dim)
    chunk, blocks = chunk_at(scratch, dim, lanes), (value_dim + lanes - 1) // lanes
    size, key_head = dim * lanes * 4, head * read_i64(row + SCAN.key_heads) // read_i64(row + SCAN.heads)
    before = read_i64(row + SCAN.offset) + head * blocks * size
    source, target = read_i64(run + RUN.source), read_i64(run + RUN.target) + before
    if source == 0:
        source = target
        zero(target, heads * blocks * size)
    else:
        source += before
    first, tokens = read_i64(run + RUN.first), read_i64(run + RUN.tokens)
    for t in range(0, tokens, CHUNK):
        count = min(CHUNK, tokens - t)
        read_keys(rule, row, first + t, count, key_head, chunk)
        for part in range(heads * blocks):
            h, at = head + part // blocks, part * size
            if part % blocks == 0:
                read_gates(rule, row, first + t, count, h, chunk)
                between(rule, count, chunk)
            column = part % blocks * lanes
            chunk_of_block(rule, block, one, row, first + t, count, h, column, lanes, source + at, target + at, chunk)
        source = target
