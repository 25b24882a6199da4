"""Steps with zero-points or minimums of a block of rows: what shift_rows.py needs, from arrays."""

from __future__ import annotations

import numpy as np

from ggq_kernels.code import ready

rows = ready.module("shift_rows")


def search(
    x: np.ndarray,
    energy: np.ndarray,
    totals: np.ndarray,
    trials: np.ndarray,
    turns: int,
    last_code: int,
    *,
    minimum: bool,
    below: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The best step and zero-point, or minimum, of each group.

    Args:
        x: float32 (rows, groups, group), C-contiguous, finite; a group is a multiple of 16.
        energy: float32 (groups, group), what the square of an error counts by column.
        totals: float32 (groups,), its sums.
        trials: float32 (trials, 2); with zero-points over how many steps the range is spread and how many of these are
            cut off, with minimums by what the range is divided and the share that is cut off below.
        turns: How often the best is refitted.
        last_code: The largest code.
        minimum: Whether minimums are searched, and not zero-points.
        below: Whether minimums, what is taken off, must not be negative.

    Returns:
        float32 (rows, groups) each.
    """
    assert x.flags.c_contiguous and energy.flags.c_contiguous and trials.flags.c_contiguous
    assert x.dtype == energy.dtype == trials.dtype == totals.dtype == np.float32
    assert x.shape[1:] == energy.shape and x.shape[2] % 16 == 0
    totals = np.ascontiguousarray(totals)
    steps, shifts = np.empty(x.shape[:2], np.float32), np.empty(x.shape[:2], np.float32)
    weighted = np.empty(x.shape[2], np.float32)
    words = np.zeros(rows.WORDS // 8, np.int64)
    words[:6] = [x.ctypes.data, energy.ctypes.data, totals.ctypes.data, *x.shape]
    words[6:11] = [trials.ctypes.data, len(trials), turns, last_code, int(below)]
    words[11:] = [weighted.ctypes.data, steps.ctypes.data, shifts.ctypes.data]
    (rows.search_minimum if minimum else rows.search_zero)(words.ctypes.data)
    return steps, shifts
