"""Quantizing a block of rows: what encode_rows.py needs, from arrays."""

from __future__ import annotations

import numpy as np

from ggq_kernels.code import ready

rows = ready.module("encode_rows")


def encode(
    source: np.ndarray,
    kind: str,
    padded_columns: int,
    group: int,
    bits: int,
    planes: tuple[np.ndarray, ...],
    scales: np.ndarray,
    zeros: np.ndarray | None,
) -> tuple[float, float, float] | None:
    """Quantize a block of rows into whole tiles: AbsMax, or zero-point where there is room for zero-points.

    Args:
        source: (rows, columns), C-contiguous: float32, float16, or uint16 (the bits of bf16).
        kind: "f32", "f16" or "bf16".
        padded_columns, group, bits: Of the scheme.
        planes: The tiles' part of each plane, (tiles, units, 16) uint32, C-contiguous.
        scales: (tiles, groups, 16) float16.
        zeros: (tiles, groups, 16) uint8, or None.

    Returns:
        Sum of squared errors, sum of squared weights, largest error; None where a weight is not finite or a scale too
        large for f16: the reference says which.
    """
    if group % rows.STEP:
        return None
    widths = [plane.shape[1] * 32 // padded_columns for plane in planes] + [0]
    addresses = [plane.ctypes.data for plane in planes] + [0]
    by_group = -(-padded_columns // group // 16) * 64  # bytes: whole vectors of 16
    sizes = [padded_columns * source.itemsize, padded_columns, *[by_group] * 5]
    scratch, sums = np.zeros(sum(sizes), np.uint8), np.zeros(3, np.float64)
    places = np.cumsum([scratch.ctypes.data, *sizes[:-1]])
    words = np.zeros(rows.WORDS // 8, np.int64)
    words[:6] = [source.ctypes.data, source.strides[0], *source.shape, padded_columns, group]
    words[6:12] = [bits, int(zeros is not None), *widths[:2], *addresses[:2]]
    words[12:15] = [scales.ctypes.data, 0 if zeros is None else zeros.ctypes.data, sums.ctypes.data]
    words[15:] = places
    encoders = {"f32": rows.encode_f32, "f16": rows.encode_f16, "bf16": rows.encode_bf16}
    if encoders[kind](words.ctypes.data):
        return None
    return float(sums[0]), float(sums[1]), float(sums[2])
