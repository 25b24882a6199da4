"""Tables of the sums of four activations, and the product of 1-bit codes with one token that looks them up.

Four bits of a code byte stand for four columns, so that their sum of activations is one of 16. Such a sum s is kept as
two bytes, s = 32 * high + low with low in 0..31, which are looked up and added up apart: exact for 64 columns, since
|s| <= 4 * 127 makes |high| <= 16, and 4 lookups give at most 124 and 64. Then both are added to 32-bit sums, the
numbers of a code (0 and 2) among the weights.

This is half the instructions of multiplying each bit, since one lookup does the work of four products.

Source: J. Wei et al., T-MAC: CPU Renaissance via Table Lookup for Low-Bit LLM Deployment on Edge, 2024
(arXiv:2407.00088); the cut into two bytes that need no wider sums is ours.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.code.compiled import inlined
from ggq_kernels.vector.isa import SUM_TABLES, add_fours, add_pairs, look_up_lanes, narrow
from ggq_kernels.vector.simd import I8, I16, I64, TagType, constant, field, load, pick, primitive, store

_BYTES, _WORDS = ir.VectorType(I8, 64), ir.VectorType(I16, 32)
COLUMNS = 16
"""Columns of a set of tables: bit j of an index stands for column 4 * j + c, c = 0..3, each c with 16 bytes."""
SET_BYTES = 128
"""Bytes of a set: low parts of the sums, then high parts."""
TABLE_BYTES = SET_BYTES // COLUMNS
"""Bytes of tables for each column."""
SPLIT = 5
"""Bits of a sum's low part."""
SAFE = 2
"""Blocks of 32 columns whose parts can be added up in bytes."""


def tabled(codes: TagType) -> bool:
    """Whether one token is multiplied with such codes by tables of sums."""
    return SUM_TABLES and codes.values[0] == 1


def _bit_sources(bits: tuple[int, int], entries: range) -> list[int]:
    """Of 16 bytes, the two whose bits an index has, 128 (zero) where it has them not; for some indices of each c."""
    return [4 * j + c if n >> j & 1 else 128 for c in range(4) for n in entries for j in bits]


@primitive(types.void, types.int64, types.int64)
def write_sums(b: Any, x: Any, out: Any) -> None:
    """Write the set of tables of the 16 int8 at x; nothing on targets that use none."""
    if not SUM_TABLES:
        return
    lanes = pick(b, load(b, x, ir.VectorType(I8, 16), 1), list(range(16)) * 4)

    def sums(j: int, k: int, entries: range) -> Any:
        return add_pairs(b, look_up_lanes(b, lanes, ir.Constant(_BYTES, _bit_sources((j, k), entries))))

    low = b.add(sums(0, 1, range(8)), sums(2, 3, range(8)))  # without bit 3
    high = b.add(sums(0, 1, range(8)), sums(2, 3, range(8, 16)))
    mask, split = constant(_WORDS, (1 << SPLIT) - 1), constant(_WORDS, SPLIT)
    store(b, narrow(b, b.and_(low, mask), b.and_(high, mask)), out, 64)
    store(b, narrow(b, b.ashr(low, split), b.ashr(high, split)), b.add(out, I64(64)), 64)


@inlined
def sums_of_token(x: int, columns: int, out: int) -> None:
    """Write the tables of one token's int8 (columns,): TABLE_BYTES for each."""
    for start in range(0, columns, COLUMNS):
        write_sums(x + start, out + start * TABLE_BYTES)


class Lookups:
    """Sums of one tile of rows while code is generated: bytes that are added to 32-bit sums before they overflow."""

    def __init__(self, b: Any, sums: list[Any]) -> None:
        self.b, self.sums = b, sums
        self.parts: list[Any] = []
        self.room = 0

    def add(self, unit: Any, tables: Any, at: int) -> None:
        """Add a block of 32 columns: the unit of codes at an address, the tables of its first half at tables + at."""
        b = self.b
        unit = load(b, unit, _BYTES, 64)
        codes = pick(b, unit, [i % 16 * 4 + i // 16 for i in range(64)])  # 16 rows of column c of all quads, c = 0..3
        for h in range(2):
            index = field(b, codes, 4 * h, 4, 0)
            found = [
                look_up_lanes(b, load(b, tables, _BYTES, 64, at + SET_BYTES * h + 64 * k), index) for k in range(2)
            ]
            self.parts = [b.add(*pair) for pair in zip(self.parts, found)] if self.parts else found
        self.room += 1
        if self.room == SAFE:
            self.flush()

    def flush(self) -> None:
        """Add what the bytes hold to the sums."""
        for weight, part in zip((2, 2 << SPLIT), self.parts):
            rows = pick(self.b, part, [i // 4 + i % 4 * 16 for i in range(64)])  # back to the four c of each row
            self.sums = [add_fours(self.b, self.sums[0], weight, rows)]
        self.parts, self.room = [], 0


@primitive(types.int64, None)
def token_bytes(b: Any, codes: TagType, _: Any) -> Any:
    """Bytes that `dot_tiles` reads for each column of a token: its int8, or their tables."""
    return I64(TABLE_BYTES if tabled(codes) else 1)
