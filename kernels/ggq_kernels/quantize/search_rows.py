"""The search for steps, and what codes under given steps lose, row by row: bit for bit what the NumPy reference finds.

All arithmetic is float32 and never fused; sums run over 16 lanes, 16 columns after 16 columns, and then over the lanes,
as `ggq.quant.search.steps.lane_sums` has it. One thread takes one block of rows; the caller runs several at once.

Rounding to levels is one of three kinds: to whole numbers between two limits; by sign to one of two; or to the entries
of a table, whole numbers too, the levels being the first entry and what is gained at each mark halfway between two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, types

from ggq_kernels.code.compiled import compiled, inlined
from ggq_kernels.quantize.encode_rows import F16, inverse_or_zero
from ggq_kernels.vector.isa import load_f16, store_values
from ggq_kernels.vector.simd import (
    I8,
    I32,
    I64,
    F32x16,
    Tag,
    TagType,
    add,
    constant,
    join,
    largest,
    load,
    load_f32,
    maximum,
    mul,
    negative,
    pick,
    primitive,
    read_f32,
    read_i64,
    round_even,
    splat,
    splat_f32,
    store,
    store_f32,
    subtract,
    total,
    write_f32,
)

WHOLE, SIGN, TABLE = Tag("rounding", "whole"), Tag("rounding", "sign"), Tag("rounding", "table")

STEP = 32
"""Columns that a table rounds at a time."""

SUPER = 8
"""Groups that share an upper scale where scales have two levels."""

# Operands, as byte offsets: the weights, what errors count by column, and how they are rounded;
X, ENERGY, ROWS, GROUPS, GROUP, ENTRIES, MARKS = range(0, 56, 8)
# the trials, scratch of a row's weights, and the result by group;
NUMERATORS, TRIALS, TURNS, WEIGHTED, STEPS = range(56, 96, 8)
# how steps are stored, scratch of a row's groups (with at least 16 zeros behind them), and where squares of errors are
# added.
SUB_BITS, OFFSET, STORED_TURNS, WISHED, STORED, INVERSES, COLUMNS, REACH, FOUND, WORDS = range(96, 176, 8)


def within(b: Any, t: Any, low: Any, high: Any) -> Any:
    """Kept within two; NaN stays NaN."""
    t = b.select(b.fcmp_ordered(">", low, t), low, t)
    return b.select(b.fcmp_ordered("<", high, t), high, t)


def whole_within(b: Any, t: Any, low: Any, high: Any) -> Any:
    """Rounded to whole numbers within two whole ones, halves to even; NaN stays NaN."""
    # It is the same to clip before rounding; and 2**22 is not passed then.
    return round_even(b, within(b, t, low, high))


@primitive(F32x16, None, F32x16, types.int64, types.int64)
def level(b: Any, kind: TagType, _: Any, t: Any, limits: Any, found: Any) -> Any:
    """Weights in steps to levels in steps; NaN stays NaN under whole levels.

    Args: limits: Address of two float32, the least level and the largest. found: Where a table's levels lie, which
        `look_up_levels` has written.
    """
    if kind.values[0] == "table":
        return load(b, found, F32x16.ir, 4)
    low, high = (splat(b, F32x16.ir, load(b, limits, F32x16.ir.element, 4, 4 * i)) for i in range(2))
    if kind.values[0] == "sign":
        return b.select(b.fcmp_ordered(">=", t, constant(F32x16.ir, 0.0)), high, low)
    return whole_within(b, t, low, high)


_BYTES = ir.VectorType(I8, STEP)


@primitive(types.void, types.int64, F32x16, types.int64, types.int64, types.int64)
def look_up(b: Any, x: Any, inverse: Any, entries: Any, marks: Any, found: Any) -> None:
    """Write the entries nearest to 32 weights times an inverse step as float32.

    Marks are whole numbers of halves: t is beyond one if its halves, rounded up, are. They fit bytes, and the table is
    gone through 32 columns at a time; with floats it took twice as long.

    Args: x: Address of the weights. entries: Of int8: the first entry, then for each mark its halves and what is gained
        beyond it. marks: How many there are. found: Where to write.
    """
    wide, halves = ir.VectorType(I32, 16), []
    for part in range(2):
        t = b.fmul(load(b, x, F32x16.ir, 4, 64 * part), inverse)
        t = b.fadd(t, t)
        least, most = constant(F32x16.ir, -128.0), constant(F32x16.ir, 127.0)
        t = b.select(b.fcmp_ordered(">", t, least), t, least)
        t = b.select(b.fcmp_ordered("<", t, most), t, most)
        r = round_even(b, t)
        r = b.select(b.fcmp_ordered("<", r, t), b.fadd(r, constant(F32x16.ir, 1.0)), r)
        halves.append(b.trunc(b.fptosi(r, wide), ir.VectorType(I8, 16)))
    up = join(b, *halves)
    start, before = splat(b, _BYTES, load(b, entries, I8, 1)), b.block
    body, after = b.append_basic_block("mark"), b.append_basic_block("levels")
    end = b.add(entries, b.mul(marks, I64(2)))
    b.branch(body)
    b.position_at_end(body)
    at, now = b.phi(entries.type), b.phi(_BYTES)
    mark, gain = (splat(b, _BYTES, load(b, at, I8, 1, 1 + i)) for i in range(2))
    raised = b.add(now, b.select(b.icmp_signed(">", up, mark), gain, constant(_BYTES, 0)))
    following = b.add(at, I64(2))
    for phi, begin, then in ((at, entries, following), (now, start, raised)):
        phi.add_incoming(begin, before)
        phi.add_incoming(then, body)
    b.cbranch(b.icmp_unsigned("<", following, end), body, after)
    b.position_at_end(after)
    for part in range(2):
        levels = b.sitofp(pick(b, raised, range(16 * part, 16 * part + 16)), F32x16.ir)
        store(b, levels, b.add(found, I64(64 * part)))


@inlined
def look_up_levels(kind: Any, words: int, x: int, inverse: Any, columns: int) -> None:
    """Write the levels of so many columns where `level` finds them, and some more if they are no multiple of STEP."""
    if is_table(kind):
        found = read_i64(words + FOUND)
        for at in range(0, 4 * columns, 4 * STEP):
            look_up(x + at, inverse, read_i64(words + ENTRIES), read_i64(words + MARKS), found + at)


@primitive(types.boolean, None)
def is_table(b: Any, kind: TagType, _: Any) -> Any:
    """Whether levels are entries of a table, known while code is generated."""
    return ir.IntType(1)(kind.values[0] == "table")


@primitive(types.void, types.int64, F32x16)
def add_squares(b: Any, address: Any, x: Any) -> None:
    """Add the squares of 16 float32 to 16 float64 at an address."""
    wide = ir.VectorType(ir.DoubleType(), 16)
    exact = b.fpext(x, wide)
    store(b, b.fadd(load(b, address, wide, 8), b.fmul(exact, exact)), address, 8)


@primitive(F32x16, F32x16, types.float32, types.float32, types.float32)
def sub_scale(b: Any, exact: Any, reach: Any, low: Any, high: Any) -> Any:
    """Steps of an upper scale rounded to whole numbers within two; none to zero that is nearer to one at its
    group's farthest level."""
    nothing, one = constant(F32x16.ir, 0.0), constant(F32x16.ir, 1.0)
    low, high, reach = (splat(b, F32x16.ir, each) for each in (low, high, reach))
    size = b.select(b.fcmp_ordered("<", exact, nothing), b.fneg(exact), exact)
    code = round_even(b, exact)
    far = b.fcmp_ordered(">", b.fmul(size, reach), constant(F32x16.ir, 0.5))
    sign = b.select(b.fcmp_ordered("<", exact, nothing), b.fneg(one), one)
    code = b.select(b.and_(b.fcmp_ordered("==", code, nothing), far), sign, code)
    return within(b, code, low, high)


@primitive(F32x16, F32x16)
def first_half(b: Any, x: Any) -> Any:
    """The first 8 lanes, and zeros."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), 16), [*range(SUPER), *range(16, 32 - SUPER)])
    return b.shuffle_vector(x, constant(F32x16.ir, 0.0), lanes)


@inlined
def score(kind: Any, words: int, x: int, weighted: int, energy: int, inverse: float) -> tuple[float, float]:
    """Of a group's nearest levels q: sum of h x q and sum of h q q."""
    limits, found, group = read_i64(words + ENTRIES), read_i64(words + FOUND), read_i64(words + GROUP)
    factor = splat_f32(inverse)
    product = square = splat_f32(float32(0.0))
    look_up_levels(kind, words, x, factor, group)
    for at in range(0, 4 * group, 64):
        q = level(kind, mul(load_f32(x + at), factor), limits, found + at)
        product = add(product, mul(load_f32(weighted + at), q))
        square = add(square, mul(mul(q, load_f32(energy + at)), q))
    return total(product), total(square)


@inlined
def search_group(kind: Any, words: int, x: int, energy: int) -> float:
    """The step of a group of which the nearest levels q have the largest (sum h x q)**2 / sum h q**2."""
    group, weighted, nothing = read_i64(words + GROUP), read_i64(words + WEIGHTED), float32(0.0)
    trials, turns = read_i64(words + TRIALS), read_i64(words + TURNS)
    high, low = load_f32(x), negative(load_f32(x))
    for at in range(0, 4 * group, 64):
        value = load_f32(x + at)
        high, low = maximum(high, value), maximum(low, negative(value))
        store_f32(weighted + at, mul(value, load_f32(energy + at)))
    top, bottom = largest(high), largest(low)
    extreme = top if top >= bottom else -bottom
    best = step = nothing
    for trial in range(trials + turns):
        inverse = nothing
        if trial < trials:
            if extreme != nothing:
                inverse = read_f32(read_i64(words + NUMERATORS) + 4 * trial) / extreme
        elif step != nothing:
            inverse = float32(1.0) / step
        product, square = score(kind, words, x, weighted, energy, inverse)
        fitted = product / square if square > nothing else nothing
        if fitted * product > best:
            best, step = fitted * product, fitted
    return step


@inlined
def store_steps(words: int) -> None:
    """A row's wished steps as they can be stored, and their inverses (as in `ggq.quant.grid.fit_grid`)."""
    wished, stored, inverses = read_i64(words + WISHED), read_i64(words + STORED), read_i64(words + INVERSES)
    groups, bits, offset = read_i64(words + GROUPS), read_i64(words + SUB_BITS), read_i64(words + OFFSET)
    nothing = splat_f32(float32(0.0))
    for at in range(0, 4 * groups, 4 * SUPER):  # what is written beyond a super-group is overwritten by the next
        steps = first_half(load_f32(wished + at))
        if bits == 0:
            store_values(F16, stored + at, steps)
            steps = add(load_f16(stored + at), nothing)  # of both zeros, the positive one
        else:
            top, bottom = largest(steps), largest(negative(steps))
            last = -offset if offset != 0 else (1 << bits) - 1
            store_values(F16, stored + at, splat_f32((top if top >= bottom else -bottom) * (float32(1.0) / last)))
            upper = add(load_f16(stored + at), nothing)
            exact = mul(steps, inverse_or_zero(upper))
            code = sub_scale(exact, read_f32(words + REACH), float32(-offset), float32((1 << bits) - 1 - offset))
            steps = mul(upper, code)
        store_f32(stored + at, steps)
        store_f32(inverses + at, inverse_or_zero(steps))


@inlined
def fit_group(kind: Any, words: int, g: int, x: int, energy: int) -> tuple[float, float]:
    """For nearest levels q of a group's stored step: the best step for them, and the sum of h (step q - x)**2."""
    limits, found, group = read_i64(words + ENTRIES), read_i64(words + FOUND), read_i64(words + GROUP)
    step = splat_f32(read_f32(read_i64(words + STORED) + 4 * g))
    inverse = splat_f32(read_f32(read_i64(words + INVERSES) + 4 * g))
    product = square = error = splat_f32(float32(0.0))
    look_up_levels(kind, words, x, inverse, group)
    for at in range(0, 4 * group, 64):
        value, h = load_f32(x + at), load_f32(energy + at)
        q = level(kind, mul(value, inverse), limits, found + at)
        product = add(product, mul(mul(value, h), q))
        square = add(square, mul(mul(q, h), q))
        difference = subtract(mul(step, q), value)
        error = add(error, mul(mul(difference, h), difference))
    bottom = total(square)
    return total(product) / bottom if bottom > float32(0.0) else float32(0.0), total(error)


@inlined
def add_errors(kind: Any, words: int, row: int) -> None:
    """Add the squares of the errors under a row's stored steps by column."""
    limits, found, group = read_i64(words + ENTRIES), read_i64(words + FOUND), read_i64(words + GROUP)
    for g in range(read_i64(words + GROUPS)):
        step = splat_f32(read_f32(read_i64(words + STORED) + 4 * g))
        inverse = splat_f32(read_f32(read_i64(words + INVERSES) + 4 * g))
        x, columns = row + 4 * group * g, read_i64(words + COLUMNS) + 8 * group * g
        look_up_levels(kind, words, x, inverse, group)
        for at in range(0, 4 * group, 64):
            value = load_f32(x + at)
            q = level(kind, mul(value, inverse), limits, found + at)
            add_squares(columns + 2 * at, subtract(mul(step, q), value))


@inlined
def search(kind: Any, words: int) -> None:
    """See `search_whole`."""
    groups, group, wished = read_i64(words + GROUPS), read_i64(words + GROUP), read_i64(words + WISHED)
    for r in range(read_i64(words + ROWS)):
        row, steps = read_i64(words + X) + 4 * group * groups * r, read_i64(words + STEPS) + 4 * groups * r
        for g in range(groups):
            step = search_group(kind, words, row + 4 * group * g, read_i64(words + ENERGY) + 4 * group * g)
            write_f32(steps + 4 * g, step)
            write_f32(wished + 4 * g, step)
        best = np.inf
        for _ in range(read_i64(words + STORED_TURNS)):
            store_steps(words)
            error = 0.0
            for g in range(groups):
                x, energy = row + 4 * group * g, read_i64(words + ENERGY) + 4 * group * g
                refitted, more = fit_group(kind, words, g, x, energy)
                error += more
                # The wish that was stored is needed until the row's error is known: it waits beside what it became.
                write_f32(read_i64(words + INVERSES) + 4 * g, read_f32(wished + 4 * g))
                write_f32(wished + 4 * g, refitted)
            if error < best:
                best = error
                for g in range(groups):
                    write_f32(steps + 4 * g, read_f32(read_i64(words + INVERSES) + 4 * g))
        if read_i64(words + COLUMNS) != 0:
            for g in range(groups):
                write_f32(wished + 4 * g, read_f32(steps + 4 * g))
            store_steps(words)
            add_errors(kind, words, row)


@compiled(1)
def search_whole(words: int) -> None:
    """The step of each group, from operands at an address, where levels are whole numbers.

    Trial steps and turns in which the best is refitted; of steps that are stored by super-groups, turns of storing and
    refitting besides, of which each row keeps the best. Where there is room for it, squares of the errors that are
    made are added up by column.
    """
    search(WHOLE, words)


@compiled(1)
def search_sign(words: int) -> None:
    """The same where there are two levels, for the signs."""
    search(SIGN, words)


@compiled(1)
def search_table(words: int) -> None:
    """The same where levels are entries of a table."""
    search(TABLE, words)
