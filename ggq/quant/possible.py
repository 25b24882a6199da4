"""Whether statistics can be those of any inputs at all: what a file holds was written by nobody knows whom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.quant.inputs import InputStatistics

SLACK = 1e-2
"""Relative room for rounding in float32 sums."""

TINY = 1e-30
"""Room where squares are near float32's smallest numbers."""

_BLOCK = 1 << 22


def impossible(found: InputStatistics) -> str:
    """What no inputs have; "" where all fits together.

    A column that was NaN or infinite is so in all of its numbers: then it is as it was calibrated, and whoever uses
    the statistics sees it.

    Args:
        found: Of one input.
    """
    largest, mean, square = (np.asarray(x, np.float64) for x in (found.absolute_maximum, found.mean, found.mean_square))
    finite = np.isfinite(largest) & np.isfinite(square)
    if (~np.isfinite(mean) & finite).any() or (np.isfinite(mean) & ~finite & ~np.isinf(square)).any():
        return "NaN or infinite numbers in a column whose other numbers are finite"
    if (np.isinf(square) & (largest < 1e19)).any():
        return "an infinite energy of finite numbers"
    if (square[finite] < 0).any() or (largest[finite] < 0).any():
        return "a negative energy or absolute maximum"
    room = 1 + SLACK
    most, energy = largest[finite], square[finite]
    if (most**2 > energy * found.count * room + TINY).any():
        return "an absolute maximum that the energy does not allow"
    if (energy > most**2 * room + TINY).any() or (mean[finite] ** 2 > energy * room + TINY).any():
        return "mean, energy and absolute maximum contradict each other"
    if found.gram is not None and (problem := _gram(found.gram, square, finite)):
        return problem
    if found.samples is not None:
        samples = np.abs(found.samples[:, finite])
        if not (samples <= most * room + TINY).all():
            return "samples of the inputs that are NaN or beyond the absolute maximum"
    return ""


def _gram(gram: NDArray[np.float32], square: NDArray[np.float64], finite: NDArray[np.bool_]) -> str:
    """What no matrix of products has, by blocks of rows."""
    root = np.sqrt(np.where(finite, square, 0.0))
    columns = len(square)
    for start in range(0, columns, max(1, _BLOCK // max(columns, 1))):
        rows = slice(start, min(columns, start + max(1, _BLOCK // max(columns, 1))))
        usual = np.ix_(np.flatnonzero(finite[rows]), np.flatnonzero(finite))
        block = gram[rows][usual].astype(np.float64)
        bound = np.outer(root[rows][finite[rows]], root[finite]) * (1 + SLACK) + TINY
        if not (np.abs(block) <= bound).all():
            return "products of columns that are NaN, or larger than the columns' energies allow"
        other = gram[:, rows].T[usual].astype(np.float64)
        if not (np.abs(block - other) <= bound * SLACK).all():
            return "products of columns that differ from themselves mirrored"
    diagonal = np.diagonal(gram).astype(np.float64)[finite]
    if not (np.abs(diagonal - square[finite]) <= square[finite] * SLACK + TINY).all():
        return "products of columns that contradict the columns' energies"
    return ""
