"""spec/schemes.md once more, number by number, with the standard library alone: an oracle for the NumPy code."""

from __future__ import annotations

import math
import re
import struct
from typing import NamedTuple

PLANES = {1: [1], 2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 8: [8]}
NF4 = [-63, -44, -33, -25, -18, -12, -6, 0, 5, 10, 16, 21, 28, 35, 46, 63]
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


class Record(NamedTuple):
    """S1.1, but for what all schemes of codes have in common."""

    kind: str
    bits: int
    zero: str
    group: int
    subscale: int
    transform: list[str]

    @property
    def offset(self) -> int:
        """S4.4: B."""
        return 2 ** (self.subscale - 1) if self.zero == "" else 0

    @property
    def padding(self) -> int:
        """S5.2: the code of padding, where there are no zero-points."""
        if self.kind == "q" and self.zero == "":
            return 2 ** (self.bits - 1)
        return int(self.kind == "ternary")

    @property
    def last(self) -> int:
        """The largest code."""
        return 2 if self.kind == "ternary" else 2**self.bits - 1


def parse(name: str) -> Record:
    """S2.1: the record of a name that is no float's."""
    name, *transform = name.split("+")
    head, group, *rest = name.split("-")
    kind, bits, zero = re.fullmatch(r"(q|c|ternary|binary)([1-8]?)([zm]?)", head).groups()
    bits = int(bits) if bits else {"ternary": 2, "binary": 1}[kind]
    return Record(kind, bits, zero, 0 if group == "row" else int(group[1:]), int(rest[0][1:]) if rest else 0, transform)


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


def level(record: Record, code: int, book: list[int]) -> int:
    """S4.1: what a code stands for, in steps, before the zero-point is taken off."""
    if record.kind == "c":
        return book[code]
    if record.kind == "binary":
        return 2 * code - 1
    return code - 1 if record.kind == "ternary" else code


def wished(record: Record, weights: list[float], present: int, nf4: bool) -> float:
    """S7.2, S8.2, S11.1, S12.1 and S12.3: the step of one group before it is rounded to what can be stored."""
    low, high = min(weights), max(weights)
    if record.kind in ("ternary", "binary"):
        return f32(math.fsum(abs(w) for w in weights) / max(present, 1))
    if record.zero:
        return f32(f32(max(high, 0.0) - min(low, 0.0)) / record.last)
    extreme = high if high >= -low else low
    if record.kind == "c":
        return f32(abs(extreme) / 63) if nf4 else extreme / -64
    return f32(extreme * (-1 / 2 ** (record.bits - 1)))


def store(record: Record, numbers: list[float], offset: int, reach: float) -> tuple[list[float], list[int]]:
    """S6.1, S6.6: numbers of the groups of a row as scales, and as sub-scales if there are two levels."""
    if not record.subscale:
        return [f16(x) or 0.0 for x in numbers], []
    uppers, lowers, most = [], [], 2**record.subscale - 1
    for first in range(0, len(numbers), 8):
        part = numbers[first : first + 8]
        high, low = max([*part, 0.0] if len(part) < 8 else part), min([*part, 0.0] if len(part) < 8 else part)
        upper = f16(f32((high if high >= -low else low) * f32(1 / (-offset or most)))) or 0.0
        inverse = f32(1 / upper) if upper else 0.0
        uppers.append(upper)
        for x in part:
            exact = f32(x * inverse)
            lower = round(exact)
            if lower == 0 and f32(abs(exact) * reach) > 0.5:
                lower = 1 if exact > 0 else -1
            lowers.append(min(max(lower + offset, 0), most))
    return uppers, lowers


def widen(record: Record, uppers: list[float], lowers: list[int], offset: int) -> list[float]:
    """S4.4, S4.5: the step, or the minimum, of every group of a row."""
    return [f32(uppers[g // 8] * (x - offset)) for g, x in enumerate(lowers)] if record.subscale else uppers


def nearest(record: Record, w: float, step: float, zero: int, minimum: float, book: list[int]) -> int:
    """S6.3, S8.4, S11.3, S12.2: the code of a weight."""
    inverse = f32(1 / step) if step else 0.0
    steps = f32(f32(w + minimum) * inverse)
    if record.kind == "binary":
        return int(steps >= 0)
    if record.kind == "c":
        return min(range(len(book)), key=lambda code: (abs(book[code] - steps), book[code]))
    return min(max(round(steps) + zero, 0), record.last)


def encode(
    name: str,
    matrices: list[list[list[float]]],
    book: list[int] | None = None,
    given: dict[str, bytes] | None = None,
) -> dict[str, bytes]:
    """The segments of matrices, each a list of rows of binary32 weights.

    A codebook is NF4's if none is given, and a transform is that of the `given` segments, for one matrix.
    """
    rows, columns = len(matrices[0]), len(matrices[0][0])
    if name in SIZES:
        return {"values": b"".join(_encode_floats(name, matrix, rows, columns) for matrix in matrices)}
    record = parse(name)
    kept = {role: (given or {})[f"input_{role}"] for role in record.transform}
    scale = [x for (x,) in struct.iter_unpack("<f", kept.get("scale", b""))] or [1.0] * columns
    order = [x for (x,) in struct.iter_unpack("<I", kept.get("order", b""))] or list(range(columns))
    stored = [[[f32(row[order[j]] / scale[j]) for j in range(columns)] for row in matrix] for matrix in matrices]
    parts = [_encode_codes(record, matrix, book or NF4, book is None) for matrix in stored]
    whole = {role: b"".join(bytes(part[role]) for part in parts) for role in parts[0]}
    whole |= {"codebook": struct.pack(f"{len(book or NF4)}b", *(book or NF4))} if record.kind == "c" else {}
    return whole | {f"input_{role}": kept[role] for role in record.transform}


def _encode_floats(name: str, matrix: list[list[float]], rows: int, columns: int) -> bytes:
    out = bytearray(up(rows, 16) * columns * SIZES[name])
    for r, row in enumerate(matrix):
        for c, w in enumerate(row):
            raw = struct.pack("<H", bf16_bits(w)) if name == "bf16" else struct.pack("<f" if name == "f32" else "<e", w)
            at = ((r // 16 * columns + c) * 16 + r % 16) * len(raw)
            out[at : at + len(raw)] = raw
    return bytes(out)


def _encode_codes(record: Record, matrix: list[list[float]], book: list[int], nf4: bool) -> dict[str, bytearray]:
    columns, rows = len(matrix[0]), up(len(matrix), 16)
    width, group = padded(columns, record.group)
    groups = width // group
    uppers = -(-groups // 8) if record.subscale else groups
    lower_bytes = sum(rows * -(-groups * b // 8) for b in PLANES.get(record.subscale, []))
    out = {"codes": bytearray(rows * width * record.bits // 8), "scales": bytearray(rows * uppers * 2)}
    out |= {"subscales": bytearray(lower_bytes)} if record.subscale else {}
    out |= {"zeros": bytearray(rows * groups)} if record.zero == "z" else {}
    out |= {"minimums": bytearray(rows * uppers * 2)} if record.zero == "m" else {}
    out |= {"subminimums": bytearray(lower_bytes)} if record.zero == "m" and record.subscale else {}
    for r in range(rows):
        zeros, codes = [0] * groups, [record.padding] * width
        if r < len(matrix):
            row = matrix[r] + [0.0] * (width - columns)
            cut = [row[g * group : (g + 1) * group] for g in range(groups)]
            wish = [wished(record, part, min(group, columns - g * group), nf4) for g, part in enumerate(cut)]
            taken = 2 ** (record.bits - 1) if record.kind == "q" and not record.zero else 0
            reach = max(abs(level(record, code, book) - taken) for code in range(record.last + 1))
            scales, lowers = store(record, wish, record.offset, reach)
            steps, minimums = widen(record, scales, lowers, record.offset), [0.0] * groups
            least = [max(-min(part), 0.0) for part in cut]
            if record.zero == "z":
                zeros = [nearest(record, w, step, 0, 0.0, book) for w, step in zip(least, steps, strict=True)]
                _place_bytes(out["zeros"], r, zeros)
            if record.zero == "m":
                tops, subs = store(record, least, 0, 1.0)
                minimums = widen(record, tops, subs, 0)
                _place_halves(out["minimums"], r, tops)
                _place_lowers(record, out.get("subminimums"), rows, r, subs)
            _place_halves(out["scales"], r, scales)
            _place_lowers(record, out.get("subscales"), rows, r, lowers)
            for c, w in enumerate(row):
                g = c // group
                zero = zeros[g] if record.zero == "z" else record.padding
                codes[c] = nearest(record, w, steps[g], zero, minimums[g], book) if c < columns else zero
        elif record.zero == "z":
            codes = [0] * width
        for c, code in enumerate(codes):
            _place(out["codes"], place(record.bits, rows, width, r, c), code)
    return out


def _place(segment: bytearray, parts: list[tuple[int, int, int]], code: int) -> None:
    for byte, bit, b in parts:
        segment[byte] |= (code % 2**b) << bit
        code >>= b


def _place_bytes(segment: bytearray, r: int, numbers: list[int]) -> None:
    for g, number in enumerate(numbers):
        segment[(r // 16 * len(numbers) + g) * 16 + r % 16] = number


def _place_halves(segment: bytearray, r: int, numbers: list[float]) -> None:
    for g, number in enumerate(numbers):
        assert math.isfinite(number)
        struct.pack_into("<e", segment, 2 * ((r // 16 * len(numbers) + g) * 16 + r % 16), number)


def _place_lowers(record: Record, segment: bytearray | None, rows: int, r: int, numbers: list[int]) -> None:
    for g, number in enumerate(numbers):
        assert segment is not None
        _place(segment, place_lower(record.subscale, rows, len(numbers), r, g), number)


def place_lower(bits: int, rows: int, groups: int, row: int, group: int) -> list[tuple[int, int, int]]:
    """S5.7: byte, lowest bit and width of each part of a sub-scale, low part first."""
    parts, start = [], 0
    for b in PLANES[bits]:
        blocks = -(-groups * b // 8)
        byte = start + (row // 16 * blocks + group * b // 8) * 16 + row % 16
        parts.append((byte, group * b % 8, b))
        start += rows * blocks
    return parts


def collect(segment: bytes, parts: list[tuple[int, int, int]]) -> int:
    """The number whose parts lie at these places."""
    number = low = 0
    for byte, bit, b in parts:
        number |= (segment[byte] >> bit & (2**b - 1)) << low
        low += b
    return number


def decode(name: str, count: int, rows: int, columns: int, segments: dict[str, bytes]) -> list[float]:
    """The numbers of `count` matrices in order (S3.4, S4.1, S10.1)."""
    out = []
    for m in range(count):
        part = {role: raw[m * len(raw) // count : (m + 1) * len(raw) // count] for role, raw in segments.items()}
        if "codebook" in segments:
            part["codebook"] = segments["codebook"]
        for r in range(rows):
            row = [_number(name, part, rows, columns, r, c) for c in range(columns)]
            out += row if name in SIZES else _effective(row, part)
    return out


def _effective(stored: list[float], part: dict[str, bytes]) -> list[float]:
    """S10.1: a row of weights from a stored row."""
    weights = [0.0] * len(stored)
    for j, number in enumerate(stored):
        scale = struct.unpack_from("<f", part["input_scale"], 4 * j)[0] if "input_scale" in part else 1.0
        at = struct.unpack_from("<I", part["input_order"], 4 * j)[0] if "input_order" in part else j
        weights[at] = f32(number * scale)
    return weights


def _number(name: str, part: dict[str, bytes], rows: int, columns: int, r: int, c: int) -> float:
    if name in SIZES:
        at = ((r // 16 * columns + c) * 16 + r % 16) * SIZES[name]
        return number(name, part["values"][at : at + SIZES[name]])
    record = parse(name)
    width, group = padded(columns, record.group)
    groups, g = width // group, c // group
    step = _per_group(record, part, "scales", "subscales", up(rows, 16), groups, r, g, record.offset)
    code = collect(part["codes"], place(record.bits, up(rows, 16), width, r, c))
    book = list(struct.unpack(f"{2**record.bits}b", part["codebook"])) if record.kind == "c" else []
    steps = level(record, code, book)
    if record.kind == "q" and record.zero != "m":
        steps -= part["zeros"][(r // 16 * groups + g) * 16 + r % 16] if record.zero == "z" else record.padding
    found = f32(step * steps)
    if record.zero == "m":
        return f32(found - _per_group(record, part, "minimums", "subminimums", up(rows, 16), groups, r, g, 0))
    return found


def _per_group(
    record: Record, part: dict[str, bytes], upper: str, lower: str, rows: int, groups: int, r: int, g: int, offset: int
) -> float:
    """S4.4, S4.5: the step or the minimum of a group."""
    uppers, u = (-(-groups // 8), g // 8) if record.subscale else (groups, g)
    top: float = struct.unpack_from("<e", part[upper], 2 * ((r // 16 * uppers + u) * 16 + r % 16))[0]
    if not record.subscale:
        return top
    return f32(top * (collect(part[lower], place_lower(record.subscale, rows, groups, r, g)) - offset))


def broken_rule(name: str, rows: int, columns: int, segments: dict[str, bytes]) -> str | None:
    """The first rule on numbers that a matrix of one tile breaks, looking at them one by one."""
    assert rows <= 16
    if name in SIZES:
        return _broken_float(name, rows, columns, segments["values"])
    record, high = parse(name), up(rows, 16)
    width, group = padded(columns, record.group)
    groups, inside = width // group, range(columns)
    halves = [x for role in ("scales", "minimums") for (x,) in struct.iter_unpack("<e", segments.get(role, b""))]
    if not all(map(math.isfinite, halves)):
        return "S4.2"
    if any(zero > record.last for zero in segments.get("zeros", b"")):
        return "S4.3"
    if not all(-64 <= entry <= 63 for (entry,) in struct.iter_unpack("b", segments.get("codebook", b""))):
        return "S4.7"
    scale = [x for (x,) in struct.iter_unpack("<f", segments.get("input_scale", b""))]
    if not all(map(math.isfinite, scale)) or any(scale[columns:]):
        return "S10.2"
    order = [x for (x,) in struct.iter_unpack("<I", segments.get("input_order", b""))]
    if order and (sorted(order[:columns]) != list(inside) or order[columns:] != list(range(columns, width))):
        return "S10.3"
    places = [[place(record.bits, high, width, r, c) for c in range(width)] for r in range(high)]
    codes = [[collect(segments["codes"], parts) for parts in row] for row in places]
    if record.kind == "ternary" and any(code == 3 for row in codes for code in row):
        return "S4.6"
    lowers = [segments[role] for role in ("subscales", "subminimums") if role in segments]
    belong: dict[int, int] = {}
    for r in range(high):
        for g in range(groups):
            for byte, bit, b in place_lower(record.subscale, high, groups, r, g) if lowers else []:
                belong[byte] = belong.get(byte, 0) | (2**b - 1) << bit
    if any(byte & ~belong[at] for segment in lowers for at, byte in enumerate(segment)):
        return "S5.7"
    for r in range(high):
        for c in range(columns if r < rows else 0, width):
            at = (r // 16 * groups + c // group) * 16 + r % 16
            if codes[r][c] != (segments["zeros"][at] if record.zero == "z" else record.padding):
                return "S5.2"
    for role in {"scales", "minimums", "subscales", "subminimums"} & segments.keys():
        size = 2 if role in ("scales", "minimums") else 1
        for at in range(0, len(segments[role]), size):
            if at // size % 16 >= rows and any(segments[role][at : at + size]):
                return "S5.2"
    return None


def _broken_float(name: str, rows: int, columns: int, values: bytes) -> str | None:
    for at in range(rows * columns):
        if not math.isfinite(_number(name, {"values": values}, rows, columns, at // columns, at % columns)):
            return "S3.2"
    size = SIZES[name]
    below = any(any(values[at : at + size]) for at in range(0, len(values), size) if at // size % 16 >= rows)
    return "S3.4" if below else None


def number(name: str, raw: bytes) -> float:
    """S3.1: one number of a float type."""
    if name == "bf16":
        return struct.unpack("<f", b"\0\0" + raw)[0]
    return struct.unpack("<f" if name == "f32" else "<e", raw)[0]
