"""A codebook's levels: what lloyd.py needs, from arrays."""

from __future__ import annotations

import numpy as np

from ggq_kernels.code import ready

kernels = ready.module("lloyd")


def histogram(
    x: np.ndarray, inverses: np.ndarray, counts: np.ndarray, least: int, per_step: int, bins: int
) -> np.ndarray:
    """What the weights of each bin count.

    Args:
        x: float32 (rows, groups, group), C-contiguous; a group is a multiple of 16.
        inverses: float32 (rows, groups), 1 / step.
        counts: float64 (rows, groups), what a weight of the group counts.
        least: What the first bin stands for, in steps.
        per_step: Bins of a step.
        bins: The last bin's number.

    Returns:
        float64 (bins + 1,).
    """
    assert x.flags.c_contiguous and x.dtype == np.float32 and x.shape[2] % 16 == 0
    inverses, counts = np.ascontiguousarray(inverses, np.float32), np.ascontiguousarray(counts, np.float64)
    places, mass = np.empty(16, np.int32), np.zeros(bins + 1, np.float64)
    words = np.zeros(kernels.WORDS // 8, np.int64)
    words[:5] = [x.ctypes.data, inverses.size, x.shape[2], inverses.ctypes.data, counts.ctypes.data]
    words[5:] = [least, per_step, bins, places.ctypes.data, mass.ctypes.data]
    kernels.histogram(words.ctypes.data)
    return mass


def lloyd(masses: np.ndarray, moments: np.ndarray, places: np.ndarray, centres: np.ndarray, rounds: int) -> np.ndarray:
    """Centres that are each the mean of the mass nearer to it than to another.

    Args:
        masses, moments: float64 (bins + 1,), sums from the left of the bins' masses, and of these times their places.
        places: float64 (bins,), ascending.
        centres: float64 (n,), ascending, to start from.
        rounds: Most rounds.

    Returns:
        float64 (n,).
    """
    found, moved = centres.astype(np.float64), np.empty(len(centres), np.float64)
    words = np.zeros(kernels.LLOYD_WORDS // 8, np.int64)
    words[:4] = [masses.ctypes.data, moments.ctypes.data, places.ctypes.data, len(places)]
    words[4:] = [found.ctypes.data, len(found), moved.ctypes.data, rounds]
    kernels.lloyd(words.ctypes.data)
    return found
