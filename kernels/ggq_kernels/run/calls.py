"""Rows of a tape: one function for each operation, from addresses and sizes to the 32 words that its kernel reads.

Those of products are here, the others beside their kernels (row/calls.py, attend/calls.py); all are found here.
Addresses are of memory that the caller keeps alive; `tokens` is the address of an int64 that holds the number of rows
of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ggq_kernels.attend.calls import (
    Heads,
    attention_jobs,
    attention_row,
    layer_bytes,
    store_kv_row,
)
from ggq_kernels.attend.operands import PAGE
from ggq_kernels.code import permission, ready
from ggq_kernels.product.operands import ADD, COLUMNS, EMBED, X_GROUP, X_OFFSET, X_SCALE, X_STRIDE, X_SUM, X
from ggq_kernels.product.widths import PLANES
from ggq_kernels.row.calls import (
    activate_row,
    add_row,
    assign_row,
    blend_row,
    columns_row,
    copy_row,
    gate_row,
    gaussian_top_k_row,
    norm_row,
    quantize_row,
    rescale_row,
    rope_row,
    round_row,
    route_row,
    scale_columns_row,
    scored_row,
    select_row,
    share_row,
    softcap_row,
    transform_row,
    xielu_row,
)
from ggq_kernels.run.rows import (
    BF16_TOKENS,
    MAY_BE_EMPTY,
    HasAddress,
    Int8Rows,
    Rows,
    addresses_later,
    keys_of,
    link,
    operands,
    row,
)
from ggq_kernels.scan.calls import LANES, ScanSizes, StateRuns, conv_row, delta_row, ssm_row

__all__ = [
    "BF16_TOKENS",
    "EVERY",
    "LANES",
    "MAY_BE_EMPTY",
    "MOST_ROWS",
    "PAGE",
    "TABLE",
    "Heads",
    "Int8Rows",
    "Packed",
    "Rows",
    "ScanSizes",
    "StateRuns",
    "activate_row",
    "add_row",
    "addresses_later",
    "assign_row",
    "attention_jobs",
    "attention_row",
    "bf16_bytes",
    "bf16_from",
    "conv_row",
    "delta_row",
    "descriptors",
    "embed_row",
    "gate_row",
    "keys_of",
    "layer_bytes",
    "linear_row",
    "link",
    "norm_row",
    "quantize_row",
    "rope_row",
    "round_row",
    "columns_row",
    "copy_row",
    "route_row",
    "scored_row",
    "row",
    "select_row",
    "share_row",
    "softcap_row",
    "ssm_row",
    "store_kv_row",
    "transform_row",
    "blend_row",
    "gaussian_top_k_row",
    "rescale_row",
    "scale_columns_row",
    "xielu_row",
]

# Not imported: that would import Numba, which a process with saved kernels does without.
linear, products, steps = (ready.module(name) for name in ("linear", "products", "steps"))
amx, bf16, embed = (ready.module(name) for name in ("amx", "bf16", "embed"))
half_blocks, half_tiles = (ready.module(name) for name in ("half_blocks", "half_tiles"))
FLOAT_ROWS, TOKENS = ready.module("isa").FLOAT_ROWS, ready.module("isa").TOKENS
AMX = ready.module("isa").AMX

CACHE_BYTES = 192 * 1024
"""Activations of a block of tokens that shall stay in a core's second-level cache while it goes through its rows."""
CHUNK_BYTES = 128 * 1024
"""Bytes of weights, about, that a thread takes at most where it goes through them again for each block of tokens."""
FEW = TOKENS
"""Up to how many tokens codes are multiplied straight from their planes; with more, taking them out of these once is
less work (1b q4-g32, 16 sequences, straight and not: 66.3 and 65.5 ms; 8 on AVX2, in tiles of 4: 78.6 and 74.7)."""
WIDE_MIDDLE = 128.0
"""What is subtracted from the entries of a table that seven bits do not hold."""
EVERY = 1 << 62
"""More tokens than there are."""
MOST_ROWS = max(TOKENS, FLOAT_ROWS)
"""Rows that a buffer must have beyond the batch: the kernels compute whole register tiles of tokens."""


def bf16_from() -> int:
    """From how many tokens on products take activations rounded to bf16; `EVERY` where this processor has no tiles of
    bf16, or the system keeps them from this process."""
    return BF16_TOKENS if AMX and permission.tiles_allowed() else EVERY


def bf16_bytes(rows: int, columns: int) -> int:
    """Bytes of so many activations rounded to bf16, in whole tiles."""
    return -(-rows // bf16.TILE) * -(-columns // bf16.COLUMNS) * bf16.TILE_BYTES


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
        table: Address of 16 bytes, the entries that codes stand for, plus `middle`.
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
        wide = self.table != 0 and self.middle == WIDE_MIDDLE
        return self.value, self.bits, self.table != 0, wide, self.columns, self.group, *self.source

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
        given = {steps.M_PLANE0: self.codes, steps.M_PLANE1: self.plane1, steps.M_TABLE: self.table}
        if not self.value:
            groups, widths = self.columns // self.group, (*PLANES.get(self.sub_bits, (0,)), 0)
            first = self.rows // 16 * -(-groups * widths[0] // 8) * 16
            given |= {steps.M_GROUPS: groups, steps.M_GROUP: self.group, steps.M_SCALES: self.scales}
            given |= {steps.M_ZEROS: self.zeros, steps.M_MINIMUMS: self.minimums}
            given |= {steps.M_SUB_WIDTH0: widths[0], steps.M_SUB_WIDTH1: widths[1]}
            given |= {steps.M_SUB0: self.sub_scales, steps.M_SUB1: self.sub_scales + first}
            given |= {steps.M_MINIMUM_SUB0: self.sub_minimums, steps.M_MINIMUM_SUB1: self.sub_minimums + first}
            given |= {steps.M_SUB_LOWEST: self.sub_lowest}
            words.view(np.float64)[steps.M_MIDDLE // 8] = self.middle
            fraction, exponent = math.frexp(self.middle)
            folded = fraction == 0.5 and exponent > 0 and not (self.zeros or self.minimums)
            given |= {steps.M_SHIFT: exponent - 1 if folded else -1}
        for offset, value in given.items():
            words[offset // 8] = value
        return words


TABLE = linear.MATRICES
"""Where the row of a product has the address of its `descriptors`, in bytes."""


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
    tiles = sum(m.rows for m in matrices) // 16
    width = TOKENS if int8 else FLOAT_ROWS
    row_bytes, tile_bytes = first.columns * (1 if int8 else 4), 2 * first.columns * (first.bits or 32)
    given = {
        linear.TOKEN_COUNT: tokens,
        linear.MATRICES: table.ctypes.data,
        linear.TILES: tiles,
        linear.CHUNK: max(1, CHUNK_BYTES // tile_bytes),
        linear.SHARES: threads + threads // 2,
        linear.LEAST: max(2, tiles // (16 * threads) * 2),
        linear.TOKEN_BLOCK: max(1, CACHE_BYTES // row_bytes // width) * width,
        ADD: int(add),
        COLUMNS: first.columns,
        linear.FEW: FEW if int8 else 0,
        linear.X_BF16: source.bf16,
    }
    if isinstance(source, Int8Rows):
        given |= {X_GROUP: source.group, X: source.codes}
        given |= {X_SCALE: source.scales, X_OFFSET: source.offsets, X_SUM: source.sums}
    else:
        given |= {X: source.address, X_STRIDE: source.stride}
    one, many = _kernels(first, int8)
    return row(one, given, many=many() if source.bf16 else None)


def _kernels(matrix: Packed, int8: bool) -> tuple[HasAddress, Callable[[], HasAddress]]:
    """The product with such a matrix, and what gives that of many tokens by tiles."""
    if matrix.value:
        return getattr(linear, f"linear_{matrix.value}"), lambda: getattr(amx, f"tiles_{matrix.value}")
    name, form = f"{'c' if matrix.table else 'q'}{matrix.bits}", "int8" if int8 else "float32"
    if matrix.group % products.BLOCK:
        return getattr(half_blocks, f"half_blocks_{name}_{form}"), lambda: getattr(half_tiles, f"half_tiles_{name}")
    wide = f"w{matrix.bits}" if int8 and matrix.table and matrix.middle == WIDE_MIDDLE else name
    return getattr(linear, f"linear_{wide}_{form}"), lambda: getattr(amx, f"tiles_{name}")


def embed_row(
    tokens: int, ids: int, matrix: Packed, descriptor: np.ndarray, out: Rows, scale: float = 1.0
) -> np.ndarray:
    """out[i] = row ids[i] of the matrix, whose descriptor the caller keeps, times `scale`; `ids` is the address of
    int64 token ids."""
    widths = (*PLANES.get(matrix.bits, (0,)), 0)
    given = operands(
        EMBED,
        tokens=tokens,
        ids=ids,
        out=out.address,
        out_stride=out.stride,
        columns=out.width,
        values=matrix.codes,
        matrix=descriptor.ctypes.data,
        width0=widths[0],
        width1=widths[1],
        padded=matrix.columns,
        order=matrix.order,
        factors=matrix.column_scale,
        scale=float(scale),
    )
    return row(getattr(embed, f"embed_{matrix.value or 'codes'}"), given, alone=1)
