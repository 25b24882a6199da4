"""Sums over the groups of many blocks side by side: a lane is a group, so that no sum runs across lanes.

All that a search for steps must know of a trial are three sums: what the nearest levels count, and their products with
weights and with themselves. Arithmetic is float32; products are added one number of the group after the other.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.code.compiled import compiled, inlined
from ggq_kernels.quantize.search_rows import whole_within
from ggq_kernels.vector.simd import (
    F32x16,
    add,
    constant,
    load_f32,
    mul,
    primitive,
    read_f32,
    read_i64,
    splat_f32,
    store_f32,
)

# Operands, as byte offsets: the weights and what an error of each counts, float32 (tiles, numbers of a group, 16);
X, ENERGY, TILES, GROUP = range(0, 32, 8)
# by lane what a weight is moved by, then multiplied with, before it is rounded to levels;
SHIFT, INVERSE, LEVELS, MARKS = range(32, 64, 8)
# the sums by lane: of what levels count, of products with weights, of squares; and the levels, or 0.
ONES, PRODUCTS, SQUARES, FOUND, WORDS = range(64, 104, 8)

nearest = primitive(F32x16, F32x16, F32x16, F32x16)(whole_within)


@primitive(F32x16, F32x16, F32x16, types.float32, types.float32)
def raised(b: Any, t: Any, now: Any, mark: Any, gain: Any) -> Any:
    """now + gain where t is above the mark."""
    middle, more = (_splat(b, each) for each in (mark, gain))
    return b.fadd(now, b.select(b.fcmp_ordered(">", t, middle), more, constant(F32x16.ir, 0.0)))


def _splat(b: Any, x: Any) -> Any:
    undefined = ir.Constant(F32x16.ir, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), 16), None)
    return b.shuffle_vector(b.insert_element(undefined, x, ir.IntType(32)(0)), undefined, zeros)


@inlined
def keep(words: int, lane: int, ones: Any, products: Any, squares: Any) -> None:
    """Write the sums of 16 lanes."""
    store_f32(read_i64(words + ONES) + lane, ones)
    store_f32(read_i64(words + PRODUCTS) + lane, products)
    store_f32(read_i64(words + SQUARES) + lane, squares)


@compiled(1)
def sum_whole(words: int) -> None:
    """Sums for the whole numbers between two, the first two float32 of the levels, halves rounded to even."""
    x, energy, size = read_i64(words + X), read_i64(words + ENERGY), 64 * read_i64(words + GROUP)
    low, high = (
        splat_f32(read_f32(read_i64(words + LEVELS))),
        splat_f32(read_f32(read_i64(words + LEVELS) + 4)),
    )
    for tile in range(read_i64(words + TILES)):
        lane = 64 * tile
        shift, inverse = load_f32(read_i64(words + SHIFT) + lane), load_f32(read_i64(words + INVERSE) + lane)
        ones = products = squares = splat_f32(types.float32(0.0))
        for at in range(size * tile, size * tile + size, 64):
            value = load_f32(x + at)
            q = nearest(mul(add(value, shift), inverse), low, high)
            counted = mul(q, load_f32(energy + at))
            ones, products = add(ones, counted), add(products, mul(counted, value))
            squares = add(squares, mul(counted, q))
            if read_i64(words + FOUND) != 0:
                store_f32(read_i64(words + FOUND) + at, q)
        keep(words, lane, ones, products, squares)


@compiled(1)
def sum_table(words: int) -> None:
    """Sums for the nearest entries of a table: its first, then for each mark halfway between two that, and what is
    gained beyond it."""
    x, energy, size = read_i64(words + X), read_i64(words + ENERGY), 64 * read_i64(words + GROUP)
    levels, marks = read_i64(words + LEVELS), read_i64(words + MARKS)
    for tile in range(read_i64(words + TILES)):
        lane = 64 * tile
        shift, inverse = load_f32(read_i64(words + SHIFT) + lane), load_f32(read_i64(words + INVERSE) + lane)
        ones = products = squares = splat_f32(types.float32(0.0))
        for at in range(size * tile, size * tile + size, 64):
            value = load_f32(x + at)
            t, q = mul(add(value, shift), inverse), splat_f32(read_f32(levels))
            for mark in range(levels + 4, levels + 4 + 8 * marks, 8):
                q = raised(t, q, read_f32(mark), read_f32(mark + 4))
            counted = mul(q, load_f32(energy + at))
            ones, products = add(ones, counted), add(products, mul(counted, value))
            squares = add(squares, mul(counted, q))
            if read_i64(words + FOUND) != 0:
                store_f32(read_i64(words + FOUND) + at, q)
        keep(words, lane, ones, products, squares)
