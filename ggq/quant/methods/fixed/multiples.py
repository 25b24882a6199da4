"""Steps of which all weights of a group are whole multiples: what was rounded before keeps every number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.grid import fit_grid
from ggq.quant.matrix import QuantizedMatrix, largest_code, middle
from ggq.quant.reference import by_groups

MANY = np.float32(np.finfo(np.float32).max)


class Multiples:
    """The largest step that f16 holds and that divides every weight of a group, if codes reach all of them.

    A group's smallest magnitude above zero is divided by 1, 2, 3 ... until all weights are whole multiples of what is
    left, compared exactly: step times multiple must be the weight bit for bit. Where there is no such step, the largest
    distance is spread over all codes, and weights are rounded.
    """

    name = "multiples"

    def supports(self, scheme: Scheme) -> bool:
        """Whether this method can fill the scheme: uniform codes of one level of scales, without minimums."""
        plain = scheme.kind == "uniform" and not scheme.subscale and not scheme.transform
        return plain and scheme.zero in ("none", "code")

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Choose scales, zero-points and codes.

        Args:
            weights: float32 (rows, columns), finite.
            scheme: One that `supports` accepts.
        """
        groups = by_groups(weights, scheme)
        rows, count, size = groups.shape
        step, low, high = _steps(groups.reshape(-1, size), scheme)
        shape = (rows, count)
        if scheme.zero == "none":
            return fit_grid(step.reshape(shape), scheme).nearest_matrix(groups, weights.shape[1])
        zero = np.clip(-low, 0, np.maximum(largest_code(scheme) - high, 0)).reshape(shape)
        return fit_grid(step.reshape(shape), scheme, zero=zero).nearest_matrix(groups, weights.shape[1])


def _steps(
    groups: NDArray[np.float32], scheme: Scheme
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """A step of each group, and its least and largest multiple; float32 (groups,) each."""
    codes, half = largest_code(scheme), middle(scheme)
    size = np.abs(groups)
    least = np.where(size > 0, size, MANY).min(axis=1)
    bottom, top = groups.min(axis=1), groups.max(axis=1)
    reach = np.maximum(-bottom / half, top / (half - 1)) if scheme.zero == "none" else (top - bottom) / codes
    step, low, high = reach.astype(np.float32), np.zeros_like(least), np.zeros_like(least)
    waiting = np.flatnonzero(least < MANY)
    for part in range(1, codes + 1):
        if not len(waiting):
            break
        with np.errstate(over="ignore", under="ignore"):
            wished = (least[waiting] / np.float32(part)).astype(np.float16).astype(np.float32)
        usable = np.where((wished > 0) & np.isfinite(wished), wished, MANY)[:, None]
        times = np.rint(groups[waiting] / usable)
        first, last = times.min(axis=1), times.max(axis=1)
        fits = (first >= -half) & (last <= half - 1) if scheme.zero == "none" else last - np.minimum(first, 0) <= codes
        found = fits & (times * usable == groups[waiting]).all(axis=1)
        done = waiting[found]
        step[done], low[done], high[done] = wished[found], first[found], last[found]
        waiting = waiting[~found]
    rest = waiting if scheme.zero == "code" else waiting[:0]
    low[rest] = np.rint(bottom[rest] / np.maximum(step[rest], np.finfo(np.float32).tiny))
    return step, low, high
