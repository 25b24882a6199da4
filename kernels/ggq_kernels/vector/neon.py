"""Instructions of AArch64 that isa.py chooses there, in registers of 128 bits: products of bytes, and tables.

Rows lie four to a register, so that a vector of 16 rows is four registers, and a quad of columns too.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ggq_kernels.vector.simd import I8, I32, LANES, constant, join, load, pick
from ggq_kernels.vector.simd import call as call_named

_BYTES, _SUMS = ir.VectorType(I8, 64), ir.VectorType(I32, LANES)
_SIXTEEN, _FOUR = ir.VectorType(I8, 16), ir.VectorType(I32, 4)
REGISTERS = 4
"""Registers of a vector of 16 rows."""


def _registers(b: Any, v: Any) -> list[Any]:
    n = v.type.count // REGISTERS
    return [pick(b, v, range(n * k, n * k + n)) for k in range(REGISTERS)]


def _whole(b: Any, registers: list[Any]) -> Any:
    low, high = (join(b, *registers[k : k + 2]) for k in (0, 2))
    return join(b, low, high)


def look_up(b: Any, table: Any, codes: Any) -> Any:
    """64 entries of a table of 16 bytes, by bits 0 to 3 of 64 bytes (tbl makes 0 of an index beyond the table)."""
    places = _registers(b, b.and_(codes, constant(_BYTES, 15)))
    return _whole(b, [call_named(b, "llvm.aarch64.neon.tbl1.v16i8", _SIXTEEN, table, each) for each in places])


def dot_quad(b: Any, sums: list[Any], codes: Any, x: Any, at: int, signed: bool, loaded: dict[int, Any]) -> list[Any]:
    """Products of a quad of columns for some tokens, whose activations lie at x + at + 4 * token, added to their sums.

    An instruction takes the activations from a quarter of a register, so they are loaded 16 bytes at a time.

    Args:
        codes: 64 bytes, four columns of 16 rows.
        signed: Whether codes are multiplied as signed bytes (sdot), else as unsigned ones (usdot).
        loaded: The activations that were loaded, by their places; x is a multiple of 16 of them.
    """
    parts, found = _registers(b, codes), []
    for i, total in enumerate(sums):
        place, lane = (at + 4 * i) // 16 * 16, (at + 4 * i) % 16 // 4
        if place not in loaded:
            loaded[place] = load(b, x, _FOUR, 4, place)
        four = b.bitcast(pick(b, loaded[place], [lane] * 4), _SIXTEEN)
        name = f"llvm.aarch64.neon.{'sdot' if signed else 'usdot'}.v4i32.v16i8"
        added = [call_named(b, name, _FOUR, acc, part, four) for acc, part in zip(_registers(b, total), parts)]
        found.append(_whole(b, added))
    return found


# ---- products of two rows and two tokens, eight columns at a time


def paired(b: Any, quads: list[Any]) -> list[Any]:
    """Quads of columns by twos: of each row the 8 bytes of both follow each other, so that a register has two rows."""
    found = []
    for first, second in zip(quads[::2], quads[1::2]):
        both = join(b, b.bitcast(first, _SUMS), b.bitcast(second, _SUMS))
        found += [
            b.bitcast(pick(b, both, [i // 2 + i % 2 * LANES for i in range(LANES * h, LANES * h + LANES)]), _BYTES)
            for h in range(2)
        ]
    return found


def dot_pairs(b: Any, sums: list[Any], codes: Any, x: Any, quads: int) -> list[Any]:
    """Products of so many quads of columns for an even number of tokens, added to their sums.

    Args:
        codes: The address of `paired` quads.
        x: The address of the activations, (quads, tokens, 4).
    """
    m = len(sums)
    totals = [_crossed(b, *sums[i : i + 2]) for i in range(0, m, 2)]
    for q in range(0, quads, 2):
        pairs = [_eight_columns(b, x, 4 * m * q + 4 * i, 4 * m) for i in range(0, m, 2)]
        for k in range(2 * REGISTERS):
            part = load(b, codes, _SIXTEEN, 16, 64 * q + 16 * k)
            for total, pair in zip(totals, pairs):
                total[k] = call_named(b, "llvm.aarch64.neon.usmmla.v4i32.v16i8", _FOUR, total[k], part, pair)
    return [each for total in totals for each in _uncrossed(b, total)]


def _eight_columns(b: Any, x: Any, at: int, next_quad: int) -> Any:
    """Eight columns of two tokens: of each token the four of one quad and of the next."""
    two = ir.VectorType(I32, 2)
    first, second = (load(b, x, two, 4, at + place) for place in (0, next_quad))
    return b.bitcast(pick(b, join(b, first, second), (0, 2, 1, 3)), _SIXTEEN)


def _crossed(b: Any, first: Any, second: Any) -> list[Any]:
    """The sums of two tokens as products of two rows and two tokens have them: of each row both."""
    both = join(b, first, second)
    return [pick(b, both, [2 * k, 2 * k + LANES, 2 * k + 1, 2 * k + 1 + LANES]) for k in range(2 * REGISTERS)]


def _uncrossed(b: Any, total: list[Any]) -> list[Any]:
    """The sums of each of two tokens again."""
    fours = [join(b, *total[k : k + 2]) for k in range(0, 2 * REGISTERS, 2)]
    return [_whole(b, [pick(b, v, range(token, 8, 2)) for v in fours]) for token in range(2)]
