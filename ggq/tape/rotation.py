"""Rotary position embedding, as an operation needs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LAYOUTS = ("half", "pairs")
"""How the numbers of a head are paired; see `Rotation`."""


@dataclass(frozen=True)
class Rotation:
    """How the pairs of a head turn.

    Args:
        frequencies: Radians per position of each pair, context stretching included. Where they are fewer than half a
            head's numbers, the first 2 * len(frequencies) numbers of a head turn and the others stay.
        layout: "half": number i is paired with i + len(frequencies); "pairs": 2 i with 2 i + 1.
        scale: What cosines and sines are multiplied with (YaRN's attention factor).
        growth, period: They are multiplied with 1 + growth * ln(1 + floor(position / period)) too, as queries may be.
        long: The frequencies of all positions of a text of more than `boundary` tokens; empty where they are the same.
        boundary: Tokens of the longest text that has the others.
    """

    frequencies: tuple[float, ...]
    layout: str = "half"
    scale: float = 1.0
    growth: float = 0.0
    period: int = 1
    long: tuple[float, ...] = ()
    boundary: int = 0

    def table(self, positions: np.ndarray, long: np.ndarray | bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines, float64 (positions, pairs) each.

        Args:
            positions: int (positions,).
            long: Whether the text of each position, or of all, is a long one.
        """
        frequencies = np.array(self.frequencies)
        if self.long:
            frequencies = np.where(np.asarray(long)[..., None], self.long, frequencies)
        angles = positions[:, None] * frequencies
        scale = self.scale * (1 + self.growth * np.log(1 + positions // self.period))[:, None]
        return np.cos(angles) * scale, np.sin(angles) * scale

    def of_text(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The table of a whole text."""
        return self.table(np.arange(tokens), tokens > self.boundary)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of what kernels read, cosines and then sines: the positions of short texts, where the rotation tells
        them apart `boundary` of them, then those of long ones."""
        row = np.arange(start, stop)
        long = row >= self.boundary if self.long else np.zeros(len(row), np.bool_)
        return np.concatenate(self.table(np.where(long, row - self.boundary, row), long), axis=1).astype(np.float32)
