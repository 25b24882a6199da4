"""The search for steps with zero-points or minimums, row by row: bit for bit what the NumPy reference finds.

As in search_rows.py all arithmetic is float32, never fused, and sums run over 16 lanes.
"""

from __future__ import annotations

import numpy as np
from numba import float32

from ggq_kernels.code.compiled import compiled, inlined
from ggq_kernels.quantize.search_rows import whole_within
from ggq_kernels.vector.simd import (
    F32x16,
    add,
    largest,
    load_f32,
    maximum,
    mul,
    negative,
    primitive,
    read_f32,
    read_i64,
    splat_f32,
    store_f32,
    total,
    write_f32,
)

# Operands, as byte offsets: the weights and what errors count by column, and its sums over each group;
X, ENERGY, TOTALS, ROWS, GROUPS, GROUP = range(0, 48, 8)
# two float32 for each trial, how often the best is refitted, the last code, whether minimums are kept from below zero;
TRIALS, TRIAL_COUNT, TURNS, LAST_CODE, BELOW = range(48, 88, 8)
# scratch of a group's weights, and the results by group.
WEIGHTED, STEPS, SHIFTS, WORDS = range(88, 120, 8)

nearest = primitive(F32x16, F32x16, F32x16, F32x16)(whole_within)


@inlined
def rounded(x: float, low: float, high: float) -> float:
    """`whole_within` of one number."""
    x = low if low > x else x
    x = high if high < x else x
    return (x + float32(12582912.0)) - float32(12582912.0)


@inlined
def inverse_of(step: float) -> float:
    """1 / step, or 0 where it is 0."""
    return float32(0.0) if step == float32(0.0) else float32(1.0) / step


@inlined
def weigh(words: int, x: int, energy: int) -> tuple[float, float, float]:
    """Write a group's weights times what they count; the largest weight, the smallest, and the sum of what was
    written."""
    high, low, sums = load_f32(x), negative(load_f32(x)), splat_f32(float32(0.0))
    for at in range(0, 4 * read_i64(words + GROUP), 64):
        value = load_f32(x + at)
        high, low = maximum(high, value), maximum(low, negative(value))
        product = mul(value, load_f32(energy + at))
        sums = add(sums, product)
        store_f32(read_i64(words + WEIGHTED) + at, product)
    return largest(high), -largest(low), total(sums)


@inlined
def score_zero(words: int, x: int, energy: int, inverse: float, zero: float) -> tuple[float, float]:
    """Of a group's nearest levels q: what their best step takes off the error, and that step."""
    weighted, last = read_i64(words + WEIGHTED), float32(read_i64(words + LAST_CODE))
    factor, low, high = splat_f32(inverse), splat_f32(-zero), splat_f32(last - zero)
    product = square = splat_f32(float32(0.0))
    for at in range(0, 4 * read_i64(words + GROUP), 64):
        q = nearest(mul(load_f32(x + at), factor), low, high)
        product = add(product, mul(load_f32(weighted + at), q))
        square = add(square, mul(mul(q, load_f32(energy + at)), q))
    above, below = total(product), total(square)
    fitted = above / below if below > float32(0.0) else float32(0.0)
    return fitted * above, fitted


@compiled(1)
def search_zero(words: int) -> None:
    """The step and the whole zero-point of each group whose nearest levels take most off the error, from operands at an
    address. Of a trial: over how many steps the range is spread, and how many of these are cut off."""
    groups, group, last = read_i64(words + GROUPS), read_i64(words + GROUP), float32(read_i64(words + LAST_CODE))
    nothing, one, two = float32(0.0), float32(1.0), float32(2.0)
    for r in range(read_i64(words + ROWS)):
        for g in range(groups):
            place = 4 * (r * groups + g)
            x, energy = read_i64(words + X) + group * place, read_i64(words + ENERGY) + 4 * group * g
            high, low, _ = weigh(words, x, energy)
            high, low = high if high > nothing else nothing, low if low < nothing else nothing
            span, best, step, zero = high - low, nothing, nothing, nothing
            for trial in range(read_i64(words + TRIAL_COUNT)):
                spread, cut = (
                    read_f32(read_i64(words + TRIALS) + 8 * trial),
                    read_f32(read_i64(words + TRIALS) + 8 * trial + 4),
                )
                inverse = nothing if span == nothing else spread / span
                start = -low * inverse
                middle = start - cut / two
                down = rounded(middle, -two, last + two)
                down = down - one if down > middle else down
                for choice in range(4 if cut > nothing else 2):
                    if choice < 2:
                        offset = rounded(down + float32(choice), nothing, last)
                    else:
                        offset = rounded(start if choice == 2 else start - cut, nothing, last)
                    if offset != offset:
                        continue
                    score, fitted = score_zero(words, x, energy, inverse, offset)
                    if score > best:
                        best, step, zero = score, fitted, offset
            for _ in range(read_i64(words + TURNS)):
                score, fitted = score_zero(words, x, energy, inverse_of(step), zero)
                if score > best:
                    best, step = score, fitted
            write_f32(read_i64(words + STEPS) + place, step)
            write_f32(read_i64(words + SHIFTS) + place, zero)


@inlined
def fit_line(
    words: int, x: int, energy: int, step: float, minimum: float, whole: float, whole_x: float
) -> tuple[float, float, float]:
    """For a group's nearest codes: the best step, the best minimum, and what they take off the error."""
    weighted, nothing = read_i64(words + WEIGHTED), float32(0.0)
    start, factor = splat_f32(minimum), splat_f32(inverse_of(step))
    low, high = splat_f32(nothing), splat_f32(float32(read_i64(words + LAST_CODE)))
    ones = products = squares = low
    for at in range(0, 4 * read_i64(words + GROUP), 64):
        q = nearest(mul(add(load_f32(x + at), start), factor), low, high)
        hq = mul(q, load_f32(energy + at))
        ones, squares = add(ones, hq), add(squares, mul(hq, q))
        products = add(products, mul(load_f32(weighted + at), q))
    sq, sqq, sxq = total(ones), total(squares), total(products)
    determinant = whole * sqq - sq * sq
    if determinant > float32(1e-6) * whole * sqq:
        fitted, shift = (whole * sxq - whole_x * sq) / determinant, (sqq * whole_x - sq * sxq) / determinant
    else:
        fitted, shift = nothing, whole_x / whole
    if read_i64(words + BELOW) != 0 and (shift > nothing or fitted < nothing):
        fitted, shift = (sxq / sqq if sqq > nothing else nothing), nothing
        fitted = fitted if fitted > nothing else nothing
    if not whole > nothing:
        return fitted, nothing, nothing
    return fitted, -shift, fitted * sxq + shift * whole_x


@compiled(1)
def search_minimum(words: int) -> None:
    """The step and the minimum of each group whose nearest codes take most off the error, from operands at an address.
    Of a trial: by what the range is divided, and the share of what that cuts off at the lower end."""
    groups, group, last = read_i64(words + GROUPS), read_i64(words + GROUP), float32(read_i64(words + LAST_CODE))
    nothing, count = float32(0.0), read_i64(words + TRIAL_COUNT)
    for r in range(read_i64(words + ROWS)):
        for g in range(groups):
            place = 4 * (r * groups + g)
            x, energy = read_i64(words + X) + group * place, read_i64(words + ENERGY) + 4 * group * g
            high, low, whole_x = weigh(words, x, energy)
            whole = read_f32(read_i64(words + TOTALS) + 4 * g)
            if read_i64(words + BELOW) != 0 and low > nothing:
                low = nothing
            best, step, minimum = float32(-np.inf), nothing, nothing
            for trial in range(count + read_i64(words + TURNS)):
                tried, start = step, minimum
                if trial < count:
                    at = read_i64(words + TRIALS) + 8 * trial
                    span = (high - low) / read_f32(at)
                    start = -low - ((high - low) - span) * read_f32(at + 4)
                    if read_i64(words + BELOW) != 0 and start < nothing:
                        start = nothing
                    tried = span / last
                fitted, shift, score = fit_line(words, x, energy, tried, start, whole, whole_x)
                if score > best:
                    best, step, minimum = score, fitted, shift
            write_f32(read_i64(words + STEPS) + place, step)
            write_f32(read_i64(words + SHIFTS) + place, minimum)
