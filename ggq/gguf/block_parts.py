"""What the layouts of GGUF's blocks have in common: blocks, halves, nibbles and bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.quant.methods.published import FP4_TABLE

Blocks = NDArray[Any]  # of uint8; operators on it give types that depend on NumPy's version
Floats = NDArray[np.float32]

FP4 = FP4_TABLE.astype(np.float32)
"""Twice the numbers of E2M1."""


def f16_of(blocks: Blocks, start: int) -> NDArray[np.float16]:
    """One f16 of each block, (rows, blocks)."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2")[..., 0]


def nibbles(packed: Blocks) -> Blocks:
    """Low halves of all bytes, then high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def pairs(packed: Blocks) -> Blocks:
    """Low half and high half of each byte in turn."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def bits(packed: Blocks) -> Blocks:
    """The bits of all bytes, each byte's lowest first."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=-1, bitorder="little")


def words(packed: Blocks, kind: str) -> NDArray[Any]:
    """Bytes as unsigned numbers of several bytes."""
    return np.ascontiguousarray(packed).view(kind)
