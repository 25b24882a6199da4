"""What tests of the kernels share: memory with addresses, matrices as they lie in a file, teams, and rounding."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from ggq.engine.weights import middle_number, table_bytes
from ggq.format.scheme import Scheme, round_up
from ggq.quant import QuantizedMatrix, decode_tensor, pack
from ggq.quant.matrix import padding_code, subscale_offset
from ggq.quant.stored import activation_group
from ggq_kernels.code import precompiled
from ggq_kernels.run import calls
from ggq_kernels.run.threads import Team, aligned_zeros
from ggq_kernels.vector.tile_registers import COLUMNS, TILE

UNIT = 2.0**-24
"""Largest relative error of one float32 operation."""

SMALLEST = 2.0**-149
"""The least float32 above 0: the absolute error of a result below the normal numbers."""

UNTOUCHED = np.float32(-7.5e30)
"""What output buffers hold before a kernel runs, to see where it wrote."""


once = pytest.mark.skipif(
    "NUMBA_CPU_NAME" in os.environ or precompiled.archive() is not None,
    reason="not repeated for other instruction sets",
)
"""Marks tests of the cache, of processes and of fixed targets: nothing in them depends on the instruction set."""


FORMS = (
    *("q4m-g32", "q5m-row", "q2m-g32-s4", "q4m-g32-s6", "q8m-g64-s8", "q3-g64-s8", "q6-g32-s6", "q8-g32-s4"),
    *("q4-row-s6", "q4z-g128-s6", "ternary-g64", "ternary-g32-s4", "binary-g64", "binary-row"),
    *("c2-g128", "c3-g32-s6", "c4-g32", "c4-row"),
    *(f"q{bits}-g16" for bits in (2, 3, 4, 5, 6, 8)),
    *("q6-g16-s8", "q3-g16-s6", "q2m-g16-s4", "q8z-g16", "q4m-g16", "q4-g48", "q5-g96", "q3z-g48-s6", "q4-g160"),
    *("ternary-g16", "binary-g16", "binary-g48-s4", "c2-g16", "c3-g16-s6", "c4-g16"),
)
"""Schemes of every form, whether or not they are in the list that is converted to."""


def gamma(roundings: int) -> float:
    """Largest relative error of a number after so many float32 roundings, each of a number that includes it.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1.
    """
    return roundings * UNIT / (1 - roundings * UNIT)


@functools.cache
def team(threads: int = 1) -> Team:
    """A team that lives as long as the tests."""
    return Team(threads)


def run(*rows: np.ndarray, threads: int = 1) -> None:
    """Run rows of a tape, one after the other."""
    team(threads).run(np.ascontiguousarray(np.stack(rows)))


def address(array: np.ndarray) -> int:
    """Where an array begins; the caller keeps it."""
    return int(array.ctypes.data)


def aligned(values: np.ndarray) -> np.ndarray:
    """A flat copy whose address is a multiple of 64, as segments of a file have it."""
    flat = aligned_zeros(max(1, values.nbytes)).view(np.uint8)[: values.nbytes].view(values.dtype)
    flat[:] = values.ravel()
    return flat


def count(n: int) -> np.ndarray:
    """int64 (1,): a number of rows, as kernels read it."""
    return np.array([n], np.int64)


class Floats:
    """A float32 buffer as the engine lays it out: rows padded to 128 columns, spare rows for the last register tile.

    Spare rows hold NaN, so that a kernel whose rows are not independent is found out.

    Args:
        values: (rows, columns); columns beyond them hold 0.
        least: Columns that rows must have at least.
    """

    def __init__(self, values: np.ndarray, least: int = 0) -> None:
        n, width = values.shape
        stride = round_up(max(width, least), 128)
        memory = aligned_zeros((n + calls.MOST_ROWS) * stride * 4)
        self.whole = memory.view(np.float32).reshape(-1, stride)
        self.whole[n:] = np.nan
        self.values = self.whole[:n, :width]
        self.values[:] = values
        self.rows = calls.Rows(address(self.whole), stride * 4, width)


def bf16_memory(tokens: int, columns: int) -> np.ndarray:
    """Room for activations rounded to bf16, the bits as uint16 (tiles of tokens, tiles of columns, 16, 32).

    They are NaN, so that a kernel that lets rows of no token into others is found out."""
    memory = aligned_zeros(calls.bf16_bytes(tokens, columns)).view(np.uint16)
    memory[:] = 0x7FC0
    return memory.reshape(-1, -(-columns // COLUMNS), TILE, COLUMNS)


def output(n: int, width: int) -> Floats:
    """A buffer whose every number is `UNTOUCHED`."""
    made = Floats(np.zeros((n, width), np.float32))
    made.whole[:] = UNTOUCHED
    return made


class Int8:
    """A buffer for activations rounded to int8, (columns / 4, tokens of a tile, 4) tile after tile.

    Args:
        tokens: Of the batch.
        columns: Padded, a multiple of `group`.
        group: Columns that share a scale.
        bf16: Whether there is room for many tokens rounded to bf16 too.
    """

    def __init__(self, tokens: int, columns: int, group: int, bf16: bool = False) -> None:
        rows = tokens + calls.MOST_ROWS
        self.tokens, self.columns, self.group = tokens, columns, group
        self.codes = aligned_zeros(rows * columns).view(np.int8)
        parts = [aligned_zeros(rows * columns // group * 4) for _ in range(3)]
        self.scales, self.offsets = (part.view(np.float32) for part in parts[:2])
        self.sums = parts[2].view(np.int32)
        at = [address(a) for a in (self.codes, *parts)]
        self.bf16 = bf16_memory(tokens, columns) if bf16 else None
        self.rows = calls.Int8Rows(
            at[0], at[1], at[2], at[3], columns, group, 0 if self.bf16 is None else address(self.bf16)
        )

    def tiles(self, width: int) -> list[tuple[int, int]]:
        """First token and tokens of each tile of at most `width`; a last single token stands alone."""
        starts = range(0, self.tokens, width)
        return [(first, 1 if self.tokens - first == 1 else width) for first in starts]

    def unpacked(self, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes (tokens, columns), scales and offsets (tokens, groups), out of tiles of `width` tokens."""
        groups = self.columns // self.group
        parts: tuple[list[np.ndarray], ...] = ([], [], [])
        for first, n in self.tiles(width):
            tile = self.codes[first * self.columns :][: n * self.columns].reshape(-1, n, 4)
            parts[0].append(tile.transpose(1, 0, 2).reshape(n, -1))
            for part, source in zip(parts[1:], (self.scales, self.offsets)):
                part.append(source[first * groups :][: n * groups].reshape(groups, n).T)
        codes, scales, offsets = (np.concatenate(part)[: self.tokens] for part in parts)
        return codes, scales, offsets

    def negative_sums(self, width: int) -> np.ndarray:
        """Sums of codes with their signs turned, int32 (tokens, groups), out of the same tiles."""
        groups = self.columns // self.group
        parts = [self.sums[first * groups :][: n * groups].reshape(groups, n).T for first, n in self.tiles(width)]
        return np.concatenate(parts)[: self.tokens]


@dataclass
class Matrix:
    """A matrix as it lies in a file, and what it stands for, float64 (rows, columns)."""

    scheme: Scheme
    packed: calls.Packed
    weights: np.ndarray
    kept: Mapping[str, np.ndarray]
    table: np.ndarray


def matrix(scheme: Scheme, shape: tuple[int, int], segments: Mapping[str, Any]) -> Matrix:
    """A matrix from its segments."""
    kept = {role: aligned(segment) for role, segment in segments.items()}
    at = {role: address(segment) for role, segment in kept.items()}
    sizes = scheme.geometry(shape)
    entries = segments["codebook"].view(np.int8) if scheme.kind == "codebook" else None
    table = np.zeros(16, np.uint8) if entries is None else table_bytes(scheme, entries)
    packed = calls.Packed(
        value=scheme.value,
        bits=0 if scheme.kind == "float" else scheme.bits,
        rows=sizes.padded_rows,
        columns=sizes.padded_columns,
        group=sizes.group,
        codes=at["values"] if scheme.kind == "float" else at["codes"],
        scales=at.get("scales", 0),
        middle=0.0 if scheme.kind == "float" else middle_number(scheme, entries),
        zeros=at.get("zeros", 0),
        minimums=at.get("minimums", 0),
        sub_bits=scheme.subscale,
        sub_scales=at.get("subscales", 0),
        sub_minimums=at.get("subminimums", 0),
        sub_lowest=subscale_offset(scheme) if scheme.subscale else 0,
        table=address(table) if scheme.kind == "codebook" else 0,
        order=at.get("input_order", 0),
        column_scale=at.get("input_scale", 0),
    )
    with np.errstate(invalid="ignore"):  # a matrix of all halves holds signalling NaN
        weights = decode_tensor(scheme, shape, segments).astype(np.float64)
    return Matrix(scheme, packed, weights, kept, table)


def coded(
    scheme: Scheme,
    codes: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray | None = None,
    lower: np.ndarray | None = None,
    table: np.ndarray | None = None,
) -> Matrix:
    """A matrix of chosen codes, (rows, columns); padding columns get what stands for zero.

    Args:
        scheme: Of codes.
        codes: Whole numbers.
        scales: (rows, groups), or of super-groups; exact in float16. Minimums are the same without their signs.
        zeros: (rows, groups); needed with a zero-point only.
        lower: (rows, groups), whole numbers: sub-scales, less the one that stands for zero, and sub-minimums.
        table: Entries of a codebook.
    """
    rows, columns = codes.shape
    sizes, with_zeros = scheme.geometry((rows, columns)), scheme.zero == "code"
    padded = np.full((rows, sizes.padded_columns), padding_code(scheme), np.uint8)
    if with_zeros:
        assert zeros is not None
        padded[:] = np.repeat(zeros, sizes.group, axis=1)
    padded[:, :columns] = codes
    two_level, minimum = scheme.subscale > 0, scheme.zero == "minimum"
    made = QuantizedMatrix(
        scheme,
        (rows, columns),
        padded,
        scales.astype(np.float16),
        zeros.astype(np.uint8) if with_zeros and zeros is not None else None,
        (lower + subscale_offset(scheme)).astype(np.uint8) if two_level and lower is not None else None,
        np.abs(scales).astype(np.float16) if minimum else None,
        lower.astype(np.uint8) if two_level and minimum and lower is not None else None,
        table.astype(np.int8) if scheme.kind == "codebook" and table is not None else None,
    )
    return matrix(scheme, (rows, columns), pack(made))


def product(
    matrices: Sequence[Matrix],
    x: np.ndarray,
    *,
    int8: bool,
    bf16: bool = False,
    biases: Sequence[np.ndarray | None] | None = None,
    add_to: Sequence[np.ndarray] | None = None,
    threads: int = 1,
) -> list[np.ndarray]:
    """x @ matrix.T for matrices of one kind in one operation of a tape; checks that nothing else was written.

    Args:
        matrices: Of one scheme and one number of columns.
        x: float32 (tokens, columns).
        int8: Round x to int8 first.
        bf16: Round x to bf16 instead and multiply by tiles, as many tokens are.
        biases: One float32 (rows,) or None each.
        add_to: What the results are added to, float32 (tokens, rows) each.
        threads: Of the team.
    """
    n, packed = len(x), [m.packed for m in matrices]
    source, tokens = Floats(x, packed[0].columns), count(n)
    outs = [output(n, len(m.weights)) for m in matrices]
    for out, before in zip(outs, add_to or ()):
        out.whole[:] = 0
        out.values[:] = before
    padded = [None if b is None else np.pad(b, (0, -len(b) % 16)) for b in biases or [None] * len(matrices)]
    table = calls.descriptors(packed, [o.rows for o in outs], [0 if b is None else address(b) for b in padded])
    form: calls.Rows | calls.Int8Rows = source.rows
    rows = []
    with calls.addresses_later() as kernels:
        if int8:
            rounded = Int8(n, packed[0].columns, activation_group(matrices[0].scheme), bf16)
            rows.append(calls.quantize_row(address(tokens), source.rows, rounded.rows, packed[0]))
            form = rounded.rows
        elif bf16:
            memory = bf16_memory(n, packed[0].columns)
            form = replace(source.rows, bf16=address(memory))
            rows.append(calls.round_row(address(tokens), form, packed[0].columns))
        rows.append(calls.linear_row(address(tokens), packed, table, form, add_to is not None, threads))
    if bf16:  # as if there were many tokens; what few would take is not compiled: 4 s for each width of codes
        kernels = [(many or kernel, None) for kernel, many in kernels]
    tape = np.stack(rows)
    calls.link(tape, kernels)
    team(threads).run(tape)
    for out, m in zip(outs, matrices):
        beyond = out.whole[:, m.packed.rows :]
        assert (beyond == (0 if add_to else UNTOUCHED)).all(), "written beyond the padded rows of the matrix"
        assert (out.whole[:n, len(m.weights) : m.packed.rows] == 0).all(), "padding rows must give zeros"
    return [out.values.copy() for out in outs]
