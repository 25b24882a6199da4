"""Codes of 1 to 8 bits taken out of their planes, and their product with activations, 32 columns at a time
(spec/schemes.md).

A code stands for a whole number below 2**span: itself, an entry of a table (less the least possible one), or 0 and 2
for a binary code. What is subtracted from it, and the scale, are kept apart (steps.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ggq_kernels.product.sums import TABLE_BYTES, Lookups, tabled
from ggq_kernels.product.widths import PLANES
from ggq_kernels.vector.isa import (
    AHEAD,
    FOLDED,
    ISA,
    SHUFFLES,
    SIGNED,
    Products,
    arranged,
    emit_prefetch,
    look_up,
    sums_to_float,
)
from ggq_kernels.vector.simd import (
    FLOAT,
    I8,
    I16,
    I32,
    I64,
    F32x16,
    I32x16,
    Tag,
    TagType,
    Tile,
    _reduce,
    constant,
    field,
    load,
    multiply_add,
    primitive,
    rows,
    splat,
    store,
)

TABLE_BITS = (2, 3, 4)
"""Bits of codes that may stand for entries of a table."""
ENTRY_BITS, WIDE_ENTRY_BITS = 7, 8
"""Bits of a table's entries, once the least one (-64, or -128) is subtracted."""

_BYTES, _WORDS = ir.VectorType(I8, 64), ir.VectorType(I16, 32)
BLOCK = 32
"""Columns handled at a time: one unit of a 1-bit plane."""
BLOCK_BYTES = 16 * BLOCK
"""Bytes of a block whose codes have been taken out of their planes."""
HALF_BLOCK = 16
"""Columns of a piece where a group ends in the middle of a block (half_blocks.py)."""

CODES = {bits: Tag("codes", bits, 0, BLOCK) for bits in PLANES}
"""The tag of each code width, an argument of the products below: bits, bits of a table's entries (0 without), and
columns that surely share a step."""
TABLE_CODES = {bits: Tag("codes", bits, ENTRY_BITS, BLOCK) for bits in TABLE_BITS}
"""The same for codes that are places in a table."""
WIDE_TABLE_CODES = {bits: Tag("codes", bits, WIDE_ENTRY_BITS, BLOCK) for bits in TABLE_BITS}
"""The same for tables with entries that seven bits do not hold."""
HALF_CODES = {bits: Tag("codes", bits, 0, HALF_BLOCK) for bits in PLANES}
HALF_TABLE_CODES = {bits: Tag("codes", bits, WIDE_ENTRY_BITS, HALF_BLOCK) for bits in TABLE_BITS}
"""The same of groups that end in the middle of a block; tables of any entries."""


def span(codes: TagType) -> int:
    """Bits of the numbers that codes stand for."""
    bits, entry_bits, _ = codes.values
    return entry_bits or max(bits, 2)


class BlockNumbers:
    """The numbers of 16 rows and 32 columns: loads each 64-byte unit once, yields quads of columns."""

    def __init__(self, b: Any, codes: TagType, addresses: tuple[Any, Any], table: Any) -> None:
        self.b, self.addresses = b, addresses
        self.bits, entry_bits, _ = codes.values
        self.span = span(codes)
        self.table = load(b, table, ir.VectorType(I8, 16), 1) if entry_bits else None
        self.units: dict[tuple[int, int], Any] = {}
        self.pairs: dict[int, Any] = {}

    def unit(self, plane: int, index: int) -> Any:
        if (plane, index) not in self.units:
            self.units[plane, index] = load(self.b, self.addresses[plane], _BYTES, 64, 64 * index)
        return self.units[plane, index]

    def pair(self, q: int) -> Any:
        """3-bit codes of quads q and q + 2, in the low and the high half of each byte; bits 3 and 7 are 0.

        The third bits of both are brought to their places by a table: 23 instructions instead of 37 for eight quads."""
        if q not in self.pairs:
            four = field(self.b, self.unit(1, 0), q // 4 * 4, 4, 0)
            places = [(n >> q % 4 & 1) << 2 | (n >> q % 4 + 2 & 1) << 6 for n in range(16)]
            third = look_up(self.b, ir.Constant(ir.VectorType(I8, 16), places), four)
            low = self.b.bitcast(self.unit(0, q // 4), _WORDS)
            low = self.b.lshr(low, constant(_WORDS, 2)) if q % 4 else low
            low = self.b.and_(self.b.bitcast(low, _BYTES), constant(_BYTES, 0x33))
            self.pairs[q] = self.b.or_(low, third)
        return self.pairs[q]

    def quad(self, q: int) -> Any:
        """Columns 4q .. 4q + 3, as 64 bytes (4 for each row)."""
        if self.bits == 3 and SHUFFLES:
            high, pair = q // 2 % 2 == 1, self.pair(q - q // 2 % 2 * 2)
            if self.table is None:
                return field(self.b, pair, 4 * high, 4, 0)
            if high:  # no mask: what comes to bit 7 was bit 3
                pair = self.b.bitcast(self.b.lshr(self.b.bitcast(pair, _WORDS), constant(_WORDS, 4)), _BYTES)
            return look_up(self.b, self.table, pair)
        value, at = None, 1 if self.bits == 1 else 0
        for plane, width in enumerate(PLANES[self.bits]):
            runs = 8 // width
            part = field(self.b, self.unit(plane, q // runs), (q % runs) * width, width, at)
            value = part if value is None else self.b.or_(value, part)
            at += width
        return value if self.table is None else look_up(self.b, self.table, value)

    def signed_quad(self, q: int) -> Any:
        """The same as `Products` wants it: less 128 where this target multiplies signed bytes."""
        value = self.quad(q)
        return self.b.xor(value, constant(_BYTES, 128)) if self.span >= SIGNED else value


def _sums(codes: TagType, acc: Tile | TagType, *_: Any) -> Tile:
    return acc if isinstance(acc, Tile) else Tile(I32x16, acc.values[0])


def _products(b: Any, codes: TagType, kind: Tile | TagType, acc: Any, *places: int, pitch: int = 0) -> Products:
    """What to add products to, the sums at some places or all of them: nothing yet where a tag is given."""
    fresh = not isinstance(kind, Tile)
    chosen = places or range(_sums(codes, kind).m)
    sums = [ir.Constant(I32x16.ir, None) if fresh else b.extract_value(acc, i) for i in chosen]
    return Products(b, span(codes), sums, fresh, pitch)


Blocks = range | list[Any]
"""Numbers of blocks of a piece, or the one value that a loop counts."""


def _behind(b: Any, address: Any, k: Any, size: int) -> Any:
    """The address k times `size` bytes behind another; k is a number or a value."""
    return b.add(address, I64(k * size) if isinstance(k, int) else b.mul(k, I64(size)))


Summing = TypeVar("Summing", Products, Products | Lookups)


def _over_blocks(
    b: Any, count: Any, start: Callable[[], list[Summing]], add: Callable[[list[Summing], Blocks], None]
) -> list[Any]:
    """The sums of some products once add(products, blocks) was done for all blocks of a piece of 1, 2 or 4.

    Unless known, these are told apart by branches, since an inner loop takes 15 more instructions; but a loop serves
    them all where the code of one block is long already (the generic target, which would compile for twice the time).
    """
    slots = [cgutils.alloca_once_value(b, v) for each in start() for v in each.sums]

    def go_on(products: list[Summing], blocks: Blocks) -> None:
        add(products, blocks)
        for each in products:
            each.flush()
        for slot, v in zip(slots, [v for each in products for v in each.sums]):
            b.store(v, slot)

    if isinstance(count, ir.Constant):
        go_on(start(), range(count.constant))
    elif ISA == "generic":
        with cgutils.for_range(b, count) as loop:
            products, kept = start(), iter([b.load(slot) for slot in slots])
            for each in products:
                each.sums = [next(kept) for _ in each.sums]
            go_on(products, [loop.index])
    else:
        with b.if_else(b.icmp_signed("==", count, I64(1))) as (one, more):
            with one:
                go_on(start(), range(1))
            with more, b.if_else(b.icmp_signed("==", count, I64(2))) as (two, four):
                with two:
                    go_on(start(), range(2))
                with four:
                    go_on(start(), range(4))
    return [b.load(slot) for slot in slots]


def _dot_planes(b: Any, codes: TagType, products: Products, planes: Any, table: Any, x: Any, k: Any) -> None:
    """Add the products of block k behind the addresses in both planes; see `dot_block`."""
    m, quads, widths = products.pitch, BLOCK // 4, (*PLANES[codes.values[0]], 0)
    low, high = (_behind(b, plane, k, 64 * width) for plane, width in zip(planes, widths))
    at, first = (x, k * quads) if isinstance(k, int) else (_behind(b, x, k, BLOCK * m), 0)
    block = BlockNumbers(b, codes, (low, high), table)
    for q in range(quads):
        products.dot(block.signed_quad(q), at, 4 * (first + q) * m)


def prefetch_block(b: Any, codes: TagType, planes: Any, k: Any, ahead: Any) -> None:
    """Ask for the codes that lie `ahead` bytes behind those of a block."""
    for plane, width in zip(planes, PLANES[codes.values[0]]):
        later = b.add(_behind(b, plane, k, 64 * width), ahead)
        for unit in range(width):
            emit_prefetch(b, b.add(later, I64(64 * unit)))


@primitive(types.void, None, types.int64, types.int64)
def prefetch_codes(b: Any, codes: TagType, _: Any, plane0: Any, plane1: Any) -> None:
    """Ask for a block of codes."""
    prefetch_block(b, codes, (plane0, plane1), 0, I64(0))


@primitive(lambda codes, many, *rest: _sums(codes, *rest), None, None, None, *[types.int64] * 5)
def dot_block(
    b: Any,
    codes: TagType,
    many: TagType,
    kind: Tile | TagType,
    _: Any,
    __: Any,
    acc: Any,
    count: Any,
    plane0: Any,
    plane1: Any,
    table: Any,
    x: Any,
) -> Any:
    """row i += 16 rows and `count` times 32 columns . activations of token i, straight from the planes.

    `acc` are sums, or the tag of tokens where there are none yet. `plane0`, `plane1` are the addresses of the first of
    1, 2 or 4 blocks in each plane, `table` that of 16 entries; `x` holds int8 (8 * count, M, 4): quads of columns,
    tokens, columns; M is that of `many`, whose first tokens these may be.
    """

    def add(products: list[Products], blocks: Blocks) -> None:
        for k in blocks:
            prefetch_block(b, codes, (plane0, plane1), k, I64(AHEAD))
            _dot_planes(b, codes, products[0], (plane0, plane1), table, x, k)

    sums = _over_blocks(b, count, lambda: [_products(b, codes, kind, acc, pitch=many.values[-1])], add)
    return rows(b, _sums(codes, kind), lambda i: sums[i])


@primitive(_sums, None, None, *[types.int64] * 8)
def dot_tiles(
    b: Any,
    codes: TagType,
    kind: Tile | TagType,
    _: Any,
    acc: Any,
    count: Any,
    plane0: Any,
    plane1: Any,
    next0: Any,
    next1: Any,
    ahead: Any,
    table: Any,
    x: Any,
) -> Any:
    """row i += 16 rows of tile i and `count` times 32 columns . activations of one token, the codes `ahead` bytes later
    prefetched.

    `next0`, `next1` are the bytes from a tile to the next in each plane; `x` holds `token_bytes` for each column: 1-bit
    codes are looked up in tables of sums where the target can (sums.py). The rest as of `dot_block`.
    """
    tile = _sums(codes, kind)
    places = [(b.add(plane0, next0), b.add(plane1, next1)) if i else (plane0, plane1) for i in range(tile.m)]

    def start() -> list[Products | Lookups]:
        products = [_products(b, codes, kind, acc, i) for i in range(tile.m)]
        return [Lookups(b, each.sums) if tabled(codes) else each for each in products]

    def add(products: list[Products | Lookups], blocks: Blocks) -> None:
        for each, place in zip(products, places):
            for k in blocks:
                prefetch_block(b, codes, place, k, ahead)
                if isinstance(each, Lookups):
                    each.add(_behind(b, place[0], k, 64), x, k * BLOCK * TABLE_BYTES)
                else:
                    _dot_planes(b, codes, each, place, table, x, k)

    sums = _over_blocks(b, count, start, add)
    return rows(b, tile, lambda i: sums[i])


@primitive(_sums, None, None, types.int64, types.int64, types.int64)
def dot_bytes(b: Any, codes: TagType, kind: Tile | TagType, _: Any, acc: Any, count: Any, quads: Any, x: Any) -> Any:
    """The same as `dot_block`, of blocks that `unpack_block` has written to `quads`."""

    def add(products: list[Products], blocks: Blocks) -> None:
        at = _behind(b, x, blocks[0], BLOCK * len(products[0].sums))
        products[0].dot_bytes(_behind(b, quads, blocks[0], BLOCK_BYTES), at, len(blocks) * (BLOCK // 4))

    sums = _over_blocks(b, count, lambda: [_products(b, codes, kind, acc)], add)
    return rows(b, _sums(codes, kind), lambda i: sums[i])


FIRST, LATER = Tag("tile", 1), Tag("tile", 0)
"""Whether a tile of tokens is the first that is multiplied with some codes, or those lie ready as bytes."""


@primitive(lambda codes, turn, many, *rest: _sums(codes, *rest), None, None, None, None, *[types.int64] * 5)
def dot_in_turn(
    b: Any,
    codes: TagType,
    turn: TagType,
    many: TagType,
    kind: Tile | TagType,
    _: Any,
    __: Any,
    ___: Any,
    acc: Any,
    plane0: Any,
    plane1: Any,
    table: Any,
    quads: Any,
    x: Any,
) -> Any:
    """The same as `dot_block`, of one block: of the first tile of tokens straight from the planes, its bytes left at
    `quads`, and of later tiles, or the first tokens of one, with these bytes.

    To write them first and multiply then took 23 of 190 cycles of a block and 16 tokens on Zen 4: it writes 64 bytes in
    two cycles, which products hide."""
    products = _products(b, codes, kind, acc, pitch=many.values[-1])
    if turn.values[0]:
        block = BlockNumbers(b, codes, (plane0, plane1), table)
        numbers = [block.signed_quad(q) for q in range(BLOCK // 4)]
        for q, number in enumerate(numbers):
            products.dot(number, x, 4 * q * products.pitch)
        _write_quads(b, numbers, quads)
    else:
        products.dot_bytes(quads, x, BLOCK // 4)
    products.flush()
    return rows(b, _sums(codes, kind), lambda i: products.sums[i])


def _write_quads(b: Any, numbers: list[Any], quads: Any) -> None:
    for q, bytes_of_quad in enumerate(arranged(b, numbers)):
        store(b, bytes_of_quad, b.add(quads, I64(64 * q)), 64)


@primitive(types.void, None, types.int64, types.int64, types.int64, types.int64)
def unpack_block(b: Any, codes: TagType, _: Any, plane0: Any, plane1: Any, table: Any, quads: Any) -> None:
    """Write a block as bytes: eight quads of columns, 64 bytes each, for `dot_bytes`."""
    block = BlockNumbers(b, codes, (plane0, plane1), table)
    _write_quads(b, [block.signed_quad(q) for q in range(BLOCK // 4)], quads)


@primitive(lambda codes, acc, *_: acc, None, None, *[types.int64] * 7)
def outer_block(
    b: Any,
    codes: TagType,
    tile: Tile,
    _: Any,
    acc: Any,
    steps: Any,
    offsets: Any,
    plane0: Any,
    plane1: Any,
    table: Any,
    x: Any,
    stride: Any,
) -> Any:
    """row i += (step * number - offset of 16 rows and 32 columns) . the float32 activations at x + i * stride bytes.

    `steps` and `offsets` are addresses of 16 float32 for each piece of the block: one, or two where groups end within.
    """
    block = BlockNumbers(b, codes, (plane0, plane1), table)
    sums = [b.extract_value(acc, i) for i in range(tile.m)]
    sources = [b.add(x, b.mul(stride, I64(i))) for i in range(tile.m)]
    for q in range(BLOCK // 4):
        four = b.bitcast(block.quad(q), I32x16.ir)
        step, negative = step_and_negative(b, codes, steps, offsets, q)
        for j in range(4):
            byte = b.lshr(four, constant(I32x16.ir, 8 * j)) if j else four
            number = b.sitofp(b.and_(byte, constant(I32x16.ir, 255)), F32x16.ir)
            weight = multiply_add(b, step, number, negative)
            for i in range(tile.m):
                value = load(b, sources[i], FLOAT, 4, 4 * (4 * q + j))
                sums[i] = multiply_add(b, weight, splat(b, F32x16.ir, value), sums[i])
    return rows(b, tile, lambda i: sums[i])


def step_and_negative(b: Any, codes: TagType, steps: Any, offsets: Any, quad: int) -> tuple[Any, Any]:
    """The step of a quad of columns of a block, and its offset with the other sign."""
    at = 64 * (4 * quad // codes.values[2])
    return load(b, steps, F32x16.ir, 64, at), b.fneg(load(b, offsets, F32x16.ir, 64, at))


@primitive(types.int64, None)
def tile_tokens(b: Any, many: TagType, _: Any) -> Any:
    """Tokens of the tile that some tokens, or all of it, are multiplied of."""
    return I64(many.values[-1])


@primitive(types.int64, None)
def piece_columns(b: Any, codes: TagType, _: Any) -> Any:
    """Columns that surely share a step."""
    return I64(codes.values[2])


@primitive(types.int64, None)
def plane0_bytes(b: Any, codes: TagType, _: Any) -> Any:
    """Bytes of a block of 16 rows and 32 columns in the first plane."""
    return I64(64 * PLANES[codes.values[0]][0])


@primitive(types.int64, None)
def plane1_bytes(b: Any, codes: TagType, _: Any) -> Any:
    """Bytes of a block in the second plane, 0 where there is none."""
    return I64(64 * sum(PLANES[codes.values[0]][1:]))


@primitive(types.int64, None)
def lowest(b: Any, codes: TagType, _: Any) -> Any:
    """What int8 products subtract from numbers beforehand: 128 where this target multiplies signed bytes."""
    return I64(128 if span(codes) >= SIGNED else 0)


def _begun(m: TagType, *_: Any) -> Any:
    return Tile(I32x16, m.values[0]) if FOLDED else m


@primitive(_begun, None, types.int64)
def begin_sums(b: Any, m: TagType, _: Any, address: Any) -> Any:
    """What `dot_block` adds products to: of token i, or of the only one and each tile, the int32 at address + 4 * i;
    the tag itself, for nothing, where targets do not fold offsets in."""
    if not FOLDED:
        return None

    def row(i: int) -> Any:
        return splat(b, I32x16.ir, load(b, address, I32, 4, 0 if m.kind == "tiles" else 4 * i))

    return rows(b, Tile(I32x16, m.values[0]), row)


@primitive(lambda m: Tile(I32x16, m.values[0]), None)
def sums_of(b: Any, m: TagType, _: Any) -> Any:
    """An integer tile of zeros."""
    return rows(b, Tile(I32x16, m.values[0]), lambda i: ir.Constant(I32x16.ir, None))


@primitive(lambda t, *_: t, None, None, F32x16, types.int64)
def scale_add(b: Any, totals: Tile, sums: Tile, t: Any, acc: Any, scale: Any, address: Any) -> Any:
    """row i of t += float(acc[i]) * scale * (float32 at address + 4 * i)"""

    def row(i: int) -> Any:
        s = b.fmul(scale, splat(b, F32x16.ir, load(b, address, FLOAT, 4, 4 * i)))
        return multiply_add(b, sums_to_float(b, b.extract_value(acc, i)), s, b.extract_value(t, i))

    return rows(b, totals, row)


@primitive(lambda t, *_: t, None, F32x16, types.int64)
def outer_add(b: Any, tile: Tile, t: Any, v: Any, address: Any) -> Any:
    """row i += v * (float32 at address + 4 * i)"""

    def row(i: int) -> Any:
        x = splat(b, F32x16.ir, load(b, address, FLOAT, 4, 4 * i))
        return multiply_add(b, v, x, b.extract_value(t, i))

    return rows(b, tile, row)


@primitive(lambda t, *_: t, None, None, None, types.int64)
def scale_add_tiles(b: Any, totals: Tile, sums: Tile, steps: Tile, t: Any, acc: Any, scales: Any, address: Any) -> Any:
    """row i of t += float(acc[i]) * scales[i] * (float32 at address)"""
    x = splat(b, F32x16.ir, load(b, address, FLOAT, 4))

    def row(i: int) -> Any:
        s = b.fmul(b.extract_value(scales, i), x)
        return multiply_add(b, sums_to_float(b, b.extract_value(acc, i)), s, b.extract_value(t, i))

    return rows(b, totals, row)


@primitive(lambda t, *_: t, None, None, types.int64)
def outer_add_tiles(b: Any, tile: Tile, _: Tile, t: Any, v: Any, address: Any) -> Any:
    """row i += v[i] * (float32 at address)"""
    x = splat(b, F32x16.ir, load(b, address, FLOAT, 4))
    return rows(b, tile, lambda i: multiply_add(b, b.extract_value(v, i), x, b.extract_value(t, i)))


@primitive(types.float32, None)
def tile_sum(b: Any, tile: Tile, t: Any) -> Any:
    """The sum of all numbers of an integer tile."""
    v = b.extract_value(t, 0)
    for i in range(1, tile.m):
        v = b.add(v, b.extract_value(t, i))
    return b.sitofp(_reduce(b, v, lambda b, x, y: b.add(x, y)), FLOAT)
