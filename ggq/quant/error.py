"""How far decoded weights are from the weights they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log10, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggq.format.scheme import Scheme
from ggq.quant.floats import source_type, to_float32
from ggq.quant.tensors import decoded_blocks
from ggq.quant.tiles import as_segments

PART_WEIGHTS = 1 << 15
"""Weights of which the error is computed at once; as float64 they fit in a core's cache: four times as fast."""


class Error(NamedTuple):
    """Error of decoded weights: root of summed squares over that of the weights, the same in dB, and the largest."""

    relative_rmse: float
    sqnr_db: float
    max_error: float


def error(weights: NDArray[np.float32], decoded: NDArray[np.float32]) -> Error:
    """The error of decoded weights, summed in float64.

    Args:
        weights: float32, any shape.
        decoded: float32, same shape.

    Returns:
        relative_rmse is 0 where all weights are exact, infinite where zeros became something else; sqnr_db is
        -20 log10 of it (infinite where exact); max_error is the largest |weight - decoded|.
    """
    total = ErrorSum()
    total.add(weights, decoded)
    return total.error()


def tensor_error(weights: NDArray[Any], scheme: Scheme, segments: Mapping[str, Any]) -> Error:
    """The error of a tensor's segments, decoded block by block so that memory stays small.

    Args:
        weights: float32, float16 or uint16 (the bits of bf16), as given to `encode_tensor`.
        scheme: Of the segments.
        segments: From `encode_tensor`.
    """
    sizes, flat = as_segments(scheme, weights.shape, segments)
    matrices, dtype, total = weights.reshape(sizes.count, sizes.rows, sizes.columns), source_type(weights), ErrorSum()
    for index, rows, block in decoded_blocks(scheme, weights.shape, sizes, flat):
        total.add(to_float32(matrices[index, rows], dtype), block)
    return total.error()


@dataclass
class ErrorSum:
    """The error of a tensor that is decoded part by part: sums of squared errors and weights, and the largest error."""

    wrong: float = 0.0
    signal: float = 0.0
    largest: float = 0.0

    def add(self, weights: NDArray[np.float32], decoded: NDArray[np.float32]) -> None:
        """Count a part in."""
        whole, other = weights.reshape(-1), decoded.reshape(-1)
        for start in range(0, whole.size, PART_WEIGHTS):
            exact = whole[start : start + PART_WEIGHTS].astype(np.float64)
            difference = exact - other[start : start + PART_WEIGHTS]
            self.largest = max(self.largest, float(difference.max()), -float(difference.min()))
            self.wrong += float(np.square(difference, out=difference).sum())
            self.signal += float(np.square(exact, out=exact).sum())

    def merge(self, other: ErrorSum) -> None:
        """Count in what another sum has counted; the order of such calls decides how the sums round."""
        self.wrong += other.wrong
        self.signal += other.signal
        self.largest = max(self.largest, other.largest)

    def error(self) -> Error:
        """The error of all parts together."""
        if self.wrong == 0:
            return Error(0.0, inf, self.largest)
        if self.signal == 0:
            return Error(inf, -inf, self.largest)
        relative = sqrt(self.wrong / self.signal)
        return Error(relative, -20 * log10(relative), self.largest)
