"""Short causal convolutions of channels: what comes before the first token of a run is the state of its sequence.

Error bound: the sum of `reach` products and the bias is float32, fused where the target can; gates and activation are
each rounded once more. A token's result is the same whatever run it is computed in.
"""

from __future__ import annotations

from typing import Any

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.run.team import allocate, release, take
from ggq_kernels.scan.operands import CONV, RUN, RUN_BYTES
from ggq_kernels.vector.functions import SILU, activated
from ggq_kernels.vector.simd import Tag, fma, load_f32, mul, read_i64, splat_f32, store_f32, tag_value

PLAIN, WITH_SILU = Tag("silu", 0), Tag("silu", 1)

PIECE = 128
"""Channels that one thread takes at a time, token by token: 512 bytes of a row."""


@inlined
def begin(state: int, wide: int, reach: int, c: int, queue: int) -> None:
    """The state's inputs of 16 channels into their queue, oldest first; zeros without a state."""
    for j in range(reach - 1):
        x = splat_f32(0.0)
        if state != 0:
            x = load_f32(state + (j * wide + c) * 4)
        store_f32(queue + 64 * j, x)


@inlined
def summed(x: Any, reach: int, queue: int, taps: int, step: int, start: Any) -> Any:
    """The sum with one input more, which the queue takes in for its oldest."""
    for j in range(reach - 1):
        known = load_f32(queue + 64 * j)
        start = fma(known, load_f32(taps + j * step), start)
        if j > 0:
            store_f32(queue + 64 * (j - 1), known)
    if reach > 1:
        store_f32(queue + 64 * (reach - 2), x)
    return fma(x, load_f32(taps + (reach - 1) * step), start)


@inlined
def channels(form: Any, row: int, run: int, start: int, stop: int, queues: int) -> None:
    """The channels from `start` to before `stop` of all tokens of a run."""
    width, reach, first = read_i64(row + CONV.width), read_i64(row + CONV.reach), read_i64(run + RUN.first)
    wide, taps, bias = (width + 15) // 16 * 16, read_i64(row + CONV.taps), read_i64(row + CONV.bias)
    source, stride = read_i64(row + CONV.source), read_i64(row + CONV.source_stride)
    before, before_stride = read_i64(row + CONV.before), read_i64(row + CONV.before_stride)
    after, after_stride = read_i64(row + CONV.after), read_i64(row + CONV.after_stride)
    out, out_stride, offset = read_i64(row + CONV.out), read_i64(row + CONV.out_stride), read_i64(row + CONV.offset)
    state, target = read_i64(run + RUN.source), read_i64(run + RUN.target) + offset
    if state != 0:
        state += offset
    size = 64 * reach
    for c in range(start, stop, 16):
        begin(state, wide, reach, c, queues + (c - start) // 16 * size)
    for t in range(first, first + read_i64(run + RUN.tokens)):
        for c in range(start, stop, 16):
            at = c * 4
            x = load_f32(source + t * stride + at)
            if before != 0:
                x = mul(x, load_f32(before + t * before_stride + at))
            total = splat_f32(0.0)
            if bias != 0:
                total = load_f32(bias + at)
            total = summed(x, reach, queues + (c - start) // 16 * size, taps + at, width * 4, total)
            if tag_value(form) == 1:
                total = activated(SILU, total)
            if after != 0:
                total = mul(total, load_f32(after + t * after_stride + at))
            store_f32(out + t * out_stride + at, total)
    for c in range(start, stop, 16):
        for j in range(reach - 1):
            store_f32(target + (j * wide + c) * 4, load_f32(queues + (c - start) // 16 * size + 64 * j))


@inlined
def convolve(form: Any, row: int, team: int) -> None:
    """Take pieces of channels of all runs until none is left."""
    runs, width = read_i64(row + CONV.runs), read_i64(row + CONV.width)
    pieces, queues = (width + PIECE - 1) // PIECE, allocate(4 * PIECE * read_i64(row + CONV.reach))
    jobs = read_i64(read_i64(row + CONV.run_count)) * pieces
    while True:
        job = take(team, 1)
        if job >= jobs:
            release(queues)
            return
        start = job % pieces * PIECE
        channels(form, row, runs + job // pieces * RUN_BYTES, start, min(start + PIECE, width), queues)


@op
def conv(row: int, team: int) -> None:
    """out = after * (bias + taps over before * source)"""
    convolve(PLAIN, row, team)


@op
def conv_silu(row: int, team: int) -> None:
    """out = after * silu(bias + taps over before * source)"""
    convolve(WITH_SILU, row, team)
