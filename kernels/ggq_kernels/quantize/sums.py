"""Sums over groups, lane by lane: what sum_lanes.py needs, from arrays."""

from __future__ import annotations

import numpy as np

from ggq_kernels.code import ready

lanes = ready.module("sum_lanes")


def level_sums(
    x: np.ndarray,
    energy: np.ndarray,
    inverse: np.ndarray,
    shift: np.ndarray,
    levels: np.ndarray,
    marks: int,
    found: np.ndarray | None = None,
) -> np.ndarray:
    """The sums that `ggq.gguf.encode.sums.reference_sums` has.

    Args:
        x: float32 (tiles, group, 16), C-contiguous.
        energy: float32 of that shape.
        inverse, shift: float32 (16 * tiles,).
        levels: float32: the least and the largest whole number; or, with marks, the first entry of a table, then
            for each mark itself and what is gained beyond it.
        marks: Of a table; 0 for whole numbers.
        found: float32 of the shape of x, where levels are written, or None.

    Returns:
        float32 (3, 16 * tiles).
    """
    arrays = (x, energy, inverse, shift, levels, *([] if found is None else [found]))
    assert all(each.dtype == np.float32 and each.flags.c_contiguous for each in arrays)
    assert x.shape == energy.shape and x.shape[2] == 16 and inverse.shape == shift.shape == (16 * len(x),)
    sums = np.empty((3, len(inverse)), np.float32)
    words = np.zeros(lanes.WORDS // 8, np.int64)
    words[:4] = [x.ctypes.data, energy.ctypes.data, *x.shape[:2]]
    words[4:8] = [shift.ctypes.data, inverse.ctypes.data, levels.ctypes.data, marks]
    words[8:] = [*(each.ctypes.data for each in sums), 0 if found is None else found.ctypes.data]
    (lanes.sum_table if marks else lanes.sum_whole)(words.ctypes.data)
    return sums
