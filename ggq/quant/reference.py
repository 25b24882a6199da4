"""Codes to numbers and numbers to codes, in plain NumPy: the semantics that every kernel must reproduce."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.matrix import QuantizedMatrix, geometry, largest_code, middle


def decode(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    """The numbers that a quantized matrix stands for: scale * (code - zero).

    The product of an 11-bit and a 9-bit integer fits into float32: nothing is rounded.

    Returns:
        float32 (rows, columns).

    Source: spec/schemes.md, S4.
    """
    columns = matrix.shape[1]
    group = np.arange(columns) // geometry(matrix.scheme, matrix.shape).group
    scale = matrix.scales.astype(np.float32)[:, group]
    zero = middle(matrix.scheme) if matrix.zeros is None else matrix.zeros.astype(np.int32)[:, group]
    difference = matrix.codes[:, :columns].astype(np.int32) - zero
    return scale * difference.astype(np.float32)


def by_groups(weights: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """Weights (rows, columns), padded with zeros to whole groups, as (rows, groups, group)."""
    sizes = geometry(scheme, weights.shape)
    if sizes.padded_columns != sizes.columns:
        padded = np.zeros((sizes.rows, sizes.padded_columns), np.float32)
        padded[:, : sizes.columns] = weights
        weights = padded
    return weights.reshape(sizes.rows, sizes.groups, sizes.group)


def stored_scales(scales: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Scales as they are stored, and what weights are multiplied with to find their codes.

    Args:
        scales: float32, any shape.

    Returns:
        float16 scales, to nearest and halves to even, zeros positive, infinite where too large; and float32(1) / them,
        0 for a scale of 0.

    Source: spec/schemes.md, S6.
    """
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        stored = scales.astype(np.float16)
        stored[stored == 0] = 0
        wide = stored.astype(np.float32)
        return stored, np.where(wide == 0, np.float32(0), np.float32(1) / wide)


def nearest_codes(
    groups: NDArray[np.float32], inverse: NDArray[np.float32], zeros: NDArray[np.float32] | float, scheme: Scheme
) -> NDArray[np.uint8]:
    """Codes clip(round_half_even(weight * inverse) + zero, 0, 2**bits - 1).

    Args:
        groups: float32 (rows, groups, group), from `by_groups`.
        inverse: float32 (rows, groups), from `stored_scales`.
        zeros: Whole float32 (rows, groups), or one number.
        scheme: Gives the bits.

    Returns:
        uint8 (rows, padded columns).

    Source: spec/schemes.md, S6.
    """
    codes = groups * inverse[:, :, None]
    np.rint(codes, out=codes)
    codes += zeros[:, :, None] if isinstance(zeros, np.ndarray) else np.float32(zeros)
    np.clip(codes, 0, largest_code(scheme), out=codes)
    return codes.astype(np.uint8).reshape(len(groups), -1)
