"""Rows that go through experts: which each goes through, which rows each expert gets, and the sum of their results.

The rows of an expert are gathered (gather.py), so that products read its matrices once for all of them; where it has
none they are not read. Results are added in the order of the experts, whatever rows are computed together.
"""

from __future__ import annotations

import math

from numba import float32, float64

from ggq_kernels.code.compiled import inlined, op
from ggq_kernels.row.operands import ASSIGN, PIECE, ROUTE, SCORED, SHARE
from ggq_kernels.run.team import take
from ggq_kernels.vector.functions import SIGMOID, activated, exp2_minus
from ggq_kernels.vector.simd import (
    fma,
    load_f32,
    mul,
    read_f32,
    read_f64,
    read_i64,
    splat_f32,
    store_f32,
    write_f32,
    write_i64,
)

LOG2_E = 1.4426950408889634


@inlined
def next_largest(x: int, width: int, largest: float, place: int) -> int:
    """Where the largest of the numbers is that come after one of this size at this place; of equal ones the first comes
    first. A NaN never comes; `width` where there is none."""
    found, best = width, float32(0.0)
    for c in range(width):
        v = read_f32(x + 4 * c)
        if v < largest or (v == largest and c > place):
            if found == width or v > best:
                found, best = c, v
    return found


@inlined
def shares_of(x: int, y: int, width: int, chosen: int, renormalised: int, scale: float) -> None:
    """One row; exp(x) of the whole row goes to y first."""
    place = next_largest(x, width, float32(math.inf), -1)
    largest = read_f32(x + 4 * place) if place < width else float32(0.0)
    factor, most = splat_f32(float32(LOG2_E)), float32(largest * float32(LOG2_E))
    for c in range(0, width * 4, 64):
        store_f32(y + c, exp2_minus(mul(load_f32(x + c), factor), most))
    total, mine = float64(0.0), float64(0.0)
    for c in range(width):
        total += read_f32(y + 4 * c)
    last, edge = place, largest
    for i in range(chosen):
        if i > 0:
            last = next_largest(x, width, edge, last)
        if last < width:
            edge = read_f32(x + 4 * last)
            mine += read_f32(y + 4 * last)
    factor_of = float32(scale / (mine if renormalised != 0 else total))
    odd = total != total or place == width
    for c in range(width):
        v = read_f32(x + 4 * c)
        taken = v > edge or (v == edge and c <= last)
        if odd:  # a NaN or an infinity: the result shall be NaN
            write_f32(y + 4 * c, float32(math.nan) if c < chosen else float32(0.0))
        else:
            write_f32(y + 4 * c, read_f32(y + 4 * c) * factor_of if taken else float32(0.0))


@op
def route(row: int, team: int) -> None:
    """out = a softmax of the logits at the largest of a row, 0 elsewhere; behind them the sigmoid of a gate."""
    n, logits = read_i64(read_i64(row + ROUTE.tokens)), read_i64(row + ROUTE.logits)
    stride, width = read_i64(row + ROUTE.logits_stride), read_i64(row + ROUTE.width)
    out, out_stride, scale = read_i64(row + ROUTE.out), read_i64(row + ROUTE.out_stride), read_f64(row + ROUTE.scale)
    gate, gate_stride = read_i64(row + ROUTE.gate), read_i64(row + ROUTE.gate_stride)
    chosen, renormalised = read_i64(row + ROUTE.chosen), read_i64(row + ROUTE.renormalised)
    while True:
        t = take(team, 1)
        if t >= n:
            return
        y = out + t * out_stride
        shares_of(logits + t * stride, y, width, chosen, renormalised, scale)
        if gate != 0:
            x = float64(read_f32(gate + t * gate_stride))
            write_f32(y + 4 * width, float32(1.0 / (1.0 + math.exp(-x))))


@inlined
def wish(y: int, correction: int, c: int) -> float:
    """What an expert is chosen by."""
    v = read_f32(y + 4 * c)
    return v if correction == 0 else float32(v + read_f32(correction + 4 * c))


@inlined
def next_wish(y: int, correction: int, start: int, stop: int, most: float, place: int) -> int:
    """As `next_largest`, of the wishes of the experts from `start` to before `stop`; `stop` where there is none."""
    found, best = stop, float32(0.0)
    for c in range(start, stop):
        v = wish(y, correction, c)
        if v < most or (v == most and c > place):
            if found == stop or v > best:
                found, best = c, v
    return found


@inlined
def group_wish(y: int, correction: int, start: int, stop: int, count: int) -> float:
    """The sum of the largest wishes of a group."""
    total, edge, place = float32(0.0), float32(math.inf), -1
    for _ in range(count):
        place = next_wish(y, correction, start, stop, edge, place)
        if place < stop:
            edge = wish(y, correction, place)
            total += edge
    return total


@inlined
def allowed_groups(y: int, correction: int, size: int, groups: int, chosen: int, best: int) -> int:
    """The groups that are chosen, a bit for each."""
    mask = 0
    for _ in range(chosen):
        found, most = groups, float32(0.0)
        for g in range(groups):
            if mask >> g & 1 == 0:
                v = group_wish(y, correction, g * size, (g + 1) * size, best)
                if found == groups or v > most:
                    found, most = g, v
        mask |= 1 << found
    return mask


@inlined
def scores_of(x: int, y: int, width: int, sigmoid: int) -> bool:
    """The scores of one row; whether all of them are numbers."""
    if sigmoid != 0:
        for c in range(0, width * 4, 64):
            store_f32(y + c, activated(SIGMOID, load_f32(x + c)))
    else:
        place = next_largest(x, width, float32(math.inf), -1)
        most = float32((read_f32(x + 4 * place) if place < width else float32(0.0)) * float32(LOG2_E))
        for c in range(0, width * 4, 64):
            store_f32(y + c, exp2_minus(mul(load_f32(x + c), splat_f32(float32(LOG2_E))), most))
    total = float64(0.0)
    for c in range(width):
        total += read_f32(y + 4 * c)
    if sigmoid == 0:
        for c in range(width):
            write_f32(y + 4 * c, float32(read_f32(y + 4 * c) / total))
    return total - total == 0.0


@op
def route_scored(row: int, team: int) -> None:
    """out = the scores of the experts that are wished most in the groups that are, 0 elsewhere; see `SCORED`."""
    n, logits = read_i64(read_i64(row + SCORED.tokens)), read_i64(row + SCORED.logits)
    stride, width = read_i64(row + SCORED.logits_stride), read_i64(row + SCORED.width)
    out, out_stride, scale = read_i64(row + SCORED.out), read_i64(row + SCORED.out_stride), read_f64(row + SCORED.scale)
    gate, gate_stride = read_i64(row + SCORED.gate), read_i64(row + SCORED.gate_stride)
    chosen, renormalised = read_i64(row + SCORED.chosen), read_i64(row + SCORED.renormalised)
    sigmoid, correction = read_i64(row + SCORED.sigmoid), read_i64(row + SCORED.correction)
    groups, factors = read_i64(row + SCORED.groups), read_i64(row + SCORED.factors)
    wanted, best, least = (
        read_i64(row + SCORED.chosen_groups),
        read_i64(row + SCORED.best),
        read_f64(row + SCORED.least),
    )
    size = width // groups
    while True:
        t = take(team, 1)
        if t >= n:
            return
        y = out + t * out_stride
        whole = scores_of(logits + t * stride, y, width, sigmoid)
        mask = allowed_groups(y, correction, size, groups, wanted, best) if groups > 1 else 1
        edge, last, total = float32(math.inf), -1, float64(0.0)
        for _ in range(chosen):
            found, most = width, float32(0.0)
            for g in range(groups):
                if mask >> g & 1 == 1:
                    c = next_wish(y, correction, g * size, (g + 1) * size, edge, last)
                    if c < (g + 1) * size and (found == width or wish(y, correction, c) > most):
                        found, most = c, wish(y, correction, c)
            if found < width:
                edge, last = most, found
                total += read_f32(y + 4 * found)
        factor = float32(scale / (total + least) if renormalised != 0 else scale)
        for c in range(width):
            v, share = wish(y, correction, c), read_f32(y + 4 * c) * factor
            taken = mask >> (c // size) & 1 == 1 and (v > edge or (v == edge and c <= last))
            share = share * read_f32(factors + 4 * c) if factors != 0 else share
            if not whole:  # a NaN or an infinity: the result shall be NaN
                share, taken = float32(math.nan), c < chosen
            write_f32(y + 4 * c, share if taken else float32(0.0))
        if gate != 0:
            x = float64(read_f32(gate + t * gate_stride))
            write_f32(y + 4 * width, float32(1.0 / (1.0 + math.exp(-x))))


@op
def assign(row: int, team: int) -> None:
    """The rows of each expert, and how many there are; and zeros, to which results are added."""
    n, shares = read_i64(read_i64(row + ASSIGN.tokens)), read_i64(row + ASSIGN.shares)
    stride, width = read_i64(row + ASSIGN.shares_stride), read_i64(row + ASSIGN.width)
    lists, size, counts = read_i64(row + ASSIGN.lists), read_i64(row + ASSIGN.size), read_i64(row + ASSIGN.counts)
    out, out_stride, columns = (
        read_i64(row + ASSIGN.out),
        read_i64(row + ASSIGN.out_stride),
        read_i64(row + ASSIGN.columns),
    )
    while True:
        job = take(team, 1)
        if job >= width + n:
            return
        if job < width:
            count, found = 0, lists + job * size
            for t in range(n):
                if read_f32(shares + t * stride + 4 * job) != float32(0.0):
                    write_i64(found + 8 * count, t)
                    count += 1
            write_i64(counts + 8 * job, count)
        else:
            y = out + (job - width) * out_stride
            for c in range(0, columns * 4, 64):
                store_f32(y + c, splat_f32(float32(0.0)))


@op
def add_shares(row: int, team: int) -> None:
    """out[rows[i]] += source[i] * shares[rows[i]]"""
    n, source = read_i64(read_i64(row + SHARE.tokens)), read_i64(row + SHARE.source)
    stride, width = read_i64(row + SHARE.source_stride), read_i64(row + SHARE.width)
    shares, shares_stride = read_i64(row + SHARE.shares), read_i64(row + SHARE.shares_stride)
    out, out_stride, rows = read_i64(row + SHARE.out), read_i64(row + SHARE.out_stride), read_i64(row + SHARE.rows)
    pieces = (width + PIECE - 1) // PIECE
    while True:
        job = take(team, 1)
        if job >= n * pieces:
            return
        i, start = job // pieces, job % pieces * PIECE
        t = read_i64(rows + 8 * i)
        share, x, y = splat_f32(read_f32(shares + t * shares_stride)), source + i * stride, out + t * out_stride
        for c in range(start * 4, min(start + PIECE, width) * 4, 64):
            store_f32(y + c, fma(load_f32(x + c), share, load_f32(y + c)))
