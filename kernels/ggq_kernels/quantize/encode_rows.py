"""Quantizing rows of a matrix straight into its tiles: AbsMax and zero-point, bit for bit as the NumPy reference does.

All arithmetic is float32, in the reference's order, never fused: scale rounded to f16, inverse = 1 / scale, code =
rint(weight * inverse) + zero. One thread encodes one block of rows; the caller runs several blocks at once. A row goes
through four loops, each over what the one before left in the first-level cache: the extremes of its groups, their
scales, the codes, the planes.

Source: spec/schemes.md, S6 to S8.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, types

from ggq_kernels.code.compiled import compiled, inlined
from ggq_kernels.vector.isa import VALUES, load_f16, load_value, store_values, value_bytes
from ggq_kernels.vector.simd import (
    I8,
    I16,
    I32,
    F32x16,
    TagType,
    absolute,
    add,
    constant,
    div,
    greater,
    largest,
    load,
    maximum,
    mul,
    negative,
    primitive,
    read_f32,
    read_f64,
    read_i32,
    read_i64,
    read_u8,
    read_u16,
    round_even,
    splat_f32,
    store,
    store_f32,
    subtract,
    total,
    write_f64,
    write_i32,
    write_u8,
    write_u16,
)
from ggq_kernels.vector.simd import call as call_named

F32, F16, BF16 = VALUES["f32"], VALUES["f16"], VALUES["bf16"]

STEP = 32
"""Columns handled at a time; groups are multiples of it."""

# Operands, as byte offsets.
SOURCE, STRIDE, ROWS, COLUMNS, PADDED, GROUP, BITS, ASYMMETRIC = range(0, 64, 8)
WIDTH0, WIDTH1, PLANE0, PLANE1, SCALES, ZEROS, SUMS = range(64, 120, 8)
# Scratch of one row: the weights with zeros behind them, its codes, and by group: the largest and the smallest weight
# as they are stored, scale, inverse, zero-point.
ROW, CODES, HIGHS, LOWS, SCALE, INVERSE, ZERO, WORDS = range(120, 184, 8)


# ---- floats ordered as integers: magnitudes grow with the bits, and the sign is the highest bit


def _raw(kind: TagType) -> ir.VectorType:
    return ir.VectorType(I32 if kind.values[0] == "f32" else I16, STEP)


@primitive(types.void, None, types.int64, types.int64, types.int64, types.int64)
def write_extremes(b: Any, kind: TagType, _: Any, start: Any, end: Any, high: Any, low: Any) -> None:
    """Write the largest and the smallest of the weights from one address to another, where there are both signs.

    As signed integers every positive number is larger than every negative one, as unsigned integers every negative
    one is, and the magnitude decides among the rest. Where all have one sign, both are the one of largest magnitude.
    NaN and infinity are larger than any number, so they are found.
    """
    vector = _raw(kind)
    step = ir.Constant(start.type, STEP * vector.element.width // 8)
    before, body, after = b.block, b.append_basic_block("group"), b.append_basic_block("extremes")
    first = load(b, start, vector, 2)
    b.branch(body)
    b.position_at_end(body)
    at, top, bottom = b.phi(start.type), b.phi(vector), b.phi(vector)
    v = load(b, at, vector, 2)
    top_now = b.select(b.icmp_signed(">", v, top), v, top)
    bottom_now = b.select(b.icmp_unsigned(">", v, bottom), v, bottom)
    following = b.add(at, step)
    for phi, begin, now in ((at, start, following), (top, first, top_now), (bottom, first, bottom_now)):
        phi.add_incoming(begin, before)
        phi.add_incoming(now, body)
    b.cbranch(b.icmp_unsigned("<", following, end), body, after)
    b.position_at_end(after)
    name = f"v{STEP}i{vector.element.width}"
    store(b, call_named(b, f"llvm.vector.reduce.smax.{name}", vector.element, top_now), high, 2)
    store(b, call_named(b, f"llvm.vector.reduce.umax.{name}", vector.element, bottom_now), low, 2)


# ---- 16 weights or groups at a time


@primitive(F32x16, F32x16)
def inverse_or_zero(b: Any, x: Any) -> Any:
    """1 / x, or 0 where x is 0."""
    zero, one = constant(F32x16.ir, 0.0), constant(F32x16.ir, 1.0)
    return b.select(b.fcmp_ordered("==", x, zero), zero, b.fdiv(one, x))


@primitive(F32x16, F32x16, F32x16)
def of_larger_size(b: Any, top: Any, bottom: Any) -> Any:
    """`top` where it is at least minus the negative `bottom`, which is given without its sign, else `-bottom`."""
    return b.select(b.fcmp_ordered(">=", top, bottom), top, b.fneg(bottom))


@primitive(F32x16, F32x16, F32x16, F32x16)
def steps(b: Any, x: Any, low: Any, high: Any) -> Any:
    """Rounded to whole numbers, halves to even, and kept within two; |x| < 2**22."""
    r = greater(b, round_even(b, x), low)
    return b.select(b.fcmp_ordered("<", r, high), r, high)


@primitive(types.void, types.int64, F32x16)
def store_bytes(b: Any, address: Any, x: Any) -> None:
    """Write whole numbers from 0 to 255 as bytes."""
    whole = b.fptosi(x, ir.VectorType(I32, 16))
    store(b, b.trunc(whole, ir.VectorType(I8, 16)), address, 1)


@inlined
def encode_scales(kind: Any, words: int, groups: int, scales: int, zeros: int) -> bool:
    """Scales, inverses and zero-points of a row's groups; `scales` and `zeros` are the places of the first in the
    tile. False where a weight is not finite or a scale too large for f16.

    As in the reference: the largest of both signs for AbsMax, the range widened to hold zero for zero-point.
    """
    bits, highs, lows = read_i64(words + BITS), read_i64(words + HIGHS), read_i64(words + LOWS)
    scale_at, inverse_at, zero_at = read_i64(words + SCALE), read_i64(words + INVERSE), read_i64(words + ZERO)
    nothing, levels = splat_f32(float32(0.0)), splat_f32(float32((1 << bits) - 1))
    share, middle = splat_f32(float32(-1.0) / float32(1 << (bits - 1))), splat_f32(float32(1 << (bits - 1)))
    check = nothing
    for g in range(0, groups, 16):
        at = g * value_bytes(kind)
        top, bottom = load_value(kind, highs + at), negative(load_value(kind, lows + at))
        check = add(check, add(mul(top, nothing), mul(bottom, nothing)))  # NaN and infinity times zero is NaN
        if zeros != 0:
            top, bottom = maximum(top, nothing), maximum(bottom, nothing)
            scale = div(add(top, bottom), levels)
        else:
            scale = mul(of_larger_size(top, bottom), share)
        store_values(F16, scale_at + 4 * g, scale)
        scale = add(load_f16(scale_at + 4 * g), nothing)  # of both zeros, the positive one
        check = add(check, mul(scale, nothing))
        store_values(F16, zero_at + 4 * g, scale)
        for i in range(g, min(g + 16, groups)):
            write_u16(scales + 32 * i, read_u16(zero_at + 4 * g + 2 * (i - g)))
        inverse, zero = inverse_or_zero(scale), middle
        if zeros != 0:
            zero = steps(mul(bottom, inverse), nothing, levels)
            store_bytes(zero_at + 4 * g, zero)
            for i in range(g, min(g + 16, groups)):
                write_u8(zeros + 16 * i, read_u8(zero_at + 4 * g + (i - g)))
        store_f32(scale_at + 4 * g, scale)
        store_f32(inverse_at + 4 * g, inverse)
        store_f32(zero_at + 4 * g, zero)
    return total(check) == float32(0.0)


@inlined
def encode_row(kind: Any, words: int, row: int, scales: int, zeros: int) -> bool:
    """Scales, zero-points and codes (one byte each) of a row of padded weights, and its error; False where a weight
    is not finite or a scale too large."""
    padded, group, bits = read_i64(words + PADDED), read_i64(words + GROUP), read_i64(words + BITS)
    codes, highs, lows, sums = (
        read_i64(words + CODES),
        read_i64(words + HIGHS),
        read_i64(words + LOWS),
        read_i64(words + SUMS),
    )
    groups, size = padded // group, value_bytes(kind)
    for g in range(groups):
        start = row + g * group * size
        write_extremes(kind, start, start + group * size, highs + g * size, lows + g * size)
    if not encode_scales(kind, words, groups, scales, zeros):
        return False
    scale_at, inverse_at, zero_at = read_i64(words + SCALE), read_i64(words + INVERSE), read_i64(words + ZERO)
    levels = float32((1 << bits) - 1)
    wrong = signal = worst = splat_f32(float32(0.0))
    for g in range(groups):
        zero = read_f32(zero_at + 4 * g)
        low, high, zeros16 = splat_f32(-zero), splat_f32(levels - zero), splat_f32(zero)
        scale, inverse = splat_f32(read_f32(scale_at + 4 * g)), splat_f32(read_f32(inverse_at + 4 * g))
        for c in range(g * group, (g + 1) * group, 16):
            w = load_value(kind, row + c * size)
            step = steps(mul(w, inverse), low, high)
            store_bytes(codes + c, add(step, zeros16))
            difference = subtract(w, mul(scale, step))
            wrong, signal = add(wrong, mul(difference, difference)), add(signal, mul(w, w))
            worst = maximum(worst, absolute(difference))
    write_f64(sums, read_f64(sums) + total(wrong))
    write_f64(sums + 8, read_f64(sums + 8) + total(signal))
    write_f64(sums + 16, max(read_f64(sums + 16), largest(worst)))
    return True


@inlined
def pack_plane(codes: int, columns: int, first: int, width: int, plane: int, lane: int) -> None:
    """Bits [first, first + width) of a row's codes into the row's lane of a plane; `plane` is the tile's address.

    Eight codes are one word, whose halves are the runs 2k and 2k + 1 of a unit.
    """
    mask, out = ((1 << width) - 1) * 0x0101010101010101, plane + lane * 4
    if width == 8:
        for unit in range(columns // 4):
            write_i32(out + unit * 64, read_i32(codes + unit * 4))
    elif width == 4:
        for unit in range(columns // 8):
            pair = (read_i64(codes + unit * 8) >> first) & mask
            write_i32(out + unit * 64, pair | (pair >> 28))
    elif width == 2:
        for unit in range(columns // 16):
            low = (read_i64(codes + unit * 16) >> first) & mask
            high = (read_i64(codes + unit * 16 + 8) >> first) & mask
            word = low | (high << 4)
            write_i32(out + unit * 64, word | (word >> 30))
    else:
        for unit in range(columns // 32):
            word = 0
            for k in range(4):
                word |= ((read_i64(codes + unit * 32 + k * 8) >> first) & mask) << (2 * k)
            write_i32(out + unit * 64, word | (word >> 31))


@inlined
def encode_rows(kind: Any, words: int) -> int:
    """See `encode_f32`."""
    rows, columns, padded = read_i64(words + ROWS), read_i64(words + COLUMNS), read_i64(words + PADDED)
    source, stride, scratch = read_i64(words + SOURCE), read_i64(words + STRIDE), read_i64(words + ROW)
    width0, width1, codes = read_i64(words + WIDTH0), read_i64(words + WIDTH1), read_i64(words + CODES)
    scales, zeros = read_i64(words + SCALES), read_i64(words + ZEROS)
    groups = padded // read_i64(words + GROUP)
    size = value_bytes(kind)
    for r in range((rows + 15) // 16 * 16):
        tile, lane, row = r // 16, r % 16, source + r * stride
        here = columns if r < rows else 0
        if here < padded:  # zeros behind it
            for byte in range(here * size):
                write_u8(scratch + byte, read_u8(row + byte))
            for byte in range(here * size, padded * size):
                write_u8(scratch + byte, 0)
            row = scratch
        place = tile * groups * 16 + lane
        zero_place = 0 if zeros == 0 else zeros + place
        if not encode_row(kind, words, row, scales + 2 * place, zero_place):
            return r + 1
        pack_plane(codes, padded, 0, width0, read_i64(words + PLANE0) + tile * padded * 2 * width0, lane)
        if width1 != 0:
            pack_plane(codes, padded, width0, width1, read_i64(words + PLANE1) + tile * padded * 2 * width1, lane)
    return 0


@compiled(1, returns=True)
def encode_f32(words: int) -> int:
    """Encode a block of rows of f32 from operands at an address.

    Returns:
        0, or 1 + the row where a weight is not finite or a scale too large; what was written is of no use then.
    """
    return encode_rows(F32, words)


@compiled(1, returns=True)
def encode_f16(words: int) -> int:
    """The same for f16."""
    return encode_rows(F16, words)


@compiled(1, returns=True)
def encode_bf16(words: int) -> int:
    """The same for bf16."""
    return encode_rows(BF16, words)
