"""Quantizing rows of a matrix straight into its tiles: AbsMax and zero-point, bit for bit as the NumPy reference does.

All arithmetic is float32, in the reference's order, never fused: scale rounded to f16, inverse = 1 / scale, code =
rint(weight * inverse) + zero. One thread encodes one block of rows; the caller runs several blocks at once.

Source: spec/schemes.md, S6 to S8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int64

from ggq_kernels.compiled import compiled, inlined
from ggq_kernels.isa import VALUES, load_value, read_value, value_bytes, write_value
from ggq_kernels.simd import (
    absolute,
    add,
    add_i32,
    clip_i32,
    float_i32,
    largest,
    load_f32,
    maximum,
    mul,
    nearest,
    negative,
    read_f64,
    read_i32,
    read_i64,
    read_u16,
    splat_f32,
    splat_i32,
    store_f32,
    store_quads,
    subtract,
    total,
    write_f32,
    write_f64,
    write_i32,
    write_u8,
    write_u16,
)

F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]
KINDS = {"f32": 0, "f16": 1, "bf16": 2}

# Operands, as byte offsets.
SOURCE, STRIDE, KIND, ROWS, COLUMNS, PADDED, GROUP, BITS, ASYMMETRIC = range(0, 72, 8)
WIDTH0, WIDTH1, PLANE0, PLANE1, SCALES, ZEROS, SCRATCH, SUMS, WORDS = range(72, 144, 8)


@inlined
def read_row(kind: Any, source: int, columns: int, padded: int, row: int) -> bool:
    """Widen a row to float32, zeros behind it; whether all of it is finite."""
    step, c, check = value_bytes(kind), 0, splat_f32(float32(0.0))
    while c + 16 <= columns:
        v = load_value(kind, source + c * step)
        check = add(check, mul(v, splat_f32(float32(0.0))))  # NaN and infinity times zero is NaN
        store_f32(row + 4 * c, v)
        c += 16
    rest = float32(0.0)
    while c < columns:
        x = read_value(kind, source + c * step)
        rest += x * float32(0.0)
        write_f32(row + 4 * c, x)
        c += 1
    while c < padded:
        write_f32(row + 4 * c, float32(0.0))
        c += 1
    return total(check) + rest == float32(0.0)


@inlined
def choose_scale(row: int, group: int, bits: int, asymmetric: bool, place: int) -> float:
    """The scale of a group of float32 numbers, stored at `place` as f16; returns its float32 value.

    As in the reference: the largest of both signs for AbsMax, the range widened to hold zero for zero-point.
    """
    high, low = load_f32(row), negative(load_f32(row))
    for c in range(64, 4 * group, 64):
        v = load_f32(row + c)
        high, low = maximum(high, v), maximum(low, negative(v))
    top, bottom = largest(high), largest(low)  # bottom is minus the smallest
    if asymmetric:
        top, bottom = max(top, float32(0.0)), max(bottom, float32(0.0))
        scale = (top + bottom) / float32((1 << bits) - 1)
    else:
        scale = (top if top >= bottom else -bottom) * (float32(-1.0) / float32(1 << (bits - 1)))
    write_value(F16, place, scale)
    if read_u16(place) & 0x7FFF == 0:
        write_u16(place, 0)
    return read_value(F16, place)


@inlined
def group_zero(row: int, group: int, inverse: float, levels: int) -> int:
    """The zero-point of a group: minus its smallest number, in steps, rounded and kept within the codes."""
    low = negative(load_f32(row))
    for c in range(64, 4 * group, 64):
        low = maximum(low, negative(load_f32(row + c)))
    bottom = max(largest(low), float32(0.0))
    return min(max(int64(np.rint(bottom * inverse)), 0), levels)


@inlined
def encode_row(words: int, row: int, codes: int, lane: int, tile: int) -> bool:
    """Scales, zero-points and codes (one byte each) of a row of float32, and its error; False for an infinite scale."""
    padded, group, bits = read_i64(words + PADDED), read_i64(words + GROUP), read_i64(words + BITS)
    asymmetric, sums, levels = read_i64(words + ASYMMETRIC) != 0, read_i64(words + SUMS), (1 << bits) - 1
    wrong = signal = worst = splat_f32(float32(0.0))
    groups = padded // group
    for g in range(groups):
        start, place = row + g * group * 4, (tile * groups + g) * 16 + lane
        scale = choose_scale(start, group, bits, asymmetric, read_i64(words + SCALES) + 2 * place)
        if abs(scale) > float32(65504.0):
            return False
        inverse = float32(0.0) if scale == float32(0.0) else float32(1.0) / scale
        zero = int64(1 << (bits - 1))
        if asymmetric:
            zero = group_zero(start, group, inverse, levels)
            write_u8(read_i64(words + ZEROS) + place, zero)
        for c in range(0, group, 16):
            w = load_f32(start + 4 * c)
            code = clip_i32(add_i32(nearest(mul(w, splat_f32(inverse))), splat_i32(zero)), levels)
            store_quads(codes + g * group + c, 4, code)
            difference = subtract(w, mul(splat_f32(scale), float_i32(add_i32(code, splat_i32(-zero)))))
            wrong, signal = add(wrong, mul(difference, difference)), add(signal, mul(w, w))
            worst = maximum(worst, absolute(difference))
    write_f64(sums, read_f64(sums) + total(wrong))
    write_f64(sums + 8, read_f64(sums + 8) + total(signal))
    write_f64(sums + 16, max(read_f64(sums + 16), largest(worst)))
    return True


@inlined
def pack_plane(codes: int, columns: int, first: int, width: int, plane: int, lane: int) -> None:
    """Bits [first, first + width) of a row's codes into the row's lane of a plane; `plane` is the tile's address."""
    runs, mask = 8 // width, ((1 << width) - 1) * 0x01010101
    for unit in range(columns // (4 * runs)):
        word = 0
        for run in range(runs):
            word |= ((int64(read_i32(codes + (unit * runs + run) * 4)) >> first) & mask) << (run * width)
        write_i32(plane + unit * 64 + lane * 4, word)


@compiled("int64(int64)")
def encode_block(words: int) -> int:
    """Encode a block of rows from operands at an address.

    Returns:
        0, or 1 + the row where a weight is not finite or a scale too large; what was written is of no use then.
    """
    rows, columns, padded = read_i64(words + ROWS), read_i64(words + COLUMNS), read_i64(words + PADDED)
    source, stride, kind = read_i64(words + SOURCE), read_i64(words + STRIDE), read_i64(words + KIND)
    row, width0, width1 = read_i64(words + SCRATCH), read_i64(words + WIDTH0), read_i64(words + WIDTH1)
    codes = row + 4 * padded
    for r in range((rows + 15) // 16 * 16):
        tile, lane, at, fine = r // 16, r % 16, source + r * stride, True
        here = columns if r < rows else 0
        if kind == 0:
            fine = read_row(F32, at, here, padded, row)
        elif kind == 1:
            fine = read_row(F16, at, here, padded, row)
        else:
            fine = read_row(BF16, at, here, padded, row)
        if not fine or not encode_row(words, row, codes, lane, tile):
            return r + 1
        pack_plane(codes, padded, 0, width0, read_i64(words + PLANE0) + tile * padded * 2 * width0, lane)
        if width1 != 0:
            pack_plane(codes, padded, width0, width1, read_i64(words + PLANE1) + tile * padded * 2 * width1, lane)
    return 0


def encode(
    source: np.ndarray,
    kind: str,
    padded_columns: int,
    group: int,
    bits: int,
    planes: tuple[np.ndarray, ...],
    scales: np.ndarray,
    zeros: np.ndarray | None,
) -> tuple[float, float, float] | None:
    """Quantize a block of rows into whole tiles: AbsMax, or zero-point where there is room for zero-points.

    Args:
        source: (rows, columns), C-contiguous: float32, float16, or uint16 (the bits of bf16).
        kind: "f32", "f16" or "bf16".
        padded_columns, group, bits: Of the scheme.
        planes: The tiles' part of each plane, (tiles, units, 16) uint32, C-contiguous.
        scales: (tiles, groups, 16) float16.
        zeros: (tiles, groups, 16) uint8, or None.

    Returns:
        Sum of squared errors, sum of squared weights, largest error; None where a weight is not finite or a scale too
        large for f16: the reference says which.
    """
    widths = [plane.shape[1] * 32 // padded_columns for plane in planes] + [0]
    addresses = [plane.ctypes.data for plane in planes] + [0]
    scratch, sums = np.empty(padded_columns * 5, np.uint8), np.zeros(3, np.float64)
    words = np.zeros(WORDS // 8, np.int64)
    words[:9] = [
        source.ctypes.data,
        source.strides[0],
        KINDS[kind],
        *source.shape,
        padded_columns,
        group,
        bits,
        int(zeros is not None),
    ]
    words[9:13] = [*widths[:2], *addresses[:2]]
    words[13:] = [
        scales.ctypes.data,
        0 if zeros is None else zeros.ctypes.data,
        scratch.ctypes.data,
        sums.ctypes.data,
    ]
    if encode_block(words.ctypes.data):
        return None
    return float(sums[0]), float(sums[1]), float(sums[2])
