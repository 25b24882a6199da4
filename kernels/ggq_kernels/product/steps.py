"""Scales, zero-points and minimums of a tile, in whatever form they are stored, as float32 steps and offsets:

    weight = step * number - offset

for 16 rows and each piece of some columns, so that products know numbers only (planes.py). The work is done once for a
tile, whatever the number of tokens.

Source: spec/schemes.md, S4.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, int64, types

from ggq_kernels.code.compiled import inlined
from ggq_kernels.product.widths import PLANES
from ggq_kernels.vector.isa import load_f16, prefetch
from ggq_kernels.vector.simd import (
    I8,
    I32,
    I64,
    F32x16,
    I32x16,
    Tag,
    TagType,
    field,
    fma,
    load,
    load_f32,
    mul,
    multiply_add,
    primitive,
    read_f64,
    read_i64,
    splat,
    splat_f32,
    store,
    store_f32,
    subtract,
)

SUPERGROUP = 8
"""Groups that share the scale of their sub-scales (as ggq/format/scheme.py; a test keeps them equal)."""

FOUR, SIX, EIGHT = (Tag("widths", *PLANES[bits]) for bits in (4, 6, 8))
"""Sub-scales of so many bits."""

# Words of a matrix descriptor that say how its scales are stored, as byte offsets; the rest are linear.py's.
M_PLANE0, M_PLANE1, M_TABLE = 0, 8, 16
M_GROUPS, M_GROUP, M_MIDDLE, M_SCALES, M_ZEROS, M_MINIMUMS = range(24, 72, 8)
M_SUB_WIDTH0, M_SUB_WIDTH1, M_SUB0, M_SUB1, M_MINIMUM_SUB0, M_MINIMUM_SUB1, M_SUB_LOWEST = range(72, 128, 8)
M_SHIFT = 128
"""The exponent of what is subtracted from all numbers; -1 where that is no power of two, or not the same for all."""


@primitive(F32x16, types.int64)
def load_u8(b: Any, address: Any) -> Any:
    """16 unsigned bytes at an address, as float32."""
    return b.uitofp(load(b, address, ir.VectorType(I8, 16), 1), F32x16.ir)


@primitive(F32x16, types.int64, types.int64, types.int64)
def load_field(b: Any, address: Any, first: Any, width: Any) -> Any:
    """Bits [first, first + width) of 16 bytes at an address, as float32."""
    v = b.zext(load(b, address, ir.VectorType(I8, 16), 1), I32x16.ir)
    v = b.lshr(v, splat(b, I32x16.ir, b.trunc(first, I32)))
    mask = b.sub(b.shl(I32(1), b.trunc(width, I32)), I32(1))
    return b.sitofp(b.and_(v, splat(b, I32x16.ir, mask)), F32x16.ir)


@primitive(types.void, None, F32x16, F32x16, types.int64, types.int64, types.int64)
def expand_supergroup(b: Any, widths: TagType, _: Any, upper: Any, lowest: Any, low: Any, high: Any, out: Any) -> None:
    """Write the scales of eight groups that begin at an edge of both planes: upper * (sub-scale - lowest), exactly."""
    base = b.fneg(b.fmul(upper, lowest))
    for group in range(SUPERGROUP):
        value, at = None, 0
        for plane, width in zip((low, high), widths.values):
            unit = load(b, plane, ir.VectorType(I8, 16), 1, group * width // 8 * 16)
            part = field(b, unit, group * width % 8, width, at)
            value, at = part if value is None else b.or_(value, part), at + width
        number = b.sitofp(b.zext(value, I32x16.ir), F32x16.ir)
        store(b, multiply_add(b, number, upper, base), b.add(out, I64(64 * group)))


@inlined
def level_bytes(m: int) -> Any:
    """Bytes of a tile's scales of super-groups and of its sub-scales in both planes."""
    groups, width, more = read_i64(m + M_GROUPS), read_i64(m + M_SUB_WIDTH0), read_i64(m + M_SUB_WIDTH1)
    supergroups = (groups + SUPERGROUP - 1) // SUPERGROUP
    return supergroups * 32, (groups * width + 7) // 8 * 16, (groups * more + 7) // 8 * 16


@inlined
def expand_scales(
    upper: int, low: int, high: int, m: int, sub_lowest: int, place: tuple[int, int, int, int, int], out: int
) -> None:
    """Write the scales, or minimums, of some pieces of a tile: one level, or sub-scales times the scales above them.

    Args:
        upper, low, high: Addresses: of the f16 numbers, of the two planes of sub-scales.
        place: Tile, groups of a row, pieces of a group, first piece, pieces.
    """
    tile, groups, ratio, first, count = place
    width, more = read_i64(m + M_SUB_WIDTH0), read_i64(m + M_SUB_WIDTH1)
    group, left = first // ratio, ratio - first % ratio
    if width == 0:
        upper += (tile * groups + group) * 32
        for i in range(count):
            store_f32(out + i * 64, load_f16(upper))
            left -= 1
            if left == 0:
                left = ratio
                upper += 32
        return
    upper_bytes, low_bytes, high_bytes = level_bytes(m)
    upper += tile * upper_bytes
    low += tile * low_bytes
    high += tile * high_bytes
    lowest, factor = splat_f32(float32(sub_lowest)), splat_f32(float32(1 << width))
    whole = count // SUPERGROUP * SUPERGROUP if ratio == 1 and group % SUPERGROUP == 0 else 0
    for i in range(0, whole, SUPERGROUP):
        scale, at = load_f16(upper + (group >> 3) * 32), group * width // 8 * 16
        if width == 8:
            expand_supergroup(EIGHT, scale, lowest, low + at, 0, out + i * 64)
        elif more == 0:
            expand_supergroup(FOUR, scale, lowest, low + at, 0, out + i * 64)
        else:
            expand_supergroup(SIX, scale, lowest, low + at, high + group * more // 8 * 16, out + i * 64)
        group += SUPERGROUP
    for i in range(whole, count):
        at = group * width
        sub = load_field(low + (at >> 3) * 16, at & 7, width)
        if more != 0:
            at = group * more
            sub = fma(factor, load_field(high + (at >> 3) * 16, at & 7, more), sub)  # whole numbers: exact
        store_f32(out + i * 64, mul(load_f16(upper + (group >> 3) * 32), subtract(sub, lowest)))
        left -= 1
        if left == 0:
            left = ratio
            group += 1


@inlined
def middle_of(m: int, lowest: int) -> Any:
    """16 times what is subtracted from the numbers of a matrix without zero-points and minimums, less `lowest`."""
    return subtract(splat_f32(float32(read_f64(m + M_MIDDLE))), splat_f32(float32(lowest)))


@inlined
def expand_steps(m: int, tile: int, piece: int, lowest: int, first: int, count: int, steps: int, offsets: int) -> None:
    """Write steps and offsets of pieces first .. first + count - 1 of a tile, 16 float32 each.

    A piece is `piece` columns, a part of a group. Int8 products subtract `lowest` from the numbers beforehand. Where
    offsets are the same multiple of all steps, `offsets` may be 0: nothing is written there.
    """
    groups, ratio = read_i64(m + M_GROUPS), read_i64(m + M_GROUP) // piece
    place, zeros, minimums = (tile, groups, ratio, first, count), read_i64(m + M_ZEROS), read_i64(m + M_MINIMUMS)
    sub_lowest, base = read_i64(m + M_SUB_LOWEST), splat_f32(float32(lowest))
    expand_scales(read_i64(m + M_SCALES), read_i64(m + M_SUB0), read_i64(m + M_SUB1), m, sub_lowest, place, steps)
    if minimums != 0:
        low, high = read_i64(m + M_MINIMUM_SUB0), read_i64(m + M_MINIMUM_SUB1)
        expand_scales(minimums, low, high, m, int64(0), place, offsets)  # a literal 0 would be compiled anew
        if lowest != 0:
            for i in range(0, count * 64, 64):
                store_f32(offsets + i, subtract(load_f32(offsets + i), mul(load_f32(steps + i), base)))
    elif zeros != 0:
        group, left = first // ratio, ratio - first % ratio
        zeros += (tile * groups + group) * 16
        for i in range(0, count * 64, 64):
            store_f32(offsets + i, mul(load_f32(steps + i), subtract(load_u8(zeros), base)))
            left -= 1
            if left == 0:
                left = ratio
                zeros += 16
    elif offsets != 0:
        point = middle_of(m, lowest)
        for i in range(0, count * 64, 64):
            store_f32(offsets + i, mul(load_f32(steps + i), point))


@inlined
def _prefetch_run(start: int, size: int) -> None:
    for address in range(start, start + size, 64):
        prefetch(address)


@inlined
def prefetch_levels(m: int, tile: int) -> None:
    """Ask for the scales and minimums of a tile, all of two levels: six short runs that no prefetcher sees coming."""
    upper, low, high = level_bytes(m)
    for run in range(2):
        _prefetch_run(read_i64(m + (M_MINIMUMS if run else M_SCALES)) + tile * upper, upper)
        _prefetch_run(read_i64(m + (M_MINIMUM_SUB0 if run else M_SUB0)) + tile * low, low)
        _prefetch_run(read_i64(m + (M_MINIMUM_SUB1 if run else M_SUB1)) + tile * high, high)
