"""Levels that make up for each other's errors under the statistics of the inputs, for steps that are chosen already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggq.gguf.encode.sums import Floats, inverse_of
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods.gptq import BLOCK_COLUMNS, STATIC_GROUP, feedback, round_block


@dataclass(frozen=True, eq=False)
class Steps:
    """Levels of the groups of some rows: level * step - shift.

    Args:
        step, shift: float32 (rows, groups).
        low, high: The least and the largest level; codes count from the least.
    """

    step: Floats
    shift: Floats
    low: int
    high: int

    def nearest(self, weights: Floats, group: int) -> NDArray[np.uint8]:
        """Codes of weights (rows, k) of a group."""
        moved = (weights + self.shift[:, group, None]) * inverse_of(self.step[:, group, None])
        return (np.clip(np.rint(moved), self.low, self.high) - self.low).astype(np.uint8)

    def values(self, codes: NDArray[np.uint8], group: int) -> Floats:
        """What codes (rows, k) of a group stand for."""
        levels = codes.astype(np.float32) + np.float32(self.low)
        return np.asarray(levels * self.step[:, group, None] - self.shift[:, group, None], np.float32)


def rounded(weights: Floats, inputs: InputStatistics, steps: Steps) -> NDArray[np.uint8]:
    """Codes of a matrix, or of some of its rows.

    Args:
        weights: float32 (rows, columns).
        inputs: Of the matrix, with their gram.
        steps: Of its groups, which are equally wide.

    Returns:
        uint8 (rows, columns).
    """
    columns, group = weights.shape[1], weights.shape[1] // steps.step.shape[1]
    found = feedback(inputs, STATIC_GROUP + 1)
    order, factor = found.order, found.factor
    codes, errors = np.empty(weights.shape, np.uint8), np.zeros_like(weights)
    for start in range(0, columns, BLOCK_COLUMNS):
        places = slice(start, min(start + BLOCK_COLUMNS, columns))
        block = order[places]
        target = weights[:, block] + errors[:, :start] @ factor[:start, places]
        made = round_block(weights[:, block], target, factor[places, places], steps, block // group)
        codes[:, block], errors[:, places] = made
    return codes
