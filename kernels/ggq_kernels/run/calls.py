"""Rows of a tape: one function for each operation, from addresses and sizes to the 32 words that its kernel reads.

Addresses are of memory that the caller keeps alive; `tokens` is the address of an int64 that holds the number of rows
of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ggq_kernels.code import permission, ready, store
from ggq_kernels.product.widths import PLANES

# Not imported: that would import Numba, which a process with saved kernels does without.
activations, attention, embed = (ready.module(name) for name in ("activations", "attention", "embed"))
linear, products, steps = (ready.module(name) for name in ("linear", "products", "steps"))
amx, bf16 = (ready.module(name) for name in ("amx", "bf16"))
FLOAT_ROWS, TOKENS = ready.module("isa").FLOAT_ROWS, ready.module("isa").TOKENS
AMX, PAGE = ready.module("isa").AMX, attention.PAGE
team = ready.module("team")
ROW_BYTES, ALONE, MANY, MANY_KERNEL = team.ROW_BYTES, team.ALONE, team.MANY, team.MANY_KERNEL

CACHE_BYTES = 192 * 1024
"""Activations of a block of tokens that shall stay in a core's second-level cache while it goes through its rows."""
CHUNK_BYTES = 128 * 1024
"""Bytes of weights, about, that a thread takes at most where it goes through them again for each block of tokens."""
SMALL = 2048
"""Columns of one token that a thread is done with sooner than another has joined."""
EVERY = 1 << 62
"""More tokens than there are."""
MOST_ROWS = max(TOKENS, FLOAT_ROWS)
"""Rows that a buffer must have beyond the batch: the kernels compute whole register tiles of tokens."""
BF16_TOKENS = 32
"""From how many tokens on a product takes tiles of bf16, where the processor has them.

One core of Emerald Rapids, 8192 x 2048, q4-g32: VNNI takes 84 us a token. Expanding the matrix to bf16 takes 1.4 ms,
and all but the multiplications 2.0 ms for 16 tokens, 2.3 for 32 (measured where AMX was hidden by the hypervisor)."""
BF16_TILE, BF16_COLUMNS = 16, 32
"""Tokens and columns of a tile of bf16."""


class HasAddress(Protocol):
    """A kernel, saved or not."""

    @property
    def address(self) -> int:
        """Address of its machine code."""
        ...


@dataclass(frozen=True)
class Rows:
    """A float32 buffer: its address, the bytes from row to row, the columns in use; and the address of its numbers
    rounded to bf16, `bf16_bytes`, 0 where no product wants them."""

    address: int
    stride: int
    width: int
    bf16: int = 0


@dataclass(frozen=True)
class Int8Rows:
    """A buffer of activations rounded to int8 per `group` of its (padded) `columns`, in tiles of tokens.

    Where `bf16` is the address of `bf16_bytes`, many tokens are rounded to bf16 and written there instead."""

    codes: int
    scales: int
    offsets: int
    sums: int
    columns: int
    group: int
    bf16: int = 0


def bf16_from() -> int:
    """From how many tokens on products take activations rounded to bf16; `EVERY` where this processor has no tiles of
    bf16, or the system keeps them from this process."""
    return BF16_TOKENS if AMX and permission.tiles_allowed() else EVERY


def bf16_bytes(rows: int, columns: int) -> int:
    """Bytes of so many activations rounded to bf16, in whole tiles."""
    return -(-rows // BF16_TILE) * BF16_TILE * -(-columns // BF16_COLUMNS) * BF16_COLUMNS * 2


@dataclass(frozen=True)
class Packed:
    """A matrix as it lies in memory; addresses are 0 where there is nothing.

    Args:
        value: Float type, or "" for codes.
        bits: Of the codes.
        rows, columns, group: Padded rows and columns, columns of a group (the padded row for a scale per row).
        codes: Address of the codes, or of the numbers when they are whole floats.
        scales: Address of the scales: of the groups, or of the super-groups where there are sub-scales.
        middle: What is subtracted from the numbers where there are neither zero-points nor minimums.
        zeros, minimums: Addresses of the segments.
        sub_bits: Bits of the sub-scales, 0 for none; `sub_scales` and `sub_minimums` are addresses of the segments,
            `sub_lowest` is what is subtracted from the former.
        table: Address of 16 bytes, the entries that codes stand for less the least possible one.
        order: Address of uint32 (columns,): where stored columns come from.
        column_scale: Address of float32 (columns,): what the activations of stored columns are multiplied with.
        activations: How they are rounded to int8: "group", "token", or "static" with the float32 `activation_step`.
    """

    value: str
    bits: int
    rows: int
    columns: int
    group: int
    codes: int
    scales: int = 0
    middle: float = 0.0
    zeros: int = 0
    minimums: int = 0
    sub_bits: int = 0
    sub_scales: int = 0
    sub_minimums: int = 0
    sub_lowest: int = 0
    table: int = 0
    order: int = 0
    column_scale: int = 0
    activations: str = "group"
    activation_step: float = 0.0

    @property
    def kind(self) -> tuple[object, ...]:
        """What matrices of one operation must have in common."""
        return self.value, self.bits, self.table != 0, self.columns, self.group, *self.source

    @property
    def source(self) -> tuple[object, ...]:
        """What it wants done to activations."""
        return self.order, self.column_scale, self.activations, self.activation_step

    @property
    def plane1(self) -> int:
        """Address of the second plane, or of what follows the only one."""
        return self.codes + self.rows * self.columns * PLANES[self.bits][0] // 8 if self.bits in PLANES else 0

    def descriptor(self) -> np.ndarray:
        """int64: the words that steps.py reads, and room for those of products.py and linear.py."""
        words = np.zeros(linear.M_BYTES // 8, np.int64)
        operands = {steps.M_PLANE0: self.codes, steps.M_PLANE1: self.plane1, steps.M_TABLE: self.table}
        if not self.value:
            groups, widths = self.columns // self.group, (*PLANES.get(self.sub_bits, (0,)), 0)
            first = self.rows // 16 * -(-groups * widths[0] // 8) * 16
            operands |= {steps.M_GROUPS: groups, steps.M_GROUP: self.group, steps.M_SCALES: self.scales}
            operands |= {steps.M_ZEROS: self.zeros, steps.M_MINIMUMS: self.minimums}
            operands |= {steps.M_SUB_WIDTH0: widths[0], steps.M_SUB_WIDTH1: widths[1]}
            operands |= {steps.M_SUB0: self.sub_scales, steps.M_SUB1: self.sub_scales + first}
            operands |= {steps.M_MINIMUM_SUB0: self.sub_minimums, steps.M_MINIMUM_SUB1: self.sub_minimums + first}
            operands |= {steps.M_SUB_LOWEST: self.sub_lowest}
            words.view(np.float64)[steps.M_MIDDLE // 8] = self.middle
            fraction, exponent = math.frexp(self.middle)
            folded = fraction == 0.5 and exponent > 0 and not (self.zeros or self.minimums)
            operands |= {steps.M_SHIFT: exponent - 1 if folded else -1}
        for offset, value in operands.items():
            words[offset // 8] = value
        return words


Kernels = list[tuple[HasAddress, HasAddress | None]]
"""Of each row its kernel, and the one for many tokens where it has one."""
_waiting: ContextVar[Kernels | None] = ContextVar("waiting", default=None)


@contextmanager
def addresses_later() -> Iterator[Kernels]:
    """Rows that are made meanwhile hold no addresses of kernels; the list names their kernels in the same order, for
    `link`."""
    kernels: Kernels = []
    token = _waiting.set(kernels)
    try:
        yield kernels
    finally:
        _waiting.reset(token)


def link(tape: np.ndarray, kernels: Kernels) -> None:
    """Write the addresses of its kernels into a tape; what must be compiled for it is compiled by two processes at
    once."""
    keys = [kernel.key for pair in kernels for kernel in pair if isinstance(kernel, ready.Kernel)]
    if not all(map(store.is_saved, dict.fromkeys(keys))):
        from ggq_kernels.code.together import compile_missing

        compile_missing(keys)
    for words, pair in zip(tape, kernels, strict=True):
        _link_row(words, *pair)


def _link_row(words: np.ndarray, kernel: HasAddress, many: HasAddress | None) -> None:
    words[0] = kernel.address
    words[MANY_KERNEL // 8] = many.address if many else 0


def row(kernel: HasAddress, operands: dict[int, int], alone: int = 0, many: HasAddress | None = None) -> np.ndarray:
    """int64 (32,): the kernel's address and its operands by byte offset; up to `alone` tokens are not worth sharing,
    and BF16_TOKENS and more are computed by the kernel `many` where that is given."""
    words = np.zeros(ROW_BYTES // 8, np.int64)
    waiting = _waiting.get()
    if waiting is None:
        _link_row(words, kernel, many)
    else:
        waiting.append((kernel, many))
    words[ALONE // 8], words[MANY // 8] = alone, BF16_TOKENS
    for offset, value in operands.items():
        words[offset // 8] = value
    return words


def descriptors(matrices: list[Packed], outs: list[Rows], biases: list[int]) -> np.ndarray:
    """int64 (matrices, words): what `linear_row` points to; biases are addresses of padded float32, 0 for none."""
    table = np.stack([matrix.descriptor() for matrix in matrices])
    tiles = 0
    for words, matrix, out, bias in zip(table, matrices, outs, biases):
        words[products.M_OUT // 8 :] = [out.address, out.stride, bias, tiles, tiles + matrix.rows // 16]
        tiles += matrix.rows // 16
    return table


def linear_row(
    tokens: int, matrices: list[Packed], table: np.ndarray, source: Rows | Int8Rows, add: bool, threads: int
) -> np.ndarray:
    """outs = source @ matrices.T (+ biases), or added to outs; all matrices are of one kind, `table` are their
    `descriptors`."""
    first, int8 = matrices[0], isinstance(source, Int8Rows)
    name = first.value or f"{'c' if first.table else 'q'}{first.bits}"
    form = "" if first.value else "_int8" if int8 else "_float32"
    tiles = sum(m.rows for m in matrices) // 16
    width = TOKENS if int8 else FLOAT_ROWS
    row_bytes, tile_bytes = first.columns * (1 if int8 else 4), 2 * first.columns * (first.bits or 32)
    operands = {
        linear.TOKEN_COUNT: tokens,
        linear.MATRICES: table.ctypes.data,
        linear.TILES: tiles,
        linear.CHUNK: max(1, CHUNK_BYTES // tile_bytes),
        linear.SHARES: threads + threads // 2,
        linear.LEAST: max(2, tiles // (16 * threads) * 2),
        linear.TOKEN_BLOCK: max(1, CACHE_BYTES // row_bytes // width) * width,
        products.ADD: int(add),
        products.COLUMNS: first.columns,
        linear.FEW: few(first) if int8 else 0,
        linear.X_BF16: source.bf16,
    }
    if isinstance(source, Int8Rows):
        operands |= {products.X_GROUP: source.group, products.X: source.codes}
        operands |= {products.X_SCALE: source.scales, products.X_OFFSET: source.offsets, products.X_SUM: source.sums}
    else:
        operands |= {products.X: source.address, products.X_STRIDE: source.stride}
    many = getattr(amx, f"tiles_{name}") if source.bf16 else None
    return row(getattr(linear, f"linear_{name}{form}"), operands, many=many)


def few(matrix: Packed) -> int:
    """Up to how many tokens codes are multiplied straight from their planes; with more, taking them out of these once
    is less work (GOP/s of one core at 64 tokens, straight and not: q4-g32 216 and 206, q4-g128 215 and 231, q4z-g32 157
    and 205, q6-g32 134 and 187; at 8 tokens: q2-g32 198 and 173, q5-g32 138 and 163)."""
    plain = not (matrix.zeros or matrix.minimums or matrix.sub_bits or matrix.table) and len(PLANES[matrix.bits]) == 1
    if plain and matrix.bits == 4 and matrix.group == products.BLOCK:
        return EVERY
    return 2 * TOKENS if plain else TOKENS


def quantize_row(tokens: int, source: Rows, out: Int8Rows, matrix: Packed, up: Rows | None = None) -> np.ndarray:
    """Round a buffer to int8 as a matrix wants it, or silu(buffer) * up, both of one stride; many tokens to bf16 where
    `out` has room for it."""
    a = activations
    operands = {a.TOKEN_COUNT: tokens, a.SOURCE: source.address, a.SOURCE_STRIDE: source.stride, a.OUT: out.codes}
    operands |= {
        a.WIDTH: out.columns,
        a.Q_GROUP: out.group,
        a.Q_SCALE: out.scales,
        a.Q_OFFSET: out.offsets,
        a.Q_SUM: out.sums,
    }
    operands |= {a.Q_ORDER: matrix.order, a.Q_FACTORS: matrix.column_scale}
    operands |= {a.Q_UP: up.address if up else 0, a.OUT_BF16: out.bf16}
    operands |= {a.Q_FORM: ("group", "token", "static").index(matrix.activations)}
    many = bf16.round_bf16 if out.bf16 else None
    words = row(a.quantize, operands, alone=int(out.columns <= SMALL), many=many)
    words.view(np.float64)[a.Q_STEP // 8] = matrix.activation_step
    return words


def round_row(tokens: int, source: Rows, columns: int) -> np.ndarray:
    """Round many tokens of a buffer to bf16, for matrices of floats; nothing is done to fewer."""
    a = activations
    operands = {a.TOKEN_COUNT: tokens, a.SOURCE: source.address, a.SOURCE_STRIDE: source.stride}
    operands |= {a.WIDTH: columns, a.OUT_BF16: source.bf16}
    return row(bf16.nothing, operands, alone=BF16_TOKENS - 1, many=bf16.round_bf16)


def transform_row(tokens: int, source: Rows, out: Rows, matrix: Packed) -> np.ndarray:
    """out = the columns of source in the matrix's order, times its factors."""
    operands = {activations.Q_ORDER: matrix.order, activations.Q_FACTORS: matrix.column_scale}
    return row(activations.transform, _map(tokens, source, out) | {activations.WIDTH: out.width} | operands, alone=1)


def _map(tokens: int, source: Rows, out: Rows) -> dict[int, int]:
    a = activations
    operands = {a.TOKEN_COUNT: tokens, a.SOURCE: source.address, a.SOURCE_STRIDE: source.stride}
    return operands | {a.OUT: out.address, a.OUT_STRIDE: out.stride, a.WIDTH: source.width}


def norm_row(tokens: int, source: Rows, out: Rows, weight: int, epsilon: int) -> np.ndarray:
    """RMS norm; `weight` and `epsilon` are addresses of padded float32 and of a float64."""
    operands = {activations.N_WEIGHT: weight, activations.N_EPSILON: epsilon}
    return row(activations.rms_norm, _map(tokens, source, out) | operands, alone=1)


def rope_row(tokens: int, buffer: Rows, heads: int, layout: str, table: int, positions: int) -> np.ndarray:
    """Rotate heads in place; `table` is the address of the address of float32 (positions, dim): cosines, then sines."""
    operands = {activations.R_HEADS: heads, activations.R_DIM: buffer.width // heads}
    operands |= {activations.R_TABLE: table, activations.R_POSITIONS: positions}
    kernel = {"half": activations.rope_half, "pairs": activations.rope_pairs}[layout]
    return row(kernel, _map(tokens, buffer, buffer) | operands, alone=1)


def gate_row(tokens: int, gate: Rows, up: Rows, out: Rows) -> np.ndarray:
    """out = silu(gate) * up; gate and up have one stride."""
    return row(
        activations.gate_silu, _map(tokens, gate, out) | {activations.G_UP: up.address}, alone=int(out.width <= SMALL)
    )


def select_row(tokens: int, source: Rows, out: Rows, rows: int) -> np.ndarray:
    """out[i] = source[rows[i]]; `rows` is the address of int64 row numbers."""
    return row(activations.select, _map(tokens, source, out) | {activations.S_ROWS: rows}, alone=1)


def embed_row(tokens: int, ids: int, matrix: Packed, descriptor: np.ndarray, out: Rows) -> np.ndarray:
    """out[i] = row ids[i] of the matrix, whose descriptor the caller keeps; `ids` is the address of int64 token ids."""
    operands = {embed.TOKEN_COUNT: tokens, embed.TOKEN_IDS: ids, embed.OUT: out.address, embed.OUT_STRIDE: out.stride}
    operands |= {embed.COLUMNS: out.width, embed.PLANE0: matrix.codes}
    if matrix.value:
        return row(getattr(embed, f"embed_{matrix.value}"), operands, alone=1)
    widths = (*PLANES[matrix.bits], 0)
    operands |= {embed.MATRIX: descriptor.ctypes.data, embed.WIDTH0: widths[0], embed.WIDTH1: widths[1]}
    operands |= {embed.PADDED: matrix.columns, embed.ORDER: matrix.order, embed.COLUMN_SCALE: matrix.column_scale}
    return row(embed.embed_codes, operands, alone=1)


@dataclass(frozen=True)
class Heads:
    """Sizes of attention: query heads, key-value heads, numbers of a head, and where in a page a layer begins
    (bytes)."""

    heads: int
    kv_heads: int
    dim: int
    layer_offset: int


def layer_bytes(kind: str, kv_heads: int, dim: int) -> int:
    """Bytes of one layer in a page of a cache of "f16" or "f32"."""
    wide = -(-dim // 16) * 16
    return kv_heads * PAGE * (dim + wide) * {"f16": 2, "f32": 4}[kind]


def store_kv_row(
    kind: str, tokens: int, key: Rows, value: Rows, sizes: Heads, positions: int, tables: int
) -> np.ndarray:
    """Append keys and values; `positions` and `tables` are addresses of an int64 a token: position, address of the
    page table."""
    a = attention
    operands = {
        a.TOKEN_COUNT: tokens,
        a.SOURCE: key.address,
        a.SOURCE_STRIDE: key.stride,
        a.VALUE_SOURCE: value.address,
    }
    operands |= {a.KV_HEADS: sizes.kv_heads, a.DIM: sizes.dim, a.LAYER_OFFSET: sizes.layer_offset}
    operands |= {a.POSITIONS: positions, a.TABLES: tables}
    return row({"f16": a.store_kv_f16, "f32": a.store_kv_f32}[kind], operands, alone=1)


def attention_row(kind: str, run_count: int, runs: int, query: Rows, out: Rows, sizes: Heads, scale: int) -> np.ndarray:
    """Attention of all runs; `run_count` is the address of an int64, `runs` of the run words, `scale` of a float64 in
    units of log2."""
    a = attention
    operands = {
        a.RUN_COUNT: run_count,
        a.RUNS: runs,
        a.HEADS: sizes.heads,
        a.KV_HEADS: sizes.kv_heads,
        a.DIM: sizes.dim,
    }
    operands |= {a.LAYER_OFFSET: sizes.layer_offset, a.SCALE: scale, a.SOURCE: query.address}
    operands |= {a.SOURCE_STRIDE: query.stride, a.OUT: out.address, a.OUT_STRIDE: out.stride}
    return row({"f16": a.attention_f16, "f32": a.attention_f32}[kind], operands)


def attention_jobs(tokens: int, heads: int, kv_heads: int) -> int:
    """Work items of a run of tokens; a run's words (attention.py, RUN_FIRST ...) end with those before it."""
    return -(-tokens * (heads // kv_heads) // FLOAT_ROWS) * kv_heads
