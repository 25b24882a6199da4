"""Moving the bits of rows of blocks, as GGUF files have them, to where tiles have them.

A cell is a number of 1, 2 or 4 bytes that each of the 16 rows of a tile has for each block: a word of a plane of codes,
a scale, a byte of sub-scales. Terms say which bits of a row's block it is made of: a 32-bit word at some byte, shifted
left, then right, then masked. Nothing here knows any type.

One thread moves one run of tiles; the caller runs several at once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.code.compiled import compiled
from ggq_kernels.vector.simd import I8, I16, I32, I64, I32x16, load, primitive, read_i64, splat, store

# Operands, as byte offsets: the address of an int64 address for each row, tiles, blocks of a row and bytes of a block,
# and of the cells.
ROWS, TILES, BLOCKS, BLOCK_BYTES, CELLS, COUNT = range(0, 48, 8)
WORDS = 48
# Of a cell: where that of the first tile and block goes, bytes from tile to tile and from block to block, bytes of the
# number, what it is changed by (exclusive or), the address of its terms and their number.
TO, TILE_STRIDE, BLOCK_STRIDE, SIZE, FLIP, TERMS, TERM_COUNT = range(0, 56, 8)
CELL_BYTES = 56
# Of a term.
AT, LEFT, RIGHT, MASK = range(0, 32, 8)
TERM_BYTES = 32
SPARE = 4
"""Bytes behind the last block that may be read."""


@primitive(I32x16, types.int64)
def splat_word(b: Any, word: Any) -> Any:
    """16 times the lower half of an int64."""
    return splat(b, I32x16.ir, b.trunc(word, I32))


@primitive(I32x16, I32x16, types.int64, types.int64, types.int64, types.int64, types.int64)
def add_bits(b: Any, v: Any, rows: Any, at: Any, left: Any, right: Any, mask: Any) -> Any:
    """v | (word << left >> right & mask) with the word of each row `at` bytes behind its address."""
    found = ir.Constant(I32x16.ir, ir.Undefined)
    for r in range(16):
        address = b.add(load(b, rows, I64, 8, 8 * r), at)
        found = b.insert_element(found, load(b, address, I32, 1), I32(r))
    left, right, mask = (splat(b, I32x16.ir, b.trunc(each, I32)) for each in (left, right, mask))
    return b.or_(v, b.and_(b.lshr(b.shl(found, left), right), mask))


@primitive(types.void, I32x16, types.int64, types.int64)
def store_cell(b: Any, v: Any, to: Any, size: Any) -> None:
    """Write the lowest 1, 2 or 4 bytes of each lane, one behind the other."""
    with b.if_else(b.icmp_signed("==", size, I64(4))) as (words, less):
        with words:
            store(b, v, to)
        with less, b.if_else(b.icmp_signed("==", size, I64(2))) as (halves, single):
            with halves:
                store(b, b.trunc(v, ir.VectorType(I16, 16)), to, 2)
            with single:
                store(b, b.trunc(v, ir.VectorType(I8, 16)), to, 1)


@primitive(I32x16, I32x16, I32x16)
def flipped(b: Any, v: Any, by: Any) -> Any:
    """Exclusive or."""
    return b.xor(v, by)


@compiled(1)
def repack(words: int) -> None:
    """Write all cells of a run of tiles, from operands at an address."""
    rows, cells, block_bytes = read_i64(words + ROWS), read_i64(words + CELLS), read_i64(words + BLOCK_BYTES)
    last = cells + read_i64(words + COUNT) * CELL_BYTES
    for tile in range(read_i64(words + TILES)):
        for block in range(read_i64(words + BLOCKS)):
            for cell in range(cells, last, CELL_BYTES):
                v, terms = splat_word(read_i64(cell + FLIP)), read_i64(cell + TERMS)
                made = splat_word(0)
                for term in range(terms, terms + read_i64(cell + TERM_COUNT) * TERM_BYTES, TERM_BYTES):
                    at = block * block_bytes + read_i64(term + AT)
                    made = add_bits(
                        made, rows, at, read_i64(term + LEFT), read_i64(term + RIGHT), read_i64(term + MASK)
                    )
                to = read_i64(cell + TO) + tile * read_i64(cell + TILE_STRIDE) + block * read_i64(cell + BLOCK_STRIDE)
                store_cell(flipped(made, v), to, read_i64(cell + SIZE))
        rows += 128
