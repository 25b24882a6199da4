"""SIMD vectors and register tiles as Numba types, lowered straight to LLVM vectors.

A `Vec` is one LLVM vector of 16 or 64 lanes; a `Tile` is M of them that LLVM keeps in registers, so a micro-kernel
reads like the mathematics and its loops over M unroll while the code is generated. Nothing here names an instruction
set (isa.py does).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_constant
from numba.extending import intrinsic, models, register_model, typeof_impl

from ggq_kernels.code.processor import AARCH64, architecture

I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
HALF, FLOAT = ir.HalfType(), ir.FloatType()
_ELEMENT = {"i8": I8, "i16": I16, "i32": I32, "f32": FLOAT}

SHIFTS_BYTES = architecture() == AARCH64
"""Whether vectors of bytes are shifted by one instruction."""

LANES = 16
"""Rows of a weight tile, positions of a key tile: one lane each."""


class Vec(types.Type):
    """One LLVM vector."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vec({element}x{lanes})")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(_ELEMENT[self.element], self.lanes)


class Tile(types.Type):
    """`m` vectors held in registers: one row per token."""

    def __init__(self, vec: Vec, m: int) -> None:
        self.vec, self.m = vec, m
        super().__init__(name=f"Tile({vec.name},{m})")

    @property
    def ir(self) -> ir.LiteralStructType:
        return ir.LiteralStructType([self.vec.ir] * self.m)


@register_model(Vec)
@register_model(Tile)
class _DirectModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


I32x16, F32x16 = Vec("i32", LANES), Vec("f32", LANES)


class Tag:
    """A compile-time choice that kernels take as an argument: its values are part of the type, so of every cache
    key."""

    def __init__(self, kind: str, *values: Any) -> None:
        self.kind, self.values = kind, values


class TagType(types.Type):
    """The type of a Tag."""

    def __init__(self, kind: str, values: tuple[Any, ...]) -> None:
        self.kind, self.values = kind, values
        super().__init__(name=f"{kind}{values}")


@typeof_impl.register(Tag)
def _typeof_tag(tag: Tag, _: Any) -> TagType:
    return TagType(tag.kind, tag.values)


@register_model(TagType)
class _TagModel(models.OpaqueModel):
    pass


@lower_constant(TagType)
def _lower_tag(context: Any, builder: Any, tag_type: TagType, tag: Tag) -> Any:
    return context.get_dummy_value()


def primitive(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of a function that builds LLVM IR.

    Args: result: A Numba type, or a function of the argument types. arguments: A Numba type for each argument that
        has a fixed one, None for one of any type (those types are handed to the builder first).
    """

    def wrap(build: Callable[..., Any]) -> Any:
        open_places = [i for i, a in enumerate(arguments) if a is None]

        def typer(typing_context: Any, *given: Any) -> Any:
            fixed = [g if a is None else a for g, a in zip(given, arguments)]
            open_types = [given[i] for i in open_places]
            returned = result(*given) if inspect.isfunction(result) else result

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                out = build(builder, *open_types, *values)
                return context.get_dummy_value() if out is None else out

            return returned(*fixed), codegen

        names = ["typing_context"] + [f"a{i}" for i in range(len(arguments))]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typer.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
        typer.__name__, typer.__doc__ = build.__name__, build.__doc__
        return intrinsic(typer)

    return wrap


# ---- building blocks of IR, called while code is generated


def pointer(b: ir.IRBuilder, address: Any, element: ir.Type) -> Any:
    """`address` (i64) as a pointer to `element`."""
    return b.inttoptr(address, element.as_pointer())


def load(b: ir.IRBuilder, address: Any, element: ir.Type, align: int, offset: int = 0) -> Any:
    """The `element` at address + offset bytes."""
    at = b.add(address, I64(offset)) if offset else address
    value = b.load(pointer(b, at, element))
    value.align = align
    return value


def store(b: ir.IRBuilder, value: Any, address: Any, align: int = 4) -> None:
    """Write `value` at `address`."""
    b.store(value, pointer(b, address, value.type), align=align)


def constant(vector: ir.VectorType, x: Any) -> ir.Constant:
    """A vector of equal elements."""
    return ir.Constant(vector, [x] * vector.count)


def splat(b: ir.IRBuilder, vector: ir.VectorType, x: Any) -> Any:
    """A vector whose elements all are the scalar `x`."""
    undefined = ir.Constant(vector, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return b.shuffle_vector(b.insert_element(undefined, x, I32(0)), undefined, lanes)


def pick(b: ir.IRBuilder, v: Any, lanes: Any) -> Any:
    """A vector of the named lanes of `v`."""
    lanes = list(lanes)
    return b.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def join(b: ir.IRBuilder, low: Any, high: Any) -> Any:
    """Two vectors as one."""
    n = low.type.count
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, 2 * n), list(range(2 * n))))


def call(b: ir.IRBuilder, name: str, result: ir.Type, *values: Any) -> Any:
    """Call an LLVM intrinsic or a C function by name (llvmlite's declare_intrinsic takes no vector types)."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), values)


def multiply_add(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, fused where the target has it (fmuladd, since fma without hardware becomes a call for each lane)."""
    kind = x.type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    return call(b, f"llvm.fmuladd.{suffix}", kind, x, y, z)


def greater(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """The larger of each pair; compare and select is one instruction, maxnum is three."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def round_even(b: ir.IRBuilder, x: Any) -> Any:
    """Round to the nearest integer, halves to even, for |x| < 2**22: exact, and on every target without a call."""
    magic = constant(x.type, 12582912.0) if isinstance(x.type, ir.VectorType) else FLOAT(12582912.0)
    return b.fsub(b.fadd(x, magic), magic)


def rows(b: ir.IRBuilder, tile: Tile, make: Callable[[int], Any]) -> Any:
    """A tile whose row i is make(i)."""
    t = ir.Constant(tile.ir, ir.Undefined)
    for i in range(tile.m):
        t = b.insert_value(t, make(i), i)
    return t


def field(b: ir.IRBuilder, v: Any, first: int, bits: int, to: int) -> Any:
    """Bits [first, first + bits) of every byte, moved to bit `to`. Bytes are shifted as words, then masked, where there
    is no byte shift (x86)."""
    kind, move = v.type, first - to
    if SHIFTS_BYTES and first + bits == 8 and to == 0:
        return b.lshr(v, constant(kind, move))
    if SHIFTS_BYTES and first == 0 and to + bits == 8:
        return b.shl(v, constant(kind, -move))
    words = ir.VectorType(I16, kind.count // 2)
    if move:
        v = b.bitcast(v, words)
        v = b.lshr(v, constant(words, move)) if move > 0 else b.shl(v, constant(words, -move))
        v = b.bitcast(v, kind)
    return v if bits == 8 else b.and_(v, constant(kind, ((1 << bits) - 1) << to))


# ---- scalars at addresses


def _scalar_access(numba_type: Any, llvm_type: ir.Type, align: int) -> tuple[Any, Any]:
    @primitive(numba_type, types.int64)
    def read(b: Any, address: Any) -> Any:
        return load(b, address, llvm_type, align)

    @primitive(types.void, types.int64, numba_type)
    def write(b: Any, address: Any, value: Any) -> None:
        store(b, value, address, align)

    return read, write


read_i64, write_i64 = _scalar_access(types.int64, I64, 8)
read_i32, write_i32 = _scalar_access(types.int32, I32, 4)
read_u8, write_u8 = _scalar_access(types.uint8, I8, 1)
read_u16, write_u16 = _scalar_access(types.uint16, I16, 2)
read_f32, write_f32 = _scalar_access(types.float32, FLOAT, 4)
read_f64, write_f64 = _scalar_access(types.float64, ir.DoubleType(), 8)


# ---- vectors of 16 float32


@primitive(F32x16, types.int64)
def load_f32(b: Any, address: Any) -> Any:
    """16 float32 at an address."""
    return load(b, address, F32x16.ir, 4)


@primitive(types.void, types.int64, F32x16)
def store_f32(b: Any, address: Any, v: Any) -> None:
    """Write 16 float32."""
    store(b, v, address)


@primitive(F32x16, types.float32)
def splat_f32(b: Any, x: Any) -> Any:
    """16 copies of x."""
    return splat(b, F32x16.ir, x)


@primitive(F32x16, F32x16, F32x16)
def add(b: Any, x: Any, y: Any) -> Any:
    """x + y"""
    return b.fadd(x, y)


@primitive(F32x16, F32x16, F32x16)
def mul(b: Any, x: Any, y: Any) -> Any:
    """x * y"""
    return b.fmul(x, y)


@primitive(F32x16, F32x16, F32x16)
def div(b: Any, x: Any, y: Any) -> Any:
    """x / y"""
    return b.fdiv(x, y)


@primitive(F32x16, F32x16, F32x16, F32x16)
def fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z"""
    return multiply_add(b, x, y, z)


@primitive(F32x16, F32x16, F32x16)
def maximum(b: Any, x: Any, y: Any) -> Any:
    """The larger of each lane."""
    return greater(b, x, y)


@primitive(F32x16, F32x16, F32x16)
def minimum(b: Any, x: Any, y: Any) -> Any:
    """The smaller of each lane."""
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def absolute_lanes(b: Any, x: Any) -> Any:
    """|x|"""
    bits = b.and_(b.bitcast(x, I32x16.ir), constant(I32x16.ir, 0x7FFFFFFF))
    return b.bitcast(bits, F32x16.ir)


@primitive(F32x16, F32x16)
def absolute(b: Any, x: Any) -> Any:
    """The same for kernels."""
    return absolute_lanes(b, x)


@primitive(F32x16, F32x16, F32x16)
def larger_size(b: Any, peak: Any, x: Any) -> Any:
    """The larger of `peak` and |x|, where peak is 0 or such a result: as integers, among which NaN is above infinity
    and that above every number, so that neither is lost."""
    bits, size = b.bitcast(peak, I32x16.ir), b.bitcast(absolute_lanes(b, x), I32x16.ir)
    return b.bitcast(b.select(b.icmp_signed(">", bits, size), bits, size), F32x16.ir)


@primitive(types.float32, F32x16)
def largest_size(b: Any, peak: Any) -> Any:
    """The largest lane of such a result."""
    most = _reduce(b, b.bitcast(peak, I32x16.ir), lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y))
    return b.bitcast(most, FLOAT)


def _reduce(b: Any, v: Any, combine: Callable[..., Any]) -> Any:
    for n in (8, 4, 2, 1):
        v = combine(b, v, pick(b, v, [(i + n) % 16 for i in range(16)]))
    return b.extract_element(v, I32(0))


@primitive(types.float32, F32x16)
def largest(b: Any, v: Any) -> Any:
    """The largest lane."""
    return _reduce(b, v, greater)


@primitive(types.float32, F32x16)
def total(b: Any, v: Any) -> Any:
    """The sum of the lanes, always in the same order."""
    return _reduce(b, v, lambda b, x, y: b.fadd(x, y))


@primitive(types.int64, None)
def tag_value(b: Any, tag: TagType, _: Any) -> Any:
    """The number that a tag stands for, known while code is generated."""
    return I64(tag.values[0])


# ---- vectors of 16 int32


@primitive(I32x16)
def zeros_i32(b: Any) -> Any:
    """16 zeros."""
    return ir.Constant(I32x16.ir, None)


@primitive(I32x16, I32x16, I32x16)
def add_i32(b: Any, x: Any, y: Any) -> Any:
    """x + y"""
    return b.add(x, y)


@primitive(types.int32, I32x16)
def total_i32(b: Any, v: Any) -> Any:
    """The sum of the lanes."""
    return _reduce(b, v, lambda b, x, y: b.add(x, y))


@primitive(I32x16, F32x16)
def nearest(b: Any, x: Any) -> Any:
    """Rounded to integers, halves to even; |x| < 2**22."""
    return b.fptosi(round_even(b, x), I32x16.ir)


@primitive(types.void, types.int64, types.int64, I32x16)
def store_quads(b: Any, address: Any, stride: Any, v: Any) -> None:
    """Write the lanes as bytes, four at a time, each four `stride` bytes after the last."""
    quads = b.bitcast(b.trunc(v, ir.VectorType(I8, 16)), ir.VectorType(I32, 4))
    for q in range(4):
        store(b, b.extract_element(quads, I32(q)), address)
        address = b.add(address, stride)


@primitive(F32x16, F32x16, types.int64, types.int64, types.int64, types.float32)
def mask_between(b: Any, v: Any, place: Any, first: Any, limit: Any, other: Any) -> Any:
    """v with `other` in each lane i for which place + i is not in first .. limit - 1."""
    places = ir.Constant(I32x16.ir, list(range(16)))
    below, left = (splat(b, I32x16.ir, b.trunc(b.sub(x, place), I32)) for x in (first, limit))
    seen = b.and_(b.icmp_signed("<", places, left), b.icmp_signed(">=", places, below))
    return b.select(seen, v, splat(b, F32x16.ir, other))


@primitive(F32x16, F32x16, types.int64)
def first_lanes(b: Any, v: Any, count: Any) -> Any:
    """v with 0 in each lane from `count` on."""
    places = ir.Constant(I32x16.ir, list(range(16)))
    left = splat(b, I32x16.ir, b.trunc(count, I32))
    return b.select(b.icmp_signed("<", places, left), v, constant(F32x16.ir, 0.0))


@primitive(types.void, types.int64, F32x16, types.int64)
def store_some(b: Any, address: Any, v: Any, count: Any) -> None:
    """Write the first `count` lanes, 1 to 16."""
    whole = b.icmp_signed(">=", count, I64(16))
    with b.if_else(whole) as (all_lanes, few):
        with all_lanes:
            store(b, v, address)
        with few:
            for i in range(15):
                with b.if_then(b.icmp_signed(">", count, I64(i))):
                    store(b, b.extract_element(v, I32(i)), b.add(address, I64(4 * i)))


@primitive(F32x16, F32x16)
def negative(b: Any, x: Any) -> Any:
    """-x"""
    return b.fneg(x)


@primitive(F32x16, F32x16, F32x16)
def subtract(b: Any, x: Any, y: Any) -> Any:
    """x - y"""
    return b.fsub(x, y)


@primitive(I32x16, types.int64)
def splat_i32(b: Any, x: Any) -> Any:
    """16 copies of an integer that fits 32 bits."""
    return splat(b, I32x16.ir, b.trunc(x, I32))


@primitive(F32x16, I32x16)
def float_i32(b: Any, v: Any) -> Any:
    """The lanes as float32."""
    return b.sitofp(v, F32x16.ir)


@primitive(I32x16, I32x16, types.int64)
def clip_i32(b: Any, v: Any, high: Any) -> Any:
    """The lanes, kept within 0 and `high`."""
    low, top = constant(I32x16.ir, 0), splat(b, I32x16.ir, b.trunc(high, I32))
    v = b.select(b.icmp_signed("<", v, low), low, v)
    return b.select(b.icmp_signed(">", v, top), top, v)
