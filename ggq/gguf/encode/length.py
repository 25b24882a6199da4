"""Rows of few bits made as long as their weights: what is nearest is shorter, and so would all that is computed be.

Levels of least squared error leave an error e with <e, w> = -<e, e>: a row of q2_k gives 8 % less of its own direction.
Norms take that off some matrices, not off those that add to the residual or make scores. So the upper scales of a row
are multiplied with <w, w> / <w, q>, and its error is then as good as orthogonal to its weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggq.format.gguf.types import TYPES
from ggq.gguf.block_parts import Floats
from ggq.gguf.blocks import numbers, rows_of

UPPER_SCALES: dict[int, tuple[int, ...]] = {10: (80, 82), 11: (108,), 12: (0, 2)}
"""Types, and where their blocks have the f16 that all their numbers are multiples of."""

MOST = 1.25
"""Beyond this a row is left as it is: little of it has been kept, or it has too few weights that count."""


def lengthen(kind: int, rows: Floats, importance: Floats | None, blocks: NDArray[np.uint8]) -> None:
    """Multiply the upper scales of rows in place.

    Args:
        kind: A type in UPPER_SCALES.
        rows: The weights, float32 (rows, columns).
        importance: What errors count by column, float32, in any shape; None for all the same.
        blocks: uint8, C-contiguous: the blocks of the rows.
    """
    counts = np.ones(rows.shape[1]) if importance is None else importance.reshape(-1).astype(np.float64)
    stored = numbers(kind, rows_of(kind, blocks.reshape(-1), rows.shape))
    counted = rows * counts
    own, kept = np.einsum("rc,rc->r", counted, rows), np.einsum("rc,rc->r", counted, stored)
    there = (kept > 0) & (own < MOST * kept) & (own > kept / MOST)
    factors = np.where(there, own / np.where(there, kept, 1), 1)
    by_block = blocks.reshape(len(rows), -1, TYPES[kind].bytes)
    for at in UPPER_SCALES[kind]:
        halves = np.ascontiguousarray(by_block[..., at : at + 2]).view("<f2")[..., 0]
        longer = (halves * factors[:, None]).astype("<f2")
        by_block[..., at : at + 2] = np.where(np.isfinite(longer), longer, halves)[..., None].view(np.uint8)
