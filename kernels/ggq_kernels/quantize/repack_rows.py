"""Moving the bits of rows of blocks, as GGUF files have them, to where tiles have them.

A block of each of the 16 rows of a tile is read as 32-bit words and turned, so that a vector holds one word of all
rows. A cell is a number of 1, 2 or 4 bytes that each row of a tile has for each block: a word of a plane of codes, a
scale, a byte of sub-scales. Terms say which bits of which words it is made of. Nothing here knows any type.

One thread moves one run of tiles; the caller runs several at once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.code.compiled import compiled
from ggq_kernels.run.team import allocate, release
from ggq_kernels.vector.simd import I8, I16, I32, I64, I32x16, load, primitive, read_i64, splat, store

# Operands, as byte offsets: the address of an int64 address for each row, tiles, blocks of a row and bytes of a block,
# the cells and their number, and runs of 16 words of a block.
ROWS, TILES, BLOCKS, BLOCK_BYTES, CELLS, COUNT, RUNS = range(0, 56, 8)
WORDS = 56
# Of a cell: where that of the first tile and block goes, bytes from tile to tile and from block to block, bytes of the
# number, what it is changed by (exclusive or), the address of its terms and their number.
TO, TILE_STRIDE, BLOCK_STRIDE, SIZE, FLIP, TERMS, TERM_COUNT = range(0, 56, 8)
CELL_BYTES = 56
# Of a term: a word, shifted left, then right, then masked.
WORD, LEFT, RIGHT, MASK = range(0, 32, 8)
TERM_BYTES = 32
RUN = 16
"""Words that are read of a row at a time."""
SPARE = 4 * RUN
"""Bytes before the first block and behind the last that may be read."""


@primitive(types.void, types.int64, types.int64, types.int64)
def turn(b: Any, rows: Any, at: Any, out: Any) -> None:
    """Write 16 words of 16 rows, `at` bytes behind their addresses: 16 rows of the first word, of the second ..."""
    v = [load(b, b.add(load(b, rows, I64, 8, 8 * r), at), I32x16.ir, 1) for r in range(RUN)]
    for step in (8, 4, 2, 1):  # exchange the off-diagonal quarters of squares, then of smaller ones
        low = [i if not i & step else i - step + 16 for i in range(RUN)]
        high = [i + step if not i & step else i + 16 for i in range(RUN)]
        places = [ir.Constant(ir.VectorType(I32, RUN), each) for each in (low, high)]
        for r in (r for r in range(RUN) if not r & step):
            first, second = v[r], v[r + step]
            v[r], v[r + step] = (b.shuffle_vector(first, second, each) for each in places)
    for r in range(RUN):
        store(b, v[r], b.add(out, I64(64 * r)), 64)


@primitive(I32x16, types.int64)
def splat_word(b: Any, word: Any) -> Any:
    """16 times the lower half of an int64."""
    return splat(b, I32x16.ir, b.trunc(word, I32))


@primitive(I32x16, I32x16, types.int64, types.int64, types.int64, types.int64)
def add_bits(b: Any, v: Any, word: Any, left: Any, right: Any, mask: Any) -> Any:
    """v ^ (the words at an address << left >> right & mask)."""
    left, right, mask = (splat(b, I32x16.ir, b.trunc(each, I32)) for each in (left, right, mask))
    return b.xor(v, b.and_(b.lshr(b.shl(load(b, word, I32x16.ir, 64), left), right), mask))


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


@compiled(1)
def repack(words: int) -> None:
    """Write all cells of a run of tiles, from operands at an address."""
    rows, cells, block_bytes = read_i64(words + ROWS), read_i64(words + CELLS), read_i64(words + BLOCK_BYTES)
    last, runs = cells + read_i64(words + COUNT) * CELL_BYTES, read_i64(words + RUNS)
    memory = allocate(runs * 64 * RUN + 64)
    turned = (memory + 63) // 64 * 64
    for tile in range(read_i64(words + TILES)):
        for block in range(read_i64(words + BLOCKS)):
            for run in range(runs):
                turn(rows, block * block_bytes + run * 4 * RUN, turned + run * 64 * RUN)
            for cell in range(cells, last, CELL_BYTES):
                v, terms = splat_word(read_i64(cell + FLIP)), read_i64(cell + TERMS)
                for term in range(terms, terms + read_i64(cell + TERM_COUNT) * TERM_BYTES, TERM_BYTES):
                    word = turned + read_i64(term + WORD) * 64
                    v = add_bits(v, word, read_i64(term + LEFT), read_i64(term + RIGHT), read_i64(term + MASK))
                to = read_i64(cell + TO) + tile * read_i64(cell + TILE_STRIDE) + block * read_i64(cell + BLOCK_STRIDE)
                store_cell(v, to, read_i64(cell + SIZE))
        rows += 128
    release(memory)
