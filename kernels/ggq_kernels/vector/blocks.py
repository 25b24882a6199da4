"""Register blocks of float32: R rows of V vectors of 16 numbers, for products whose both sides are small.

A block is named by a Tag of two numbers, R and V. What a step of a product loads is V vectors and R numbers, for R * V
fused operations. Rows of a block of tokens may depend on earlier rows of the same block (`block_lower`,
`block_solve`); later rows never reach earlier ones, not even as a product with zero, so that what is not finite does
not spread backwards.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.vector.isa import COLUMN_ROWS, STATE_BLOCK
from ggq_kernels.vector.simd import (
    FLOAT,
    I32,
    I64,
    LANES,
    F32x16,
    Tag,
    TagType,
    Tile,
    constant,
    load,
    multiply_add,
    primitive,
    rows,
    splat,
    store,
)

BLOCK, COLUMN = Tag("block", *STATE_BLOCK), Tag("block", COLUMN_ROWS, 1)
"""As large as the registers allow, and of one vector a row."""
BLOCK_ROW, COLUMN_ROW = Tag("block", 1, STATE_BLOCK[1]), Tag("block", 1, 1)
"""One row of either."""


def _tile(block: TagType, *_: Any) -> Tile:
    return Tile(F32x16, block.values[0] * block.values[1])


def _at(b: Any, address: Any, step: Any, i: int) -> Any:
    return b.add(address, b.mul(step, I64(i)))


def _number(b: Any, address: Any, step: Any, i: int) -> Any:
    """16 copies of the float32 at address + i * step."""
    return splat(b, F32x16.ir, load(b, _at(b, address, step, i), FLOAT, 4))


def _vectors(b: Any, block: TagType, address: Any) -> list[Any]:
    return [load(b, address, F32x16.ir, 4, 64 * j) for j in range(block.values[1])]


def _gathered(b: Any, tile: Tile, values: list[Any]) -> Any:
    return rows(b, tile, lambda i: values[i])


@primitive(_tile, None)
def block_zeros(b: Any, block: TagType, _: Any) -> Any:
    """A block of zeros."""
    return _gathered(b, _tile(block), [ir.Constant(F32x16.ir, None)] * (block.values[0] * block.values[1]))


@primitive(_tile, None, types.int64, types.int64)
def block_load(b: Any, block: TagType, _: Any, address: Any, stride: Any) -> Any:
    """Row i is what lies at address + i * stride bytes."""
    found = [v for i in range(block.values[0]) for v in _vectors(b, block, _at(b, address, stride, i))]
    return _gathered(b, _tile(block), found)


@primitive(types.void, None, types.int64, types.int64, None)
def block_store(b: Any, block: TagType, tile: Tile, _: Any, address: Any, stride: Any, t: Any) -> None:
    """Write row i at address + i * stride bytes."""
    for i in range(block.values[0]):
        for j in range(block.values[1]):
            v = b.extract_value(t, i * block.values[1] + j)
            store(b, v, b.add(_at(b, address, stride, i), I64(64 * j)))


@primitive(_tile, None, None, types.int64, types.int64, types.int64)
def block_outer(b: Any, block: TagType, tile: Tile, _: Any, t: Any, vectors: Any, numbers: Any, step: Any) -> Any:
    """row i += (the vectors at an address) * (float32 at numbers + i * step bytes)"""
    loaded = _vectors(b, block, vectors)
    found: list[Any] = []
    for i in range(block.values[0]):
        by = _number(b, numbers, step, i)
        found += [multiply_add(b, v, by, b.extract_value(t, len(found) + j)) for j, v in enumerate(loaded)]
    return _gathered(b, tile, found)


@primitive(_tile, None, None, types.int64, types.int64)
def block_scale(b: Any, block: TagType, tile: Tile, _: Any, t: Any, numbers: Any, step: Any) -> Any:
    """row i *= float32 at numbers + i * step bytes"""
    by = [_number(b, numbers, step, i) for i in range(block.values[0])]
    return rows(b, tile, lambda n: b.fmul(b.extract_value(t, n), by[n // block.values[1]]))


@primitive(_tile, None, None, types.int64, types.int64)
def block_plus(b: Any, block: TagType, tile: Tile, _: Any, t: Any, address: Any, stride: Any) -> Any:
    """row i += what lies at address + i * stride bytes"""
    found = [v for i in range(block.values[0]) for v in _vectors(b, block, _at(b, address, stride, i))]
    return rows(b, tile, lambda n: b.fadd(b.extract_value(t, n), found[n]))


@primitive(_tile, None, None, types.int64, types.int64, types.int64, types.int64)
def block_lower(
    b: Any, block: TagType, tile: Tile, _: Any, t: Any, vectors: Any, stride: Any, numbers: Any, step: Any
) -> Any:
    """row i += sum over j <= i of (the vectors at vectors + j * stride) * (float32 j at numbers + i * step bytes)"""
    height, width = block.values
    found = [b.extract_value(t, n) for n in range(height * width)]
    for j in range(height):
        loaded = _vectors(b, block, _at(b, vectors, stride, j))
        for i in range(j, height):
            by = _number(b, b.add(numbers, I64(4 * j)), step, i)
            for n, v in enumerate(loaded, i * width):
                found[n] = multiply_add(b, v, by, found[n])
    return _gathered(b, tile, found)


@primitive(_tile, None, None, types.int64, types.int64)
def block_solve(b: Any, block: TagType, tile: Tile, _: Any, t: Any, numbers: Any, step: Any) -> Any:
    """row i += sum over j < i of (row j, when it is finished) * (float32 j at numbers + i * step bytes)"""
    height, width = block.values
    found = [b.extract_value(t, n) for n in range(height * width)]
    for j in range(height):
        for i in range(j + 1, height):
            by = _number(b, b.add(numbers, I64(4 * j)), step, i)
            for n in range(width):
                found[i * width + n] = multiply_add(b, found[j * width + n], by, found[i * width + n])
    return _gathered(b, tile, found)


@primitive(types.int64, None)
def block_rows(b: Any, block: TagType, _: Any) -> Any:
    """R, known while code is generated."""
    return I64(block.values[0])


@primitive(types.int64, None)
def block_vectors(b: Any, block: TagType, _: Any) -> Any:
    """V, known while code is generated."""
    return I64(block.values[1])


@primitive(F32x16, F32x16)
def no_trace(b: Any, v: Any) -> Any:
    """v, with 0 for what is below 1e-30; NaN stays. Numbers below the normal ones would make products slow."""
    return b.select(b.fcmp_ordered("<", v, constant(F32x16.ir, 1e-30)), constant(F32x16.ir, 0.0), v)


@primitive(types.void, *[types.int64] * 4)
def transpose_16(b: Any, source: Any, stride: Any, target: Any, line: Any) -> None:
    """Write number i of vector j (at source + j * stride bytes) as number j of vector i (at target + i * line)."""
    found = [load(b, _at(b, source, stride, j), F32x16.ir, 4) for j in range(LANES)]
    for step in (8, 4, 2, 1):
        low = [lane if not lane & step else lane - step + LANES for lane in range(LANES)]
        high = [lane + step for lane in low]
        for j in range(LANES):
            if not j & step:
                pair = found[j], found[j + step]
                found[j], found[j + step] = (
                    b.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, LANES), lanes)) for lanes in (low, high)
                )
    for i, v in enumerate(found):
        store(b, v, _at(b, target, line, i))
