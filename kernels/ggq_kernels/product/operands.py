"""Where a row of a tape holds the operands of a product or of the embedding, in bytes from the row's beginning.

A float is a float64. Imports nothing of Numba's: kernels and those who make their rows read the same record.
"""

from __future__ import annotations

from typing import NamedTuple

ADD, COLUMNS, X_GROUP, X, X_SCALE, X_OFFSET, X_SUM, X_STRIDE = range(16, 80, 8)
"""Operands of a product; the others are linear.py's."""


class EmbedRow(NamedTuple):
    """Args:
    ids: Address of int64 token ids.
    columns: In use; `padded` are stored.
    values: Address of whole floats.
    matrix: Address of a descriptor (steps.py), for codes; `width0` and `width1` are the bits of their planes.
    order, factors: As the matrix's transform has them; 0 for none.
    scale: A float that every number is multiplied with.
    """

    tokens: int = 8
    ids: int = 16
    out: int = 24
    out_stride: int = 32
    columns: int = 40
    values: int = 48
    matrix: int = 56
    width0: int = 64
    width1: int = 72
    padded: int = 80
    order: int = 88
    factors: int = 96
    scale: int = 104


EMBED = EmbedRow()
