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
    """

    frequencies: tuple[float, ...]
    layout: str = "half"
    scale: float = 1.0
    growth: float = 0.0
    period: int = 1

    def table(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines, float64 (positions, pairs) each."""
        angles = positions[:, None] * np.array(self.frequencies)
        scale = self.scale * (1 + self.growth * np.log(1 + positions // self.period))[:, None]
        return np.cos(angles) * scale, np.sin(angles) * scale
