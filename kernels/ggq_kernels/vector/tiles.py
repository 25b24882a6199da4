"""Register tiles of float32: what kernels do with M vectors at once, row by row (simd.py has the types)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.vector.simd import (
    FLOAT,
    I64,
    F32x16,
    TagType,
    Tile,
    load,
    multiply_add,
    primitive,
    rows,
    splat,
    store,
)


@primitive(lambda m: Tile(F32x16, m.values[0]), None)
def tile_zeros(b: Any, m: TagType, _: Any) -> Any:
    """A float tile of zeros."""
    return rows(b, Tile(F32x16, m.values[0]), lambda i: ir.Constant(F32x16.ir, None))


@primitive(lambda t, *_: t, None, F32x16, types.int64, types.int64)
def tile_outer(b: Any, tile: Tile, acc: Any, v: Any, address: Any, stride: Any) -> Any:
    """row i += v * (float32 at address + i * stride bytes)"""

    def row(i: int) -> Any:
        x = load(b, b.add(address, b.mul(stride, I64(i))), FLOAT, 4)
        return multiply_add(b, v, splat(b, F32x16.ir, x), b.extract_value(acc, i))

    return rows(b, tile, row)


def _tile_storer(accumulate: bool) -> Any:
    @primitive(types.void, types.int64, types.int64, None)
    def write(b: Any, tile: Tile, address: Any, stride: Any, t: Any) -> None:
        """Write (or add) row i at address + i * stride bytes."""
        for i in range(tile.m):
            v = b.extract_value(t, i)
            if accumulate:
                v = b.fadd(load(b, address, F32x16.ir, 4), v)
            store(b, v, address)
            address = b.add(address, stride)

    return write


tile_store, tile_add = _tile_storer(False), _tile_storer(True)


@primitive(lambda t, *_: t, None, F32x16)
def tile_add_vector(b: Any, tile: Tile, t: Any, v: Any) -> Any:
    """row i += v"""
    return rows(b, tile, lambda i: b.fadd(b.extract_value(t, i), v))


@primitive(lambda t, *_: t, None, F32x16)
def tile_mul(b: Any, tile: Tile, t: Any, v: Any) -> Any:
    """row i *= v"""
    return rows(b, tile, lambda i: b.fmul(b.extract_value(t, i), v))


@primitive(lambda t, *_: t, None, None)
def tile_plus(b: Any, tile: Tile, _: Tile, t: Any, v: Any) -> Any:
    """row i += v[i]"""
    return rows(b, tile, lambda i: b.fadd(b.extract_value(t, i), b.extract_value(v, i)))


@primitive(lambda t, *_: t, None, None, F32x16)
def tile_fma(b: Any, tile: Tile, _: Tile, t: Any, u: Any, v: Any) -> Any:
    """row i += u[i] * v"""
    return rows(b, tile, lambda i: multiply_add(b, b.extract_value(u, i), v, b.extract_value(t, i)))


@primitive(lambda m, *_: Tile(F32x16, m.values[0]), None, types.int64, types.int64)
def tile_load(b: Any, m: TagType, _: Any, address: Any, stride: Any) -> Any:
    """Row i is what lies at address + i * stride bytes."""
    return rows(b, Tile(F32x16, m.values[0]), lambda i: load(b, b.add(address, b.mul(stride, I64(i))), F32x16.ir, 4))
