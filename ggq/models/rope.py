"""How fast each pair of a head turns per position."""

from __future__ import annotations

import math

import numpy as np

from ggq.models.config import RopeConfig


def frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Angles per position of the rotated pairs, context stretching included.

    Args:
        rope: Base and scaling.
        head_dim: Numbers in a head, even.

    Returns:
        float64 (head_dim / 2,), radians per position; pair i is (i, i + head_dim / 2) or (2 i, 2 i + 1) by the layout.

    Source: Su et al. 2021, section 3.2.2; for "llama3", the Llama 3.1 release.
    """
    plain: np.ndarray = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return plain if rope.scaling == "none" else llama3(plain, rope)


def llama3(plain: np.ndarray, rope: RopeConfig) -> np.ndarray:
    """Slow pairs are slowed by `factor`, fast ones kept, and those between blended by their wavelength."""
    turns = rope.original_context_length * plain / (2 * math.pi)  # full turns within the original context
    width = rope.high_frequency_factor - rope.low_frequency_factor
    kept = np.clip((turns - rope.low_frequency_factor) / width, 0.0, 1.0)
    scaled: np.ndarray = kept * plain + (1 - kept) * plain / rope.factor
    return scaled
