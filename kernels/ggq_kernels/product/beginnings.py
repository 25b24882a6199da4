"""What the 32-bit sums of products begin with: what is subtracted from all numbers, times the sum of activations.

A product needs these for each tile of rows anew, so they are written once for a block of tokens.
"""

from __future__ import annotations

from typing import Any

from numba import types

from ggq_kernels.code.compiled import inlined
from ggq_kernels.product.operands import COLUMNS, X_GROUP, X_SUM
from ggq_kernels.product.steps import M_MINIMUMS, M_SHIFT, M_ZEROS
from ggq_kernels.vector.isa import FOLDED, ZERO_SUM
from ggq_kernels.vector.simd import (
    I32,
    I32x16,
    constant,
    load,
    primitive,
    read_i32,
    read_i64,
    splat,
    store,
    write_i32,
)

ZEROS = 64
"""Bytes before a thread's panels that hold sums of nothing."""


@inlined
def one_point(m: int) -> bool:
    """Whether all offsets are the same multiple of their steps."""
    return read_i64(m + M_ZEROS) | read_i64(m + M_MINIMUMS) == 0


@inlined
def folds(m: int) -> bool:
    """Whether what is subtracted from the numbers is an integer that sums of products begin with."""
    return FOLDED and read_i64(m + M_SHIFT) >= 0


@inlined
def expands_offsets(m: int) -> bool:
    """Whether offsets of a few tokens are expanded: neither folded in nor the same multiple of all steps."""
    return not folds(m) if FOLDED else not one_point(m)


@primitive(types.void, types.int64, types.int64, types.int64)
def _weigh_sums(b: Any, source: Any, weight: Any, out: Any) -> None:
    """Write 16 sums of activations, times a weight, as sums of products begin with them."""
    sums = b.mul(load(b, source, I32x16.ir, 4), splat(b, I32x16.ir, b.trunc(weight, I32)))
    store(b, b.add(sums, constant(I32x16.ir, ZERO_SUM)), out, 4)


@inlined
def begun_bytes(row: int, tokens: int) -> int:
    """Bytes of what sums of so many tokens begin with."""
    return tokens * (read_i64(row + COLUMNS) // read_i64(row + X_GROUP)) * 4 if FOLDED else 0


@inlined
def write_beginnings(m: int, row: int, first: int, stop: int, lowest: int, begun: int, before: int) -> int:
    """Write int32 (columns / group, TOKENS), tile after tile of tokens first .. stop - 1, behind `begun`, the place of
    token 0, unless they were written by the shift `before` already; returns their shift. Codes have `lowest` subtracted
    beforehand."""
    if not folds(m) or read_i64(m + M_SHIFT) == before:
        return before
    shift, pieces = read_i64(m + M_SHIFT), read_i64(row + COLUMNS) // read_i64(row + X_GROUP)
    weight = (1 << shift) - lowest
    source, at, end = read_i64(row + X_SUM), first * pieces * 4, stop * pieces * 4
    whole = at + (end - at) // 64 * 64
    for place in range(at, whole, 64):
        _weigh_sums(source + place, weight, begun + place)
    for place in range(whole, end, 4):
        write_i32(begun + place, read_i32(source + place) * weight + ZERO_SUM)
    return shift


@inlined
def beginning(m: int, place: int, begun: int, scratch: int) -> Any:
    """Where the sums lie that products of tokens begin with, `place` bytes behind those of token 0, and bytes from one
    token's to the next."""
    if folds(m):
        return begun + place, 4
    return scratch - ZEROS, 0
