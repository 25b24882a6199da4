"""Lloyd's algorithm on a histogram of weights in steps: the same numbers as in `ggq.quant.methods.kmeans`."""

from __future__ import annotations

from typing import Any

from numba import types

from ggq_kernels.code.compiled import compiled, inlined
from ggq_kernels.vector.simd import (
    F32x16,
    I32x16,
    constant,
    load_f32,
    mul,
    primitive,
    read_f32,
    read_f64,
    read_i32,
    read_i64,
    round_even,
    splat,
    splat_f32,
    store,
    write_f64,
)

# Operands of `histogram`, as byte offsets; of every group: its inverse step, float32, and what a weight counts, float64
# (INVERSES and COUNTS).
X, GROUPS, GROUP, INVERSES, COUNTS, LEAST, BINS_PER_STEP, BINS, PLACES, MASS, WORDS = range(0, 88, 8)
# Operands of `lloyd`: sums from the left, float64, of mass and moment; the bins' places and the centres, float64.
MASSES, MOMENTS, BIN_PLACES, BIN_COUNT, CENTRES, CENTRE_COUNT, MOVED, ROUNDS, LLOYD_WORDS = range(0, 72, 8)


@primitive(types.void, types.int64, F32x16, types.int64, types.int64, types.int64)
def store_places(b: Any, address: Any, t: Any, least: Any, per_step: Any, bins: Any) -> None:
    """Write the bins of 16 weights in steps as int32."""
    low, scale, most = (splat(b, F32x16.ir, b.sitofp(each, F32x16.ir.element)) for each in (least, per_step, bins))
    place, nothing = round_even(b, b.fmul(b.fsub(t, low), scale)), constant(F32x16.ir, 0.0)
    place = b.select(b.fcmp_ordered(">", place, nothing), place, nothing)
    place = b.select(b.fcmp_ordered("<", place, most), place, most)
    store(b, b.fptosi(place, I32x16.ir), address)


@compiled(1)
def histogram(words: int) -> None:
    """Add to each bin what the weights that fall into it count, one after the other."""
    group, places, mass = read_i64(words + GROUP), read_i64(words + PLACES), read_i64(words + MASS)
    least, per_step, bins = read_i64(words + LEAST), read_i64(words + BINS_PER_STEP), read_i64(words + BINS)
    for g in range(read_i64(words + GROUPS)):
        inverse = splat_f32(read_f32(read_i64(words + INVERSES) + 4 * g))
        counts, x = read_f64(read_i64(words + COUNTS) + 8 * g), read_i64(words + X) + 4 * group * g
        for at in range(0, 4 * group, 64):
            store_places(places, mul(load_f32(x + at), inverse), least, per_step, bins)
            for lane in range(16):
                bin_at = mass + 8 * read_i32(places + 4 * lane)
                write_f64(bin_at, read_f64(bin_at) + counts)


@inlined
def edge(places: int, count: int, x: float) -> int:
    """The first of so many ascending places that is not below x."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if read_f64(places + 8 * middle) < x:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(1)
def lloyd(words: int) -> None:
    """Move centres to the means of the mass nearest to them until none moves, or as many rounds as allowed."""
    masses, moments, places = read_i64(words + MASSES), read_i64(words + MOMENTS), read_i64(words + BIN_PLACES)
    bins, centres, count = read_i64(words + BIN_COUNT), read_i64(words + CENTRES), read_i64(words + CENTRE_COUNT)
    moved = read_i64(words + MOVED)
    for _ in range(read_i64(words + ROUNDS)):
        start, still = 0, True
        for k in range(count):
            centre, end = read_f64(centres + 8 * k), bins
            if k + 1 < count:
                end = edge(places, bins, (read_f64(centres + 8 * k + 8) + centre) / 2)
            here = read_f64(masses + 8 * end) - read_f64(masses + 8 * start)
            now = centre
            if here > 0:
                now = (read_f64(moments + 8 * end) - read_f64(moments + 8 * start)) / here
            write_f64(moved + 8 * k, now)
            still, start = still and now == centre, end
        if still:
            break
        for k in range(count):
            write_f64(centres + 8 * k, read_f64(moved + 8 * k))
