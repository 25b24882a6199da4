"""Codes to numbers, in plain NumPy: the semantics that every kernel must reproduce. All arithmetic is float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import SUPER_GROUP, Scheme
from ggq.quant.matrix import QuantizedMatrix, geometry, middle, subscale_offset
from ggq.quant.transform import undo_transform


def decode(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    """The weights that a quantized matrix stands for: `decode_stored`, its transform undone.

    Stored column j multiplies input_scale[j] times input number input_order[j]; so weight column input_order[j] is
    stored column j times input_scale[j].

    Returns:
        float32 (rows, columns).

    Raises:
        FormatError: A column order that points outside the matrix.

    Source: spec/schemes.md, S4 and S10.
    """
    return undo_transform(decode_stored(matrix), matrix.input_scale, matrix.input_order)


def decode_stored(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    """The numbers of a quantized matrix as they are stored: what multiplies transformed inputs.

    Without two levels and minimums, the product of an 11-bit and a 9-bit integer fits into float32 and nothing is
    rounded. With two levels the step is exact, and its product with a level rounds.

    Returns:
        float32 (rows, columns).

    Source: spec/schemes.md, S4.
    """
    scheme, columns = matrix.scheme, matrix.shape[1]
    group = np.arange(columns) // geometry(scheme, matrix.shape).group
    levels = code_levels(scheme, matrix.codes[:, :columns], matrix.codebook)
    if matrix.zeros is not None:
        levels -= matrix.zeros.astype(np.float32)[:, group]
    numbers = step_sizes(scheme, matrix.scales, matrix.subscales, int(group[-1]) + 1)[:, group] * levels
    if matrix.minimums is not None:
        numbers -= minimum_sizes(matrix.minimums, matrix.subminimums, int(group[-1]) + 1)[:, group]
    return numbers


def code_levels(
    scheme: Scheme, codes: NDArray[np.uint8], codebook: NDArray[np.int8] | None = None
) -> NDArray[np.float32]:
    """What codes stand for, in steps: float32, shaped as the codes; with zero-points, before these are taken off.

    A ternary code of 3 must not occur; it stands here for 2 steps, as it does in arithmetic.
    """
    if codebook is not None:
        return codebook.astype(np.float32).take(codes)
    levels = codes.astype(np.float32)
    if scheme.kind == "binary":
        levels *= 2
    if scheme.kind in ("ternary", "binary"):
        levels -= 1
    elif scheme.zero == "none":
        levels -= middle(scheme)
    return levels


def level_table(scheme: Scheme, codebook: NDArray[np.int8] | None = None) -> NDArray[np.float32]:
    """What every code of a scheme stands for, as `code_levels` has it: float32 (codes,)."""
    return code_levels(scheme, np.arange(scheme.codes, dtype=np.uint8), codebook)


def step_sizes(
    scheme: Scheme, scales: NDArray[np.float16], subscales: NDArray[np.uint8] | None, groups: int
) -> NDArray[np.float32]:
    """The step of each group: its scale, or its sub-scale, less half its range if symmetric, times the scale above it.

    Returns:
        float32 (rows, groups), exact.
    """
    return _widen(scales, subscales, subscale_offset(scheme), groups)


def minimum_sizes(
    minimums: NDArray[np.float16], subminimums: NDArray[np.uint8] | None, groups: int
) -> NDArray[np.float32]:
    """What each group of a scheme with minimums takes off: float32 (rows, groups), exact."""
    return _widen(minimums, subminimums, 0, groups)


def _widen(
    upper: NDArray[np.float16], lower: NDArray[np.uint8] | None, offset: int, groups: int
) -> NDArray[np.float32]:
    wide = upper.astype(np.float32)
    if lower is None:
        return wide
    wide = wide.repeat(SUPER_GROUP, axis=1)[:, :groups]
    with np.errstate(invalid="ignore"):  # an infinite scale, which `pack` refuses, times 0
        return wide * (lower[:, :groups].astype(np.float32) - np.float32(offset))


def by_groups(weights: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """Weights (rows, columns), padded with zeros to whole groups, as (rows, groups, group), C-contiguous."""
    sizes = geometry(scheme, weights.shape)
    if sizes.padded_columns != sizes.columns:
        padded = np.zeros((sizes.rows, sizes.padded_columns), np.float32)
        padded[:, : sizes.columns] = weights
        weights = padded
    return np.ascontiguousarray(weights).reshape(sizes.rows, sizes.groups, sizes.group)


def largest(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest |weight| of each group, float32 (rows, groups)."""
    return np.maximum(groups.max(axis=2), -groups.min(axis=2))


def mean_magnitudes(weights: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """The mean of |weight| of each group, padding not counted; 0 for a group of padding.

    Returns:
        float32 (rows, groups).
    """
    groups, columns = by_groups(weights, scheme), weights.shape[1]
    _, count, group = groups.shape
    present = np.clip(columns - np.arange(count) * group, 1, group)
    return (np.abs(groups).sum(axis=2, dtype=np.float64) / present).astype(np.float32)
