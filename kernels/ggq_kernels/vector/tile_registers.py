"""The tile registers of AMX: their configuration, and the instructions of a product by tiles of bf16.

Eight registers hold 16 rows of 64 bytes each. Registers 0 to 3 sum, 4 holds activations, 5 to 7 hold weights. LLVM puts
nothing into them, so they keep their contents from one function of this file to the next. On each thread `configure`
must come first and `release_tiles` last, and the system must allow them (code/permission.py).

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ggq_kernels.vector.simd import I8, I16, I32, I64, F32x16, I32x16, primitive, store

TILE, COLUMNS = 16, 32
"""Rows of a tile register, tokens or rows of a matrix, and columns of one: numbers of bf16."""
TILE_BYTES = 2 * TILE * COLUMNS
"""Bytes of a tile register."""
CONFIGURATION = 64
"""Bytes of a tile configuration: the palette 1, then for each register 64 bytes a row and 16 rows."""

_WORDS, _LANES = ir.VectorType(I16, 32), ir.VectorType(I32, 32)


def _assembly(b: Any, text: str, places: str, *values: Any) -> None:
    b.asm(ir.FunctionType(ir.VoidType(), [I64] * len(values)), text, places, values, True)


@primitive(types.void, types.int64)
def configure(b: Any, address: Any) -> None:
    """Write the configuration to 64 bytes at an address and give it to this thread's tile registers."""
    zeros = ir.Constant(ir.VectorType(I64, 8), [0] * 8)
    store(b, zeros, address, 1)
    store(b, I8(1), address, 1)
    store(b, ir.Constant(ir.VectorType(I16, 8), [64] * 8), b.add(address, I64(16)), 1)
    store(b, ir.Constant(ir.VectorType(I8, 8), [16] * 8), b.add(address, I64(48)), 1)
    _assembly(b, "ldtilecfg ($0)", "r,~{memory}", address)


@primitive(types.void)
def release_tiles(b: Any) -> None:
    """Give the tile registers back: until then every switch of this thread saves 8 KiB."""
    _assembly(b, "tilerelease", "~{memory}")


@primitive(types.void)
def zero_sums(b: Any) -> None:
    """Set the four registers of sums to zero."""
    _assembly(b, "\n".join(f"tilezero %tmm{i}" for i in range(4)), "~{memory}")


@primitive(types.void, types.int64)
def load_sums(b: Any, address: Any) -> None:
    """Load the four registers of sums from 4 KiB at an address."""
    lines = [f"tileloadd {TILE_BYTES * i}($0,$1), %tmm{i}" for i in range(4)]
    _assembly(b, "\n".join(lines), "r,r,~{memory}", address, I64(64))


@primitive(types.void, types.int64)
def store_sums(b: Any, address: Any) -> None:
    """Write the four registers of sums to 4 KiB at an address."""
    lines = [f"tilestored %tmm{i}, {TILE_BYTES * i}($0,$1)" for i in range(4)]
    _assembly(b, "\n".join(lines), "r,r,~{memory}", address, I64(64))


@primitive(types.void, *[types.int64] * 6)
def multiply_add_tiles(b: Any, tokens: Any, first: Any, second: Any, third: Any, fourth: Any, steps: Any) -> None:
    """Add the products of a tile of 16 tokens and four of 16 rows, over `steps` > 0 blocks of 32 columns, to the sums.

    A tile of tokens is (16, 32 bf16), one of rows (16 pairs of columns, 16 rows, 2 bf16); at each of the five addresses
    the tiles of all blocks follow each other.
    """
    moving = [tokens, first, second, third, fourth]
    n = len(moving)
    lines = [f"tileloadd ($0,${2 * n + 2}), %tmm4"]
    for i in range(4):
        weights = f"%tmm{5 + i % 3}"  # the next is loaded while this is multiplied
        lines += [f"tileloadd (${i + 1},${2 * n + 2}), {weights}", f"tdpbf16ps {weights}, %tmm4, %tmm{i}"]
    ends = [f"addq $${TILE_BYTES}, ${i}" for i in range(n)] + [f"decq ${n}", "jnz 1b"]
    kind = ir.FunctionType(ir.LiteralStructType([I64] * (n + 1)), [I64] * (n + 2))
    places = ",".join([*["=&r"] * (n + 1), *map(str, range(n + 1)), "r", "~{memory}", "~{flags}"])
    b.asm(kind, "\n".join(["1:", *lines, *ends]), places, [*moving, steps, I64(64)], True)


def _two_to_bf16(b: Any, low: Any, high: Any) -> Any:
    """Two vectors of 16 float32 as <32 x i16> of bf16, `low` first; to nearest, halves to even."""
    kind = ir.FunctionType(I32x16.ir, [F32x16.ir, F32x16.ir])
    return b.bitcast(b.asm(kind, "vcvtne2ps2bf16 $1, $2, $0", "=v,v,v", [low, high], False), _WORDS)


def pair_to_bf16(b: Any, even: Any, odd: Any) -> Any:
    """Two vectors of 16 float32 as bf16, the two numbers of a lane beside each other: a row of a tile of weights."""
    both = _two_to_bf16(b, even, odd)
    return b.shuffle_vector(both, both, ir.Constant(_LANES, [i // 2 + 16 * (i % 2) for i in range(32)]))


@primitive(types.void, types.int64, F32x16, F32x16)
def store_bf16(b: Any, address: Any, low: Any, high: Any) -> None:
    """Write 32 numbers as bf16."""
    store(b, _two_to_bf16(b, low, high), address, 64)
