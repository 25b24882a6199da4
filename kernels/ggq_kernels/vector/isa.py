"""The one file that names instruction sets, beside neon.py: the integer dot product, half floats, and the register
budget of each target.

Numba's own target decides, because it is in the key of Numba's cache: NUMBA_CPU_NAME=haswell, or
NUMBA_CPU_NAME=generic with NUMBA_CPU_FEATURES= (empty), forces another.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ggq_kernels.code.object_code import codegen
from ggq_kernels.code.targets import form_of, usable
from ggq_kernels.vector import neon
from ggq_kernels.vector.simd import (
    FLOAT,
    HALF,
    I8,
    I16,
    I32,
    I64,
    LANES,
    F32x16,
    Tag,
    TagType,
    Tile,
    constant,
    join,
    load,
    pick,
    primitive,
    rows,
    splat,
    store,
)
from ggq_kernels.vector.simd import call as call_named


def _target() -> tuple[str, frozenset[str]]:
    _, cpu, listed = codegen().magic_tuple()
    features = {f[1:] for f in listed.split(",") if f.startswith("+")}
    return cpu, usable(cpu, features)


llvm.initialize_native_asmparser()
CPU, FEATURES = _target()
ISA, AMX = form_of(FEATURES)
"""Whether the processor has tiles of bf16; the system must allow them too (code/permission.py)."""
HAS_F16C = not FEATURES.isdisjoint(("f16c", "avx512f", "neon"))

HALVES = ISA in ("avx-vnni", "avx2")
"""Whether a register has the room of half a unit of codes."""
NEON = ISA in ("neon-i8mm", "neon-dot")

TOKENS = {"avx512-vnni": 8, "avx-vnni": 6}.get(ISA, 4)
"""Tokens of a register tile of the matrix product: 16-bit or 32-bit sums, one weight and one activation must fit the
register file."""

PART = {"avx512-vnni": 4}.get(ISA, TOKENS)
"""Tokens of the part of a tile that is multiplied where the rest is empty: 12 tokens in .77 of the time of 16."""

FLOAT_ROWS = {"avx512-vnni": 12, "neon-i8mm": 6, "neon-dot": 6}.get(ISA, 4)
"""Rows of a register tile of float products (attention, float weights)."""

STATE_BLOCK = {"avx512-vnni": (4, 4), "generic": (2, 1)}.get(ISA, (4, 1))
"""Rows and vectors of a register block of products with a state (blocks.py): on AVX-512 16 of 32 registers, for 8
loads of 16 fused operations; elsewhere a vector takes two registers or four."""

COLUMN_ROWS = {"avx512-vnni": 8, "generic": 2}.get(ISA, 4)
"""Rows of such a block of one vector: as many sums as hide the latency of a fused operation."""

AHEAD, AHEAD_EXPANDED, PREFETCH_LEVEL = {"avx512-vnni": (3072, 6144, 2)}.get(ISA, (2048, 2048, 1))
"""Bytes by which codes are prefetched, those of a single token's two tiles taken together, where scales are
used as they are stored, and where steps are expanded first; the level of the cache that they are prefetched into.

Zen 3, 4 bits: 25.5 GB/s became 31.8 with one tile; with two, 1024 bytes each, 512 take 5 % more time, 768 and 1536 the
same, no prefetch 4 % more. Zen 4: the second level instead of the first 5 to 23 % less time (4 and 8 bits), 3072 bytes
3 % less than 4096 or more; with expanded steps 6144 11 to 15 % less than 3072."""

FOLDED = ISA in ("avx512-vnni", "avx-vnni", "neon-i8mm", "neon-dot")
"""Whether integer sums begin with what is subtracted from the numbers, where that is the same for all, instead of a
float product with the offset for each group: 8 of 88 instructions that compete with vpdpbusd for its ports."""

ZERO_SUM = 0
"""What 32-bit sums begin with where targets fold offsets in."""


def emit_prefetch(b: Any, address: Any) -> None:
    """Prefetch the cache line at an address, which need not exist."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [b.inttoptr(address, I8.as_pointer()), I32(0), I32(4 - PREFETCH_LEVEL), I32(1)])


@primitive(types.void, types.int64)
def prefetch(b: Any, address: Any) -> None:
    """The same for kernels."""
    emit_prefetch(b, address)


# ---- integer dot product: acc[i] += sum over j of u8[4i + j] * s8[4i + j], i in 0..15

_BYTES, _WORDS, _SUMS = ir.VectorType(I8, 64), ir.VectorType(I16, 32), ir.VectorType(I32, LANES)
_HALF_WORDS, _HALF_SUMS, _HALF_BYTES = ir.VectorType(I16, 16), ir.VectorType(I32, 8), ir.VectorType(I8, 32)


def _vpdpbusd(b: Any, acc: Any, u8: Any, four: Any) -> Any:
    return _dot_quads(b, acc, u8, b.bitcast(splat(b, _SUMS, four), _BYTES))


def _dot_quads(b: Any, acc: Any, u8: Any, s8: Any) -> Any:
    # LLVM 22 gave the byte operands their true type (llvm-project PR 155194); before, all three were <16 x i32>.
    if llvm.llvm_version_info[0] < 22:
        u8, s8 = b.bitcast(u8, _SUMS), b.bitcast(s8, _SUMS)
    return call_named(b, "llvm.x86.avx512.vpdpbusd.512", _SUMS, acc, u8, s8)


def _vnni_quad(b: Any, sums: list[Any], u8: Any, x: Any, at: int) -> list[Any]:
    """Products of a quad of columns for some tokens, whose activations lie at x + at + 4 * token, added to their sums.

    Assembly, because LLVM loads the activations of all blocks of a piece in advance and keeps them on the stack."""
    m = len(sums)
    lines = [f"vpdpbusd {at + 4 * i}(${2 * m + 1}){{1to16}}, ${2 * m}, ${i}" for i in range(m)]
    result, values = ir.LiteralStructType([_SUMS] * m), [*sums, u8, x]
    places = ",".join([*["=&v"] * m, *map(str, range(m)), "v", "r"])
    out = b.asm(ir.FunctionType(result, [v.type for v in values]), "\n".join(lines), places, values, False)
    return [b.extract_value(out, i) for i in range(m)]


def _short_vnni_quads(
    b: Any, sums: list[Any] | None, codes: list[Any], x: Any, at: int, m: int, count: int
) -> list[Any]:
    """The same for `count` quads, in registers of 256 bits; see `_quads`, whose sums and codes these are."""
    loads, tied = len(codes) == 1, sums or []
    extra = 3 if loads else 1
    inputs = [f"${2 * m + extra + k}" for k in range(3)]
    spread, halves = f"${2 * m}", [f"${2 * m + 1}", f"${2 * m + 2}"] if loads else inputs[:2]
    lines = [f"vpxor ${k}, ${k}, ${k}" for k in range(2 * m) if sums is None]
    for q in range(count):
        if loads:
            lines += [f"vmovdqu {64 * q + 32 * h}({inputs[0]}), {halves[h]}" for h in range(2)]
        for i in range(m):
            lines.append(f"vpbroadcastd {at + 4 * (q * m + i)}({inputs[len(codes)]}), {spread}")
            lines += [f"{{vex}} vpdpbusd {spread}, {halves[h]}, ${2 * i + h}" for h in range(2)]
    result = ir.LiteralStructType([_HALF_SUMS] * (2 * m) + [_HALF_BYTES] * extra)
    values = [*codes, x, *tied]
    places = ["=&x"] * (2 * m + extra) + ["r" if loads else "x"] * len(codes) + ["r"]
    places += [str(k) for k in range(len(tied))]
    function = ir.FunctionType(result, [v.type for v in values])
    out = b.asm(function, "\n".join(lines), ",".join(places), values, False)
    return [b.extract_value(out, k) for k in range(2 * m)]


def _widening(b: Any, acc: Any, u8: Any, four: Any) -> Any:
    """Plain arithmetic on 32-bit lanes, byte by byte; LLVM sees that 16 bits suffice and multiplies words."""
    codes = b.bitcast(u8, _SUMS)
    for j in range(4):
        code = b.and_(b.lshr(codes, constant(_SUMS, 8 * j)), constant(_SUMS, 255))
        activation = b.ashr(b.shl(four, I32(24 - 8 * j)), I32(24))
        acc = b.add(acc, b.mul(code, splat(b, _SUMS, activation)))
    return acc


SIGNED = 8 if ISA in ("avx2", "neon-dot") else 9
"""Codes of at least so many bits are multiplied as signed bytes, less 128: AVX2 has room for |code| up to 128 only, and
NEON's sdot takes both operands as signed."""


def _quads(
    b: Any, sums: list[Any] | None, form: tuple[bool, bool], codes: list[Any], x: Any, at: int, m: int, count: int
) -> list[Any]:
    """Products of `count` quads of columns for m tokens, added to `sums`: two halves of 8 rows for each token.

    Assembly, because LLVM regroups the additions and hoists the loads and the unpacking, and then spills: 131 GOP/s
    became 200 on one core. pmaddubsw saturates beyond 2**15, which `_safe_words` and SIGNED keep away from.

    Args:
        form: Whether pairs of products (16-bit words) are widened to 32-bit sums at once; whether codes are signed:
            then |code| is multiplied by the activation with the code's sign, since pmaddubsw wants an unsigned operand.
        codes: An address, where the quads follow each other in 64 bytes each; or the two halves of the only one.
        x, at: Address of the activations, and bytes behind it at which those of the first quad lie: a number in the
            assembly, since LLVM computes an address for each quad otherwise (7 instructions of 105 at 4 bits).
    """
    if ISA == "avx-vnni":
        return _short_vnni_quads(b, sums, codes, x, at, m, count)
    wide, signed = form
    kind = _HALF_SUMS if wide else _HALF_WORDS
    loads, tied = len(codes) == 1, sums or []
    extra = 2 + (2 if loads else 0) + (2 if signed else 0)
    first, spread = (f"${2 * m + k}" for k in range(2))
    inputs = [f"${2 * m + extra + k}" for k in range(4)]
    halves = [f"${2 * m + 2}", f"${2 * m + 3}"] if loads else inputs[:2]
    sizes = [f"${2 * m + extra - 2}", f"${2 * m + extra - 1}"] if signed else halves
    address, ones = inputs[len(codes)], inputs[len(codes) + 1]
    lines, empty = [], sums is None
    for q in range(count):
        if loads:
            lines += [f"vmovdqu {64 * q + 32 * h}({inputs[0]}), {halves[h]}" for h in range(2)]
        if signed:
            lines += [f"vpabsb {halves[h]}, {sizes[h]}" for h in range(2)]
        for i in range(m):
            lines.append(f"vpbroadcastd {at + 4 * (q * m + i)}({address}), {spread}")
            for h, part in enumerate((first, spread)):
                total, factor = f"${2 * i + h}", spread
                target = total if empty else part
                if signed:
                    lines.append(f"vpsignb {halves[h]}, {spread}, {part}")
                    factor = part
                lines.append(f"vpmaddubsw {factor}, {sizes[h]}, {part if wide else target}")
                if wide:
                    lines.append(f"vpmaddwd {ones}, {part}, {target}")
            if not empty:
                add = "vpaddd" if wide else "vpaddw"
                lines += [f"{add} {part}, ${2 * i + h}, ${2 * i + h}" for h, part in enumerate((first, spread))]
        empty = False
    result = ir.LiteralStructType([kind] * (2 * m) + [_HALF_BYTES] * extra)
    values = [*codes, x, *([constant(_HALF_WORDS, 1)] if wide else []), *tied]
    places = ["=&x"] * (2 * m + extra) + ["r" if loads else "x"] * len(codes) + ["r"] + ["x"] * wide
    places += [str(k) for k in range(len(tied))]
    function = ir.FunctionType(result, [v.type for v in values])
    out = b.asm(function, "\n".join(lines), ",".join(places), values, False)
    return [b.extract_value(out, k) for k in range(2 * m)]


def _add_pairs(b: Any, halves: list[Any]) -> Any:
    """Neighbouring 16-bit words added as 32-bit sums (pmaddwd by ones)."""
    ones = constant(_HALF_WORDS, 1)
    return join(b, *(call_named(b, "llvm.x86.avx2.pmadd.wd", _HALF_SUMS, words, ones) for words in halves))


def _safe_words(bits: int) -> int:
    """How many pmaddubsw results of codes of so many bits can be added in 16 bits: 2 * 127 * (2**bits - 1) each."""
    return 32767 // (2 * 127 * (2**bits - 1))


def sums_to_float(b: Any, sums: Any) -> Any:
    """16 sums of products as float32."""
    return b.sitofp(sums, F32x16.ir)


PAIRED = ISA == "neon-i8mm"
"""Whether codes that were taken out of their planes are multiplied eight columns at a time."""


def arranged(b: Any, quads: list[Any]) -> list[Any]:
    """Quads of columns, 64 bytes each, in the order in which `Products.dot_bytes` takes them."""
    return neon.paired(b, quads) if PAIRED else quads


class Products:
    """Sums of a tile of tokens while code is generated: 32-bit at once, or 16-bit words that are widened before they
    overflow. (Codebooks of 64 tokens, widened by LLVM's own instructions: 363 a block, 124 of them on the stack.)"""

    def __init__(self, b: Any, bits: int, sums: list[Any], fresh: bool, pitch: int = 0) -> None:
        self.b, self.sums, self.fresh = b, sums, fresh
        self.pitch = pitch or len(sums)  # tokens from a quad of activations to the next
        signed = bits >= SIGNED
        words = 1 if signed or ISA == "avx-vnni" else _safe_words(bits)
        self.form = words == 1, signed
        self.words: list[Any] | None = None
        self.loaded: dict[int, Any] = {}  # by the place of activations
        self.room = 0
        self.limit = 8 if words == 1 else min(16, words)

    def dot(self, u8: Any, x: Any, at: int) -> None:
        """Add the products of a quad of columns: 64 codes, and for each token the 4 activations at x + at + 4 *
        token."""
        b, m = self.b, len(self.sums)
        if HALVES:
            halves = [pick(b, u8, range(32)), pick(b, u8, range(32, 64))]
            self.start()
            self.words = _quads(b, self.words, self.form, halves, x, at, m, 1)
            self.room += 1
            if self.room == self.limit:
                self.flush()
            return
        if ISA == "avx512-vnni" and m > 1:
            self.sums = _vnni_quad(b, self.sums, u8, x, at)
            return
        if NEON:
            self.sums = neon.dot_quad(b, self.sums, u8, x, at, ISA == "neon-dot", self.loaded)
            return
        product = _vpdpbusd if ISA == "avx512-vnni" else _widening
        for i in range(m):
            self.sums[i] = product(b, self.sums[i], u8, load(b, x, I32, 4, at + 4 * i))

    def dot_bytes(self, codes: Any, x: Any, quads: int) -> None:
        """The same of so many quads whose codes lie at an address, 64 bytes each, as `arranged`."""
        b, m = self.b, len(self.sums)
        if PAIRED:
            self.sums = neon.dot_pairs(b, self.sums, codes, x, quads)
            return
        if not HALVES:
            for q in range(quads):
                self.dot(load(b, codes, _BYTES, 64, 64 * q), x, 4 * self.pitch * q)
            return
        for q in range(0, quads, self.limit):
            at = [b.add(codes, I64(64 * q))]
            self.start()
            self.words = _quads(b, self.words, self.form, at, x, 4 * m * q, m, min(self.limit, quads - q))
            self.flush()

    def start(self) -> None:
        """Go on from the sums where they are added up in 32 bits and have been begun."""
        if self.form[0] and self.words is None and not self.fresh:
            self.words = [pick(self.b, v, range(8 * h, 8 * h + 8)) for v in self.sums for h in range(2)]

    def flush(self) -> None:
        """Widen what the 16-bit words hold."""
        if self.words is not None:
            for i in range(len(self.sums)):
                halves = self.words[2 * i : 2 * i + 2]
                wide = self.form[0]
                self.sums[i] = join(self.b, *halves) if wide else self.b.add(self.sums[i], _add_pairs(self.b, halves))
        self.words, self.room, self.fresh = None, 0, False


# ---- tables of 16 bytes

SHUFFLES = "avx512bw" in FEATURES or HALVES or "neon" in FEATURES
"""Whether bytes can be looked up in one instruction, whose index is bits 0 to 3 of a byte, provided that bit 7 is
0."""

SUM_TABLES = ISA == "avx512-vnni" and "avx512bw" in FEATURES
"""Whether a single token looks sums of its activations up for 1-bit codes (sums.py). On AVX2, where bytes come to their
places in ten instructions instead of one, that takes as long as multiplying: 183 and 178 GOP/s of one core."""


def look_up(b: Any, table: Any, codes: Any) -> Any:
    """64 entries of a table of 16 bytes (<16 x i8>) for codes below 16 (<64 x i8>)."""
    if not SHUFFLES:  # bytes cannot be shuffled by a vector: the entries are picked one by one
        found = constant(_BYTES, 0)
        for k in range(16):
            entry = splat(b, _BYTES, b.extract_element(table, I32(k)))
            found = b.select(b.icmp_unsigned("==", codes, constant(_BYTES, k)), entry, found)
        return found
    if "neon" in FEATURES:
        return neon.look_up(b, table, codes)
    if "avx512bw" in FEATURES:
        return look_up_lanes(b, pick(b, table, list(range(16)) * 4), codes)
    twice = pick(b, table, list(range(16)) * 2)
    halves = (pick(b, codes, range(32 * h, 32 * h + 32)) for h in range(2))
    return join(b, *(call_named(b, "llvm.x86.avx2.pshuf.b", _HALF_BYTES, twice, half) for half in halves))


# These need SUM_TABLES.


def look_up_lanes(b: Any, tables: Any, codes: Any) -> Any:
    """The same where each 16 bytes of the codes have a table of their own (<64 x i8>). Where bit 7 of a code is 1 the
    result is 0."""
    return call_named(b, "llvm.x86.avx512.pshuf.b.512", _BYTES, tables, codes)


def add_pairs(b: Any, s8: Any) -> Any:
    """Neighbouring signed bytes (<64 x i8>) added as words (<32 x i16>)."""
    return call_named(b, "llvm.x86.avx512.pmaddubs.w.512", _WORDS, constant(_BYTES, 1), s8)


def narrow(b: Any, low: Any, high: Any) -> Any:
    """Words (<32 x i16>), each within -128 and 127, as signed bytes: of each eight of `low`, then of `high`."""
    return call_named(b, "llvm.x86.avx512.packsswb.512", _BYTES, low, high)


def add_fours(b: Any, sums: Any, weight: int, s8: Any) -> Any:
    """Add weight * each byte of four signed ones (<64 x i8>) to 32-bit sums; weight < 256."""
    return _dot_quads(b, sums, constant(_BYTES, weight), s8)


# ---- half floats


def half_to_float(b: Any, bits: Any) -> Any:
    """16 float16 given as their bits (<16 x i16>) as float32."""
    if HAS_F16C:
        return b.fpext(b.bitcast(bits, ir.VectorType(HALF, LANES)), F32x16.ir)
    # LLVM would call __extendhfsf2, which is not there. A power of two moves the exponent, subnormals included.
    wide = b.zext(bits, _SUMS)
    magnitude = b.shl(b.and_(wide, constant(_SUMS, 0x7FFF)), constant(_SUMS, 13))
    scaled = b.fmul(b.bitcast(magnitude, F32x16.ir), constant(F32x16.ir, 2.0**112))
    special = b.or_(magnitude, constant(_SUMS, 0x7F800000))
    infinite = b.icmp_unsigned(">=", magnitude, constant(_SUMS, 0x0F800000))
    number = b.select(infinite, special, b.bitcast(scaled, _SUMS))
    sign = b.shl(b.and_(wide, constant(_SUMS, 0x8000)), constant(_SUMS, 16))
    return b.bitcast(b.or_(number, sign), F32x16.ir)


def float_to_half(b: Any, x: Any) -> Any:
    """16 float32 as the bits of float16, rounded to even; beyond the largest half becomes infinite. Not for NaN
    without F16C."""
    words = ir.VectorType(I16, LANES)
    if HAS_F16C:
        return b.bitcast(b.fptrunc(x, ir.VectorType(HALF, LANES)), words)
    bits = b.bitcast(x, _SUMS)
    magnitude = b.and_(bits, constant(_SUMS, 0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, constant(_SUMS, 13)), constant(_SUMS, 1))
    rounded = b.add(b.add(magnitude, constant(_SUMS, 0xFFF - (112 << 23))), odd)
    normal = b.lshr(rounded, constant(_SUMS, 13))
    # Below 2**-14 halves are multiples of 2**-24: adding 0.5 lets the float adder round there.
    shifted = b.fadd(b.bitcast(magnitude, F32x16.ir), constant(F32x16.ir, 0.5))
    small = b.sub(b.bitcast(shifted, _SUMS), constant(_SUMS, 0x3F000000))
    number = b.select(b.icmp_unsigned("<", magnitude, constant(_SUMS, 0x38800000)), small, normal)
    number = b.select(b.icmp_unsigned(">=", magnitude, constant(_SUMS, 0x477FF000)), constant(_SUMS, 0x7C00), number)
    sign = b.lshr(b.and_(bits, constant(_SUMS, 0x80000000)), constant(_SUMS, 16))
    return b.trunc(b.or_(number, sign), words)


@primitive(F32x16, types.int64)
def load_f16(b: Any, address: Any) -> Any:
    """16 float16 at an address, as float32."""
    return half_to_float(b, load(b, address, ir.VectorType(I16, LANES), 2))


@primitive(lambda m, *_: Tile(F32x16, m.values[0]), None, types.int64, types.int64)
def tile_load_f16(b: Any, m: TagType, _: Any, address: Any, stride: Any) -> Any:
    """Row i is the 16 float16 at address + i * stride bytes, as float32."""
    words = ir.VectorType(I16, LANES)
    at = (b.add(address, b.mul(stride, I64(i))) for i in range(m.values[0]))
    return rows(b, Tile(F32x16, m.values[0]), lambda i: half_to_float(b, load(b, next(at), words, 2)))


def _to_float(b: Any, kind: str, words: Any) -> Any:
    """16 words, the bits of f16 or bf16, as float32."""
    if kind == "f16":
        return half_to_float(b, words)
    return b.bitcast(b.shl(b.zext(words, _SUMS), constant(_SUMS, 16)), F32x16.ir)


@primitive(F32x16, None, types.int64)
def load_value(b: Any, kind: TagType, _: Any, address: Any) -> Any:
    """16 numbers of the tag's float type at an address, as float32."""
    if kind.values[0] == "f32":
        return load(b, address, F32x16.ir, 4)
    return _to_float(b, kind.values[0], load(b, address, ir.VectorType(I16, LANES), 2))


@primitive(types.float32, None, types.int64)
def read_value(b: Any, kind: TagType, _: Any, address: Any) -> Any:
    """One number of the tag's float type at an address, as float32."""
    if kind.values[0] == "f32":
        return load(b, address, FLOAT, 4)
    words = b.insert_element(constant(ir.VectorType(I16, LANES), 0), load(b, address, I16, 2), I32(0))
    return b.extract_element(_to_float(b, kind.values[0], words), I32(0))


@primitive(types.int64, None)
def value_bytes(b: Any, kind: TagType, _: Any) -> Any:
    """Bytes of one number of the tag's float type."""
    return I64(4 if kind.values[0] == "f32" else 2)


@primitive(types.void, None, types.int64, types.int64, F32x16)
def scatter_values(b: Any, kind: TagType, _: Any, address: Any, stride: Any, v: Any) -> None:
    """Write 16 numbers as f32 or f16, each `stride` bytes after the last."""
    v = v if kind.values[0] == "f32" else float_to_half(b, v)
    for i in range(LANES):
        store(b, b.extract_element(v, I32(i)), address, 2)
        address = b.add(address, stride)


@primitive(types.void, None, types.int64, types.float32)
def write_value(b: Any, kind: TagType, _: Any, address: Any, x: Any) -> None:
    """Write one number as f32 or f16."""
    v = b.insert_element(constant(F32x16.ir, 0.0), x, I32(0))
    v = v if kind.values[0] == "f32" else float_to_half(b, v)
    store(b, b.extract_element(v, I32(0)), address, 2)


@primitive(types.void, None, types.int64, F32x16)
def store_values(b: Any, kind: TagType, _: Any, address: Any, v: Any) -> None:
    """Write 16 numbers as f32 or f16, one after the other."""
    store(b, v if kind.values[0] == "f32" else float_to_half(b, v), address, 2)


VALUES = {kind: Tag("value", kind) for kind in ("f32", "f16", "bf16")}
"""The tag of each float type, an argument of the kernels that read either."""
