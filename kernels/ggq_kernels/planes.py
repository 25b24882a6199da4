"""Codes of 2 to 8 bits taken out of their planes, and their product with 8-bit activations, 32 columns at a time
(spec/schemes.md)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.isa import Products, sub_codes
from ggq_kernels.simd import (
    FLOAT,
    I8,
    I16,
    I64,
    F32x16,
    I32x16,
    Tag,
    TagType,
    Tile,
    _reduce,
    constant,
    load,
    multiply_add,
    primitive,
    rows,
    splat,
)

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
"""Widths of a code's planes, low bits first (as ggq/format/scheme.py; a test keeps them equal)."""

CODES = {bits: Tag("codes", bits) for bits in PLANES}
"""The tag of each code width, an argument of the products below."""

_BYTES, _WORDS = ir.VectorType(I8, 64), ir.VectorType(I16, 32)
BLOCK = 32
"""Columns handled at a time: one unit of a 1-bit plane."""


def _field(b: Any, v: Any, first: int, bits: int, to: int) -> Any:
    """Bits [first, first + bits) of every byte, moved to bit `to`. Bytes are shifted as words, then masked: x86 has
    no byte shift."""
    mask = constant(_BYTES, ((1 << bits) - 1) << to)
    move = first - to
    if move:
        words = b.bitcast(v, _WORDS)
        words = b.lshr(words, constant(_WORDS, move)) if move > 0 else b.shl(words, constant(_WORDS, -move))
        v = b.bitcast(words, _BYTES)
    return v if bits == 8 else b.and_(v, mask)


class _Block:
    """The codes of 16 rows and 32 columns: loads each 64-byte unit once, yields quads of columns."""

    def __init__(self, b: Any, bits: int, addresses: tuple[Any, Any]) -> None:
        self.b, self.addresses = b, addresses
        self.units: dict[tuple[int, int], Any] = {}
        self.places = []  # (plane, width, first bit of the code)
        at = 0
        for plane, width in enumerate(PLANES[bits]):
            self.places.append((plane, width, at))
            at += width

    def unit(self, plane: int, index: int) -> Any:
        if (plane, index) not in self.units:
            self.units[plane, index] = load(self.b, self.addresses[plane], _BYTES, 64, 64 * index)
        return self.units[plane, index]

    def quad(self, q: int, first: int, bits: int) -> Any:
        """Bits [first, first + bits) of the codes of columns 4q .. 4q + 3, as 64 bytes (4 for each row)."""
        value = None
        for plane, width, at in self.places:
            low, high = max(first, at), min(first + bits, at + width)
            if low >= high:
                continue
            runs = 8 // width
            source = self.unit(plane, q // runs)
            part = _field(self.b, source, (q % runs) * width + low - at, high - low, low - first)
            value = part if value is None else self.b.or_(value, part)
        return value


@primitive(lambda codes, acc, *_: acc, None, None, types.int64, types.int64, types.int64)
def dot_block(b: Any, codes: TagType, tile: Tile, _: Any, acc: Any, plane0: Any, plane1: Any, x: Any) -> Any:
    """row i += codes of 16 rows and 32 columns . activations of token i.

    `plane0`, `plane1` are the addresses of the block in each plane; `x` holds int8 (8, M, 4): quads of columns,
    tokens, columns.
    """
    bits = codes.values[0]
    block = _Block(b, bits, (plane0, plane1))
    sums = [b.extract_value(acc, i) for i in range(tile.m)]
    for first, width in sub_codes(bits):
        products = Products(b, width, first, sums)
        for q in range(BLOCK // 4):
            products.dot(block.quad(q, first, width), b.add(x, I64(4 * q * tile.m)))
        products.flush()
    return rows(b, tile, lambda i: sums[i])


@primitive(lambda codes, acc, *_: acc, None, None, F32x16, types.int64, types.int64, types.int64, types.int64)
def outer_block(
    b: Any, codes: TagType, tile: Tile, _: Any, acc: Any, zero: Any, plane0: Any, plane1: Any, x: Any, stride: Any
) -> Any:
    """row i += (codes of 16 rows and 32 columns - zero) . the float32 activations at x + i * stride bytes."""
    bits = codes.values[0]
    block = _Block(b, bits, (plane0, plane1))
    sums = [b.extract_value(acc, i) for i in range(tile.m)]
    sources = [b.add(x, b.mul(stride, I64(i))) for i in range(tile.m)]
    for q in range(BLOCK // 4):
        four = b.bitcast(block.quad(q, 0, bits), I32x16.ir)
        for j in range(4):
            byte = b.lshr(four, constant(I32x16.ir, 8 * j)) if j else four
            code = b.fsub(b.sitofp(b.and_(byte, constant(I32x16.ir, 255)), F32x16.ir), zero)
            for i in range(tile.m):
                value = load(b, sources[i], FLOAT, 4, 4 * (4 * q + j))
                sums[i] = multiply_add(b, code, splat(b, F32x16.ir, value), sums[i])
    return rows(b, tile, lambda i: sums[i])


@primitive(types.int64, None)
def plane0_bytes(b: Any, codes: TagType, _: Any) -> Any:
    """Bytes of a block of 16 rows and 32 columns in the first plane."""
    return I64(64 * PLANES[codes.values[0]][0])


@primitive(types.int64, None)
def plane1_bytes(b: Any, codes: TagType, _: Any) -> Any:
    """Bytes of a block in the second plane, 0 where there is none."""
    return I64(64 * sum(PLANES[codes.values[0]][1:]))


@primitive(F32x16, None, None, types.int64)
def zero_vector(b: Any, codes: TagType, zero: TagType, _c: Any, _z: Any, address: Any) -> Any:
    """The zero-points of 16 rows: bytes at an address, or the middle code when symmetric."""
    if zero.values[0]:
        return b.uitofp(load(b, address, ir.VectorType(I8, 16), 1), F32x16.ir)
    return constant(F32x16.ir, float(2 ** (codes.values[0] - 1)))


@primitive(lambda m: Tile(I32x16, m.values[0]), None)
def sums_of(b: Any, m: TagType, _: Any) -> Any:
    """An integer tile of zeros."""
    return rows(b, Tile(I32x16, m.values[0]), lambda i: ir.Constant(I32x16.ir, None))


@primitive(lambda t, *_: t, None, None, F32x16, types.int64)
def scale_add(b: Any, totals: Tile, sums: Tile, t: Any, acc: Any, scale: Any, address: Any) -> Any:
    """row i of t += float(acc[i]) * scale * (float32 at address + 4 * i)"""

    def row(i: int) -> Any:
        s = b.fmul(scale, splat(b, F32x16.ir, load(b, address, FLOAT, 4, 4 * i)))
        return multiply_add(b, b.sitofp(b.extract_value(acc, i), F32x16.ir), s, b.extract_value(t, i))

    return rows(b, totals, row)


@primitive(lambda t, *_: t, None, F32x16, types.int64)
def outer_add(b: Any, tile: Tile, t: Any, v: Any, address: Any) -> Any:
    """row i += v * (float32 at address + 4 * i)"""

    def row(i: int) -> Any:
        x = splat(b, F32x16.ir, load(b, address, FLOAT, 4, 4 * i))
        return multiply_add(b, v, x, b.extract_value(t, i))

    return rows(b, tile, row)


@primitive(types.float32, None)
def tile_sum(b: Any, tile: Tile, t: Any) -> Any:
    """The sum of all numbers of an integer tile."""
    v = b.extract_value(t, 0)
    for i in range(1, tile.m):
        v = b.add(v, b.extract_value(t, i))
    return b.sitofp(_reduce(b, v, lambda b, x, y: b.add(x, y)), FLOAT)
