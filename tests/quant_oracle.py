"""spec/schemes.md once more, number by number, with the standard library alone: an oracle for the NumPy code."""

from __future__ import annotations

import math
import struct

PLANES = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 8: [8]}
SIZES = {"f32": 4, "f16": 2, "bf16": 2}


def f32(x: float) -> float:
    """The nearest binary32; after one operation in double precision on two binary32, it is their binary32 result."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def f16(x: float) -> float:
    """The nearest binary16."""
    try:
        return struct.unpack("<e", struct.pack("<e", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bf16_bits(x: float) -> int:
    """S3.1: the upper half of the binary32, to nearest, halves to even."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    upper, lower = bits >> 16, bits & 0xFFFF
    return upper + (lower > 0x8000 or (lower == 0x8000 and upper % 2 == 1))


def up(n: int, step: int) -> int:
    return -(-n // step) * step


def padded(columns: int, group: int) -> tuple[int, int]:
    """S5.1, S1.3: padded columns and the columns of a group."""
    width = up(columns, math.lcm(group, 32) if group else 32)
    return width, group or width


def parse(name: str) -> tuple[int, bool, int]:
    """S2.1: bits, zero-point or not, group (0: row) of a uniform scheme's name."""
    head, tail = name[1:].split("-")
    return int(head.rstrip("z")), head.endswith("z"), 0 if tail == "row" else int(tail[1:])


def place(bits: int, rows: int, columns: int, row: int, column: int) -> list[tuple[int, int, int]]:
    """S5.5, S5.6: byte, lowest bit and width of each part of a code, low part first; rows and columns are padded."""
    parts, start = [], 0
    for b in PLANES[bits]:
        unit_columns = 32 // b
        tile, r = row // 16, row % 16
        unit, inside = column // unit_columns, column % unit_columns
        q, j = inside // 4, inside % 4
        units = columns // unit_columns
        parts.append((start + (tile * units + unit) * 64 + 4 * r + j, q * b, b))
        start += rows * columns * b // 8
    return parts


def quantize(weights: list[float], bits: int, zero_point: bool) -> tuple[float, int, list[int]]:
    """S6 to S8: stored scale, zero-point and codes of one group (padding included) of binary32 weights."""
    half, levels = 2 ** (bits - 1), 2**bits - 1
    if zero_point:
        low, high = min(min(weights), 0.0), max(max(weights), 0.0)
        s = f32(f32(high - low) / levels)
    else:
        low, high = min(weights), max(weights)
        s = f32((high if high >= -low else low) * (-1 / half))
    scale = f16(s) or 0.0
    assert math.isfinite(scale)
    inverse = f32(1 / scale) if scale else 0.0
    zero = min(max(round(f32(-low * inverse)), 0), levels) if zero_point else half
    return scale, zero, [min(max(round(f32(w * inverse)) + zero, 0), levels) for w in weights]


def encode(name: str, matrices: list[list[list[float]]]) -> dict[str, bytes]:
    """The segments of matrices, each a list of rows of binary32 weights."""
    rows, columns = len(matrices[0]), len(matrices[0][0])
    if name in SIZES:
        return {"values": b"".join(_encode_floats(name, matrix, rows, columns) for matrix in matrices)}
    bits, zero_point, group = parse(name)
    width, group = padded(columns, group)
    parts = [_encode_uniform(matrix, bits, zero_point, group, up(rows, 16), width) for matrix in matrices]
    roles = ["codes", "scales", "zeros"] if zero_point else ["codes", "scales"]
    return {role: b"".join(bytes(part[i]) for part in parts) for i, role in enumerate(roles)}


def _encode_floats(name: str, matrix: list[list[float]], rows: int, columns: int) -> bytes:
    out = bytearray(up(rows, 16) * columns * SIZES[name])
    for r, row in enumerate(matrix):
        for c, w in enumerate(row):
            raw = struct.pack("<H", bf16_bits(w)) if name == "bf16" else struct.pack("<f" if name == "f32" else "<e", w)
            at = ((r // 16 * columns + c) * 16 + r % 16) * len(raw)
            out[at : at + len(raw)] = raw
    return bytes(out)


def _encode_uniform(
    matrix: list[list[float]], bits: int, zero_point: bool, group: int, rows: int, columns: int
) -> tuple[bytearray, bytearray, bytearray]:
    groups = columns // group
    codes, scales, zeros = bytearray(rows * columns * bits // 8), bytearray(rows * groups * 2), bytearray(rows * groups)
    for r in range(rows):
        row = matrix[r] + [0.0] * (columns - len(matrix[r])) if r < len(matrix) else [0.0] * columns
        for g in range(groups):
            scale, zero, numbers = quantize(row[g * group : (g + 1) * group], bits, zero_point)
            at = (r // 16 * groups + g) * 16 + r % 16
            scales[2 * at : 2 * at + 2], zeros[at] = struct.pack("<e", scale), zero
            for i, code in enumerate(numbers):
                for byte, bit, b in place(bits, rows, columns, r, g * group + i):
                    codes[byte] |= (code % 2**b) << bit
                    code >>= b
    return codes, scales, zeros


def decode(name: str, count: int, rows: int, columns: int, segments: dict[str, bytes]) -> list[float]:
    """The numbers of `count` matrices in order (S3.4, S4.1)."""
    out = []
    for m in range(count):
        part = {role: raw[m * len(raw) // count : (m + 1) * len(raw) // count] for role, raw in segments.items()}
        for r in range(rows):
            for c in range(columns):
                out.append(_number(name, part, rows, columns, r, c))
    return out


def _number(name: str, part: dict[str, bytes], rows: int, columns: int, r: int, c: int) -> float:
    if name in SIZES:
        at = ((r // 16 * columns + c) * 16 + r % 16) * SIZES[name]
        return number(name, part["values"][at : at + SIZES[name]])
    bits, zero_point, group = parse(name)
    width, group = padded(columns, group)
    at = (r // 16 * (width // group) + c // group) * 16 + r % 16
    scale = struct.unpack("<e", part["scales"][2 * at : 2 * at + 2])[0]
    zero = part["zeros"][at] if zero_point else 2 ** (bits - 1)
    code, low = 0, 0
    for byte, bit, b in place(bits, up(rows, 16), width, r, c):
        code |= (part["codes"][byte] >> bit & (2**b - 1)) << low
        low += b
    return f32(scale * (code - zero))


def number(name: str, raw: bytes) -> float:
    """S3.1: one number of a float type."""
    if name == "bf16":
        return struct.unpack("<f", b"\0\0" + raw)[0]
    return struct.unpack("<f" if name == "f32" else "<e", raw)[0]
